//! Thousands of peers that have nothing to do cost nothing.

use encrypt::{PrivateKey, PublicKey};
use tunnel_core::{PeerUpdate, TunnelUpdate};

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, World, add, ping, seconds},
};

const PEERS: u32 = 10_000;

fn crowd() -> Vec<PeerUpdate> {
    let peer = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        let mut key = [0xcc; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        peer.endpoint = Some("198.51.100.1:51820".parse().unwrap());
        peer.allowed_ips = vec![add(&format!("172.{a}.{b}.{c}/32")), add(&format!("fd01::{n:x}/128"))];
        peer
    };
    (0..PEERS).map(peer).collect()
}

#[test]
fn peers_that_never_spoke_have_no_session_and_are_never_touched() {
    let mut world: World<ProbeIdentity> = World::connected();
    let sessions = probe::sessions();
    let update = TunnelUpdate { peers: crowd(), ..TunnelUpdate::default() };
    world.try_update(A, update).unwrap();
    assert_eq!(world.nodes[A].tunnel.peer_count(), 10_001);
    assert_eq!(probe::sessions(), sessions, "a session is made when it is needed");

    let before = probe::calls();
    for n in 0..60 {
        world.send(A, &ping(A, B, n));
        world.drive(seconds(1));
    }
    let calls = probe::calls() - before;
    assert!(calls < 60 * 30, "{calls} calls for one busy peer in a minute");
}

#[test]
fn peers_that_fell_silent_are_touched_only_when_due() {
    let mut world: World<ProbeIdentity> = World::connected();
    let crowd: Vec<PeerUpdate> = crowd().into_iter().take(1000).collect();
    world.try_update(A, TunnelUpdate { peers: crowd, ..TunnelUpdate::default() }).unwrap();
    for n in 0..1000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let destination = format!("172.{a}.{b}.{c}");
        world.send(A, &crate::world::packet("10.0.0.1", &destination, gso_queue::Ecn::NotEct, b"anyone?"));
    }
    world.drive(seconds(100)); // all are tried, then given up
    assert_eq!(world.nodes[A].count("tx_handshake_expired"), 1000);
    let before = probe::calls();
    world.drive(seconds(100_000));
    assert!(probe::calls() - before < 20_000, "{} calls in a day of silence", probe::calls() - before);
    assert_eq!(world.nodes[A].tunnel.poll_timeout(), None);
}

#[test]
fn ten_thousand_peers_can_be_replaced_and_rekeyed() {
    let mut world: World<ProbeIdentity> = World::pair();
    let sessions = probe::sessions();
    for _ in 0..3 {
        let update = TunnelUpdate {
            private_key: Some(Some(PrivateKey::from_bytes([50; 32]))),
            replace_peers: true,
            peers: crowd(),
        };
        world.try_update(A, update).unwrap();
    }
    assert_eq!(world.nodes[A].tunnel.peers().count(), 10_000);
    assert_eq!(probe::sessions(), sessions);
}
