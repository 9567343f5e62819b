//! Under load, handshakes must prove their source address with a cookie.

use encrypt::Identity;
use tunnel_core::TunnelConfig;

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, Kind, World, kinds, on_every_backend, ping, seconds},
};

on_every_backend! {
    a_loaded_responder_answers_with_a_cookie_and_the_retry_succeeds,
    a_cookie_reply_does_not_move_the_endpoint,
}

/// B takes every handshake for a load.
fn loaded_pair<I: Identity>() -> World<I> {
    let b = TunnelConfig { handshake_backlog: 0, ..TunnelConfig::default() };
    World::pair_of(TunnelConfig::default(), b)
}

fn a_loaded_responder_answers_with_a_cookie_and_the_retry_succeeds<I: Identity>() {
    let mut world: World<I> = loaded_pair();
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::CookieReply]);
    assert_eq!(world.peer(B, A).endpoint, None, "B learned nothing");
    assert_eq!(world.nodes[B].drops(), [("rx_under_load", 1)]);
    assert_eq!(world.nodes[B].count("cookies_sent"), 1);
    assert_eq!(world.nodes[A].count("cookies_received"), 1);
    assert_eq!(world.peer(A, B).rx_bytes, 0, "a cookie reply is no sign of life from the peer");

    world.wire.clear();
    world.drive(seconds(4));
    assert_eq!(kinds(&world.wire), [], "a cookie does not hurry the retry");
    world.drive(seconds(2));
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
}

#[test]
fn a_loaded_responder_makes_no_session_for_a_source_that_is_not_proven() {
    let mut world: World<ProbeIdentity> = loaded_pair();
    let sessions = probe::sessions();
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(probe::sessions(), sessions + 1, "A's; B made none");
}

fn a_cookie_reply_does_not_move_the_endpoint<I: Identity>() {
    let mut world: World<I> = loaded_pair();
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let reply = world.intercept(B).remove(0);
    let before = world.peer(A, B).endpoint;
    world.arrive(A, &reply.bytes, tunnel_core::Arrival::from("198.51.100.66:1".parse().unwrap()));
    assert_eq!(world.nodes[A].count("cookies_received"), 1);
    assert_eq!(world.peer(A, B).endpoint, before);
}
