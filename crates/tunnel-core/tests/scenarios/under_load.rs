//! Under load, handshakes must prove their source address with a cookie.

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, Kind, World, kinds, ping, seconds},
};

#[test]
fn a_loaded_responder_answers_with_a_cookie_and_the_retry_succeeds() {
    let mut world: World<ProbeIdentity> = World::pair();
    let sessions = probe::sessions();
    probe::set_under_load(true);
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::CookieReply]);
    assert_eq!(probe::sessions(), sessions + 1, "A's; B made none for a source that is not proven");
    assert_eq!(world.peer(B, A).endpoint, None, "nor did it learn anything");
    assert_eq!(world.nodes[B].drops(), [("rx_under_load", 1)]);
    assert_eq!(world.nodes[B].count("cookies_sent"), 1);
    assert_eq!(world.nodes[A].count("cookies_received"), 1);
    assert_eq!(world.peer(A, B).rx_bytes, 0, "a cookie reply is no sign of life from the peer");

    // B's response would need A's cookie in turn: only B is loaded from here on.
    world.wire.clear();
    world.drive(seconds(4));
    assert_eq!(kinds(&world.wire), [], "a cookie does not hurry the retry");
    world.nodes[A].unplugged = true; // so that B alone classifies
    world.drive(seconds(2));
    let retry = world.wire.pop().unwrap();
    world.arrive(B, &retry.bytes, retry.arrival());
    probe::set_under_load(false);
    world.nodes[A].unplugged = false;
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
}

#[test]
fn a_cookie_reply_does_not_move_the_endpoint() {
    let mut world: World<ProbeIdentity> = World::pair();
    probe::set_under_load(true);
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let reply = world.intercept(B).remove(0);
    let before = world.peer(A, B).endpoint;
    world.arrive(A, &reply.bytes, tunnel_core::Arrival::from("198.51.100.66:1".parse().unwrap()));
    assert_eq!(world.nodes[A].count("cookies_received"), 1);
    assert_eq!(world.peer(A, B).endpoint, before);
    probe::set_under_load(false);
}
