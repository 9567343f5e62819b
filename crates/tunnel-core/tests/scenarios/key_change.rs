//! Changing the private key renews every session and keeps everything else.

use encrypt::{Identity, PrivateKey};
use tunnel_core::{PeerUpdate, TunnelUpdate};

use crate::world::{A, B, Kind, World, add, kinds, on_every_backend, ping, seconds};

on_every_backend! {
    a_new_key_ends_the_sessions_and_keeps_counters_endpoints_and_prefixes,
    packets_that_wait_survive_a_new_key,
    without_a_key_the_tunnel_is_silent_and_says_why,
    taking_a_peers_key_removes_that_peer,
}

fn set_key<I: Identity>(world: &mut World<I>, node: usize, key: Option<PrivateKey>) {
    world.try_update(node, TunnelUpdate { private_key: Some(key), ..TunnelUpdate::default() }).unwrap();
}

fn a_new_key_ends_the_sessions_and_keeps_counters_endpoints_and_prefixes<I: Identity>() {
    let mut world: World<I> = World::connected();
    let before = world.peer(A, B);
    let key = PrivateKey::from_bytes([77; 32]);
    set_key(&mut world, A, Some(key.clone()));
    assert_eq!(format!("{:?}", world.peer(A, B)), format!("{before:?}"));
    assert_eq!(world.nodes[A].tunnel.public_key(), Some(key.public_key()));

    let mut renamed = PeerUpdate::new(key.public_key());
    renamed.allowed_ips = vec![add("10.0.0.1/32")];
    world.update(B, renamed);
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive, Kind::Data]);
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
}

fn packets_that_wait_survive_a_new_key<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    world.intercept(A);
    let key = PrivateKey::from_bytes([77; 32]);
    let mut renamed = PeerUpdate::new(key.public_key());
    renamed.allowed_ips = vec![add("10.0.0.1/32")];
    world.update(B, renamed);
    set_key(&mut world, A, Some(key));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
}

fn without_a_key_the_tunnel_is_silent_and_says_why<I: Identity>() {
    let mut world: World<I> = World::connected();
    world.send(B, &ping(B, A, 9));
    let late = world.intercept(B).remove(0);
    set_key(&mut world, A, None);
    world.send(A, &ping(A, B, 1));
    world.arrive(A, &late.bytes, late.arrival());
    world.drive(seconds(1000));
    assert_eq!(world.sent_by(A), []);
    let handshakes = world.sent_by(B).len() as u64; // B doubts the session, and asks in vain
    assert_eq!(world.nodes[A].drops(), [("tx_no_private_key", 1), ("rx_no_private_key", 1 + handshakes)]);
    assert!(world.nodes[A].tunnel.private_key().is_none() && world.nodes[A].tunnel.public_key().is_none());

    let key = world.nodes[A].key.clone();
    set_key(&mut world, A, Some(key));
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 2)]);
}

fn taking_a_peers_key_removes_that_peer<I: Identity>() {
    let mut world: World<I> = World::connected();
    let key = world.nodes[B].key.clone();
    set_key(&mut world, A, Some(key));
    assert_eq!(world.nodes[A].tunnel.peer_count(), 0);
    world.send(A, &ping(A, B, 1));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 1)]);
}

/// Whoever recorded it could otherwise move the endpoint to wherever they send it from.
fn initiations_from_before_stay_refused_when_the_private_key_comes_back<I: Identity>() {
    for between in [None, Some(PrivateKey::from_bytes([77; 32]))] {
        let mut world: World<I> = World::pair();
        world.send(A, &ping(A, B, 1));
        let recorded = world.intercept(A).remove(0);
        world.arrive(B, &recorded.bytes, recorded.arrival());
        world.settle();
        let before = world.peer(B, A).endpoint;
        let key = world.nodes[B].key.clone();
        set_key(&mut world, B, between.clone());
        set_key(&mut world, B, between);
        set_key(&mut world, B, Some(key));
        world.now += seconds(1);
        world.arrive(B, &recorded.bytes, tunnel_core::Arrival::from("198.51.100.7:7".parse().unwrap()));
        assert_eq!(world.nodes[B].drops(), [("rx_replayed_handshake", 1)]);
        assert_eq!(world.peer(B, A).endpoint, before);
        assert_eq!(world.intercept(B), []);
        world.send(A, &ping(A, B, 2));
        world.drive(seconds(30));
        world.send(A, &ping(A, B, 3));
        world.drive(seconds(6));
        assert_eq!(world.nodes[B].delivered.last(), Some(&ping(A, B, 3)), "what is newer is answered");
    }
}

#[test]
fn deterministic_initiations_from_before_stay_refused_when_the_private_key_comes_back() {
    initiations_from_before_stay_refused_when_the_private_key_comes_back::<crate::probe::ProbeIdentity>();
}

#[test]
fn native_initiations_from_before_stay_refused_when_the_private_key_comes_back() {
    initiations_from_before_stay_refused_when_the_private_key_comes_back::<crate::native::Simulated>();
}
