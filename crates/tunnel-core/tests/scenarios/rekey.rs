//! Sessions are renewed under traffic without losing a packet.

use std::time::Duration;

use encrypt::{Identity, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_TIMEOUT};

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, Kind, World, kinds, on_every_backend, ping, serial},
};

on_every_backend! {
    ten_minutes_of_traffic_cross_every_rekey_without_loss,
}

fn ten_minutes_of_traffic_cross_every_rekey_without_loss<I: Identity>() {
    let mut world: World<I> = World::pair();
    let tick = Duration::from_millis(250);
    let ticks = 600 * 4;
    for n in 0..ticks {
        world.send(A, &ping(A, B, n));
        world.send(B, &ping(B, A, n)); // B learns where A is from the first packet
        world.drive(tick);
    }
    let received =
        |node: usize| -> Vec<u32> { world.nodes[node].delivered.iter().map(|p| serial(p)).collect() };
    assert_eq!(received(B), Vec::from_iter(0..ticks));
    assert_eq!(received(A), Vec::from_iter(1..ticks), "all but the one before B knew where A was");
    let initiations = kinds(&world.wire).into_iter().filter(|kind| *kind == Kind::Initiation).count() as u64;
    assert_eq!(initiations, 600 / REKEY_AFTER_TIME.as_secs(), "one per REKEY_AFTER_TIME, from one side only");
    assert_eq!(world.nodes[A].drops(), []);
    assert_eq!(world.nodes[B].drops(), [("tx_no_endpoint", 1)]);
}

#[test]
fn a_session_that_has_sent_enough_messages_is_renewed() {
    let mut world: World<ProbeIdentity> = World::connected();
    world.drive(REKEY_TIMEOUT);
    probe::set_messages_sent(REKEY_AFTER_MESSAGES - 1);
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Data, Kind::Initiation, Kind::Response, Kind::Keepalive]);
    world.wire.clear();
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Data], "and only once");
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1), ping(A, B, 2)]);
}

#[test]
fn a_session_that_may_send_no_more_makes_packets_wait_for_the_next() {
    let mut world: World<ProbeIdentity> = World::connected();
    world.drive(REKEY_TIMEOUT);
    probe::set_messages_sent(u64::MAX);
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive, Kind::Data]);
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
}
