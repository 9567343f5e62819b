//! "Latest handshake": a handshake counts when the peer has shown that it has the keys, not when it was answered.

use encrypt::{Identity, REKEY_AFTER_TIME};

use crate::world::{A, B, Kind, World, kinds, on_every_backend, ping, seconds};

on_every_backend! {
    a_responder_whose_answers_never_arrive_has_no_handshake,
    the_responders_handshake_is_the_first_message_under_the_new_keys,
    a_renewal_that_is_not_confirmed_leaves_the_latest_handshake_where_it_was,
}

fn a_responder_whose_answers_never_arrive_has_no_handshake<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    for _ in 0..5 {
        for initiation in world.intercept(A) {
            world.arrive(B, &initiation.bytes, initiation.arrival());
        }
        assert_eq!(kinds(&world.intercept(B)), [Kind::Response], "which is lost");
        world.now += seconds(6);
        let node = &mut world.nodes[A];
        node.tunnel.handle_timeout(world.now, &mut node.sink);
    }
    assert_eq!(world.nodes[B].count("responses_sent"), 5);
    assert_eq!(world.peer(B, A).last_handshake, None);
    assert_eq!(world.peer(A, B).last_handshake, None);
    assert!(world.peer(B, A).rx_bytes > 0, "though it was heard from");
}

fn the_responders_handshake_is_the_first_message_under_the_new_keys<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);

    world.now += seconds(1);
    world.arrive(A, &response.bytes, response.arrival());
    assert_eq!(world.peer(A, B).last_handshake, Some(world.now));
    assert_eq!(world.peer(B, A).last_handshake, None, "not yet");

    // The confirmation is lost; the packet that waited comes a second later and tells as much.
    let [_, data] = &world.intercept(A)[..] else { panic!("a keepalive and the packet") };
    world.now += seconds(1);
    let confirmed = world.now;
    assert_eq!(world.arrive(B, &data.bytes, data.arrival()), Some(ping(A, B, 1)));
    assert_eq!(world.peer(B, A).last_handshake, Some(confirmed));

    world.now += seconds(1);
    for (from, to) in [(A, B), (B, A)] {
        world.send(from, &ping(from, to, 2));
        world.settle();
    }
    assert_eq!(world.peer(B, A).last_handshake, Some(confirmed), "once per session");
    assert_eq!(world.peer(A, B).last_handshake, Some(confirmed - seconds(1)));
}

fn a_renewal_that_is_not_confirmed_leaves_the_latest_handshake_where_it_was<I: Identity>() {
    let mut world: World<I> = World::connected();
    let first = world.peer(B, A).last_handshake;
    assert_eq!(first, Some(world.now));
    world.drive(REKEY_AFTER_TIME);
    world.send(A, &ping(A, B, 1));
    world.now += seconds(1);
    let node = &mut world.nodes[A];
    node.tunnel.handle_timeout(world.now, &mut node.sink);
    let [data, initiation] = &world.intercept(A)[..] else { panic!("a packet and the renewal") };
    world.arrive(B, &data.bytes, data.arrival());
    world.arrive(B, &initiation.bytes, initiation.arrival());
    assert_eq!(world.peer(B, A).last_handshake, first, "answered, not confirmed");

    world.settle();
    assert_eq!(world.peer(B, A).last_handshake, Some(world.now));
    assert_eq!(world.peer(A, B).last_handshake, Some(world.now));
}
