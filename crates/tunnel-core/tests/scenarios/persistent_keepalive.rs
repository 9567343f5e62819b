//! The persistent keepalive belongs to the tunnel: changing it never costs a session.

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, Kind, World, kinds, ping, seconds},
};

fn set_keepalive(world: &mut World<ProbeIdentity>, interval: u16) {
    let mut peer = world.about(B);
    peer.persistent_keepalive = Some(interval);
    world.update(A, peer);
}

#[test]
fn turning_it_on_without_a_session_starts_the_handshake() {
    let mut world: World<ProbeIdentity> = World::pair();
    set_keepalive(&mut world, 25);
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive]);
    assert!(world.peer(A, B).last_handshake.is_some());
}

#[test]
fn turning_it_on_sends_one_at_once_and_keeps_the_session() {
    let mut world: World<ProbeIdentity> = World::connected();
    let sessions = probe::sessions();
    set_keepalive(&mut world, 25);
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Keepalive]);
    set_keepalive(&mut world, 25);
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Keepalive], "it was on already");
    for interval in [10, 65_535, 0] {
        set_keepalive(&mut world, interval);
    }
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Keepalive, Kind::Data]);
    assert_eq!(probe::sessions(), sessions);
}

#[test]
fn one_goes_out_per_interval_of_silence() {
    let mut world: World<ProbeIdentity> = World::connected();
    set_keepalive(&mut world, 25);
    world.settle();
    world.wire.clear();
    world.drive(seconds(24));
    assert_eq!(world.sent_by(A), []);
    world.drive(seconds(2));
    assert_eq!(world.sent_by(A), [Kind::Keepalive]);
    for _ in 0..4 {
        world.drive(seconds(20));
        world.send(A, &ping(A, B, 1));
    }
    world.settle();
    let keepalives = world.sent_by(A).into_iter().filter(|kind| *kind == Kind::Keepalive).count();
    assert_eq!(keepalives, 1, "data is as good as a keepalive");
}

#[test]
fn hearing_from_the_peer_does_not_put_it_off() {
    let mut world: World<ProbeIdentity> = World::connected();
    let mut peer = world.about(A);
    peer.persistent_keepalive = Some(1);
    world.update(B, peer); // what keeps *our* NAT's mapping is what *we* send
    set_keepalive(&mut world, 25);
    world.settle();
    world.wire.clear();
    world.drive(seconds(26));
    assert_eq!(world.sent_by(A), [Kind::Keepalive]);
}

#[test]
fn it_keeps_a_session_for_hours_and_finds_a_peer_that_was_away() {
    let mut world: World<ProbeIdentity> = World::pair();
    set_keepalive(&mut world, 25);
    world.drive(seconds(3600));
    assert!(world.peer(A, B).last_handshake.is_some_and(|at| world.now - at < seconds(180)));
    world.nodes[B].unplugged = true;
    world.drive(seconds(3600));
    world.nodes[B].unplugged = false;
    world.drive(seconds(30));
    assert!(world.peer(A, B).last_handshake.is_some_and(|at| world.now - at <= seconds(30)));
    world.send(B, &ping(B, A, 1));
    world.settle();
    assert_eq!(world.nodes[A].delivered, [ping(B, A, 1)]);
}

#[test]
fn turned_off_it_is_silent() {
    let mut world: World<ProbeIdentity> = World::connected();
    set_keepalive(&mut world, 25);
    world.settle();
    set_keepalive(&mut world, 0);
    world.wire.clear();
    world.drive(seconds(1000));
    assert_eq!(world.sent_by(A), []);
}

#[test]
fn without_an_endpoint_it_waits_for_one() {
    let mut world: World<ProbeIdentity> = World::pair();
    let mut peer = world.about(A);
    peer.persistent_keepalive = Some(5);
    world.update(B, peer);
    world.drive(seconds(20));
    assert_eq!(kinds(&world.wire), []);
    let mut peer = world.about(A);
    peer.endpoint = Some(world.nodes[A].address);
    world.update(B, peer);
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive]);
}

#[test]
fn one_set_before_the_private_key_starts_with_the_key() {
    let mut world: World<ProbeIdentity> = World::pair();
    let key = world.nodes[A].key.clone();
    let set = |key| tunnel_core::TunnelUpdate { private_key: Some(key), ..Default::default() };
    world.try_update(A, set(None)).unwrap();
    set_keepalive(&mut world, 25);
    world.drive(seconds(60));
    assert_eq!(kinds(&world.wire), []);
    world.try_update(A, set(Some(key))).unwrap();
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive]);
}
