//! Updates apply whole or not at all, and touch only what they change.

use encrypt::{PresharedKey, PrivateKey, PublicKey, REJECT_AFTER_TIME};
use tunnel_core::{PeerUpdate, TunnelConfig, TunnelUpdate, UpdateError};

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, Kind, World, add, kinds, ping, seconds},
};

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn new_peer(n: u8) -> PeerUpdate {
    PeerUpdate { allowed_ips: vec![add(&format!("10.77.{n}.0/24"))], ..PeerUpdate::new(key(n)) }
}

fn peers(world: &World<ProbeIdentity>, node: usize) -> Vec<PublicKey> {
    world.nodes[node].tunnel.peers().map(|peer| peer.public_key).collect()
}

#[test]
fn an_update_with_too_many_peers_changes_nothing() {
    let config = TunnelConfig { max_peers: 3, ..TunnelConfig::default() };
    let mut world: World<ProbeIdentity> = World::connected_with(config);
    let before = format!("{:?}", world.nodes[A].tunnel.peers().collect::<Vec<_>>());
    let mut b = world.about(B);
    b.persistent_keepalive = Some(9);
    let update = TunnelUpdate {
        private_key: Some(None),
        replace_peers: false,
        peers: vec![b, new_peer(100), new_peer(101), new_peer(102)],
    };
    assert_eq!(world.try_update(A, update.clone()), Err(UpdateError::TooManyPeers(3)));
    assert_eq!(format!("{:?}", world.nodes[A].tunnel.peers().collect::<Vec<_>>()), before);
    assert!(world.nodes[A].tunnel.private_key().is_some());
    world.send(A, &ping(A, B, 1));
    assert_eq!(kinds(&world.intercept(A)), [Kind::Data], "the session lives on");

    let mut removal = new_peer(100);
    removal.remove = true;
    let mut only_if_there = new_peer(103);
    only_if_there.update_only = true;
    let peers = vec![new_peer(100), new_peer(101), removal, new_peer(102), only_if_there];
    let fits = TunnelUpdate { peers, ..TunnelUpdate::default() };
    assert_eq!(world.try_update(A, fits), Ok(()));
    let replaced = TunnelUpdate { replace_peers: true, private_key: None, ..update };
    assert_eq!(world.try_update(A, replaced), Err(UpdateError::TooManyPeers(3)));
}

#[test]
fn peers_are_listed_in_order_of_creation() {
    let mut world: World<ProbeIdentity> = World::pair();
    for n in [150, 130, 140] {
        world.update(A, new_peer(n));
    }
    let b = world.nodes[B].public_key();
    assert_eq!(peers(&world, A), [b, key(150), key(130), key(140)]);
    world.update(A, PeerUpdate { remove: true, ..PeerUpdate::new(key(130)) });
    world.update(A, new_peer(130));
    assert_eq!(peers(&world, A), [b, key(150), key(140), key(130)]);
    for _ in 0..100 {
        // Long enough for low indices to be used again.
        world.update(A, PeerUpdate { remove: true, ..PeerUpdate::new(key(150)) });
        world.update(A, new_peer(150));
        assert_eq!(peers(&world, A), [b, key(140), key(130), key(150)]);
    }
    assert_eq!(world.nodes[A].tunnel.peer_count(), 4);
}

#[test]
fn update_only_and_remove_never_create() {
    let mut world: World<ProbeIdentity> = World::pair();
    world.update(A, PeerUpdate { update_only: true, ..new_peer(100) });
    world.update(A, PeerUpdate { remove: true, ..new_peer(100) });
    assert_eq!(world.nodes[A].tunnel.peer_count(), 1);
    let mut b = world.about(B);
    b.update_only = true;
    b.persistent_keepalive = Some(7);
    world.update(A, b);
    assert_eq!(world.peer(A, B).persistent_keepalive, 7);
}

#[test]
fn a_peer_with_our_own_key_is_ignored() {
    let mut world: World<ProbeIdentity> = World::pair();
    let ourselves = world.about(A);
    world.update(A, PeerUpdate { allowed_ips: vec![add("10.0.0.2/32")], ..ourselves });
    assert_eq!(peers(&world, A), [world.nodes[B].public_key()]);
    assert_eq!(world.peer(A, B).allowed_ips.len(), 2, "nor does it take anybody's prefix");
}

#[test]
fn configuration_alone_starts_no_handshake() {
    let mut world: World<ProbeIdentity> = World::pair();
    world.drive(seconds(1000));
    assert_eq!(world.wire, []);
    assert_eq!(world.nodes[A].tunnel.poll_timeout(), None);
}

#[test]
fn setting_what_is_set_already_keeps_the_session() {
    let mut world: World<ProbeIdentity> = World::connected();
    let sessions = probe::sessions();
    let mut b = world.about(B);
    b.endpoint = Some(world.nodes[B].address);
    b.preshared_key = Some(None);
    b.persistent_keepalive = Some(0);
    let own = world.nodes[A].key.clone();
    let update = TunnelUpdate { private_key: Some(Some(own)), peers: vec![b], ..TunnelUpdate::default() };
    world.try_update(A, update).unwrap();
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Data]);
    assert_eq!(probe::sessions(), sessions);
}

#[test]
fn replacing_peers_makes_one_that_stays_anew() {
    let mut world: World<ProbeIdentity> = World::connected();
    world.update(A, new_peer(100));
    let mut b = world.about(B);
    b.persistent_keepalive = Some(25);
    world.update(A, b);
    world.settle();
    world.wire.clear();

    assert!(world.peer(A, B).tx_bytes > 0 && world.peer(A, B).last_handshake.is_some());
    let mut b = world.about(B);
    b.allowed_ips = vec![add("10.0.0.2/32")];
    let update = TunnelUpdate { replace_peers: true, peers: vec![b], ..TunnelUpdate::default() };
    world.try_update(A, update.clone()).unwrap();
    assert_eq!(peers(&world, A), [world.nodes[B].public_key()]);
    let after = world.peer(A, B);
    assert_eq!(after.persistent_keepalive, 0);
    assert_eq!(after.allowed_ips, ["10.0.0.2/32".parse().unwrap()]);
    assert_eq!((after.endpoint, after.last_handshake, after.tx_bytes, after.rx_bytes), (None, None, 0, 0));
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [], "nobody knows where the peer is");

    let mut named_twice = update;
    named_twice.peers[0].endpoint = Some(world.nodes[B].address);
    let mut more = world.about(B);
    more.persistent_keepalive = Some(7);
    named_twice.peers.push(more);
    world.try_update(A, named_twice).unwrap();
    let peer = world.peer(A, B);
    assert_eq!(peer.endpoint, Some(world.nodes[B].address), "the second adds to it");
    assert_eq!(peer.persistent_keepalive, 7);
    world.pause();
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered.last(), Some(&ping(A, B, 2)), "a new session");
}

#[test]
fn an_ipv4_endpoint_in_ipv6_clothes_is_an_ipv4_endpoint() {
    let mut world: World<ProbeIdentity> = World::pair();
    let mut b = world.about(B);
    for (written, meant) in [
        ("[::ffff:192.0.2.7]:51820", "192.0.2.7:51820"),
        ("[::ffff:c000:207]:1", "192.0.2.7:1"),
        ("[2001:db8::1]:2", "[2001:db8::1]:2"),
        ("[fe80::1%3]:3", "[fe80::1%3]:3"),
        ("[::192.0.2.7]:4", "[::192.0.2.7]:4"),
    ] {
        b.endpoint = Some(written.parse().unwrap());
        world.update(A, b.clone());
        let endpoint = world.peer(A, B).endpoint;
        assert_eq!(endpoint, Some(meant.parse().unwrap()), "{written}");
    }
}

#[test]
fn a_private_key_is_kept_as_x25519_uses_it() {
    let mut world: World<ProbeIdentity> = World::connected();
    let own = world.nodes[A].key.clone();
    let mut bytes = *own.clone().clamped().as_bytes();
    let clamped = PrivateKey::from_bytes(bytes);
    bytes[0] |= 0b0000_0111;
    bytes[31] ^= 0b1100_0000;
    let set = |world: &mut World<ProbeIdentity>, key: &PrivateKey| {
        let update = TunnelUpdate { private_key: Some(Some(key.clone())), ..TunnelUpdate::default() };
        world.try_update(A, update).unwrap();
    };
    set(&mut world, &clamped);
    let sessions = probe::sessions();
    set(&mut world, &PrivateKey::from_bytes(bytes));
    assert_eq!(world.nodes[A].tunnel.private_key(), Some(&clamped));
    world.settle();
    assert_eq!(probe::sessions(), sessions, "it is the same key");
}

#[test]
fn replacing_peers_removes_those_only_updated_or_removed() {
    let mut world: World<ProbeIdentity> = World::pair();
    world.update(A, new_peer(100));
    world.update(A, new_peer(101));
    let peers_then = vec![
        PeerUpdate { update_only: true, ..new_peer(100) },
        PeerUpdate { remove: true, ..new_peer(101) },
        new_peer(102),
    ];
    let update = TunnelUpdate { replace_peers: true, peers: peers_then, ..TunnelUpdate::default() };
    world.try_update(A, update).unwrap();
    assert_eq!(peers(&world, A), [key(102)]);
}

#[test]
fn a_changed_preshared_key_keeps_the_session_and_the_next_must_agree_on_it() {
    let mut world: World<ProbeIdentity> = World::connected();
    let set = |world: &mut World<ProbeIdentity>, node, other, key| {
        let mut peer = world.about(other);
        peer.preshared_key = Some(Some(PresharedKey::from_bytes(key)));
        world.update(node, peer);
    };
    let before = world.peer(A, B);
    set(&mut world, A, B, [1; 32]);
    assert_eq!(world.peer(A, B).tx_bytes, before.tx_bytes, "counters stay");
    assert_eq!(world.peer(A, B).endpoint, before.endpoint);
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);

    world.drive(REJECT_AFTER_TIME);
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered.len(), 1, "B does not know the key");
    assert_eq!(world.nodes[A].drops(), [("rx_bad_handshake", 1)]);
    set(&mut world, B, A, [1; 32]);
    world.drive(seconds(6));
    assert_eq!(world.nodes[B].delivered.last(), Some(&ping(A, B, 2)), "the packet waited for the retry");
}
