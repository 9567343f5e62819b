//! Changing the private key renews every session and keeps everything else.

use encrypt::{PrivateKey, deterministic::InsecureIdentity};
use tunnel_core::{PeerUpdate, TunnelConfig, TunnelUpdate};

use crate::world::{A, B, Kind, World, add, kinds, ping, seconds};

fn set_key(world: &mut World<InsecureIdentity>, node: usize, key: Option<PrivateKey>) {
    world.try_update(node, TunnelUpdate { private_key: Some(key), ..TunnelUpdate::default() }).unwrap();
}

#[test]
fn a_new_key_ends_the_sessions_and_keeps_counters_endpoints_and_prefixes() {
    let mut world: World<InsecureIdentity> = World::connected_with(TunnelConfig::default());
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

#[test]
fn packets_that_wait_survive_a_new_key() {
    let mut world: World<InsecureIdentity> = World::pair_with(TunnelConfig::default());
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

#[test]
fn without_a_key_the_tunnel_is_silent_and_says_why() {
    let mut world: World<InsecureIdentity> = World::connected_with(TunnelConfig::default());
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

#[test]
fn taking_a_peers_key_removes_that_peer() {
    let mut world: World<InsecureIdentity> = World::connected_with(TunnelConfig::default());
    let key = world.nodes[B].key.clone();
    set_key(&mut world, A, Some(key));
    assert_eq!(world.nodes[A].tunnel.peer_count(), 0);
    world.send(A, &ping(A, B, 1));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 1)]);
}
