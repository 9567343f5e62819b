//! Whatever comes in, nothing panics, nothing grows, and what is dropped is counted.

use encrypt::{Identity, boring::BoringIdentity, deterministic::InsecureIdentity};
use gso_queue::Ecn;
use proptest::prelude::*;
use tunnel_core::Arrival;

use crate::native::Simulated;
use crate::world::{A, B, Datagram, Kind, World, kinds, on_every_backend, ping};

on_every_backend! {
    truncated_lengthened_and_flipped_datagrams_are_dropped_and_counted,
    replayed_datagrams_are_dropped_and_counted,
    handshakes_from_strangers_are_dropped_and_counted,
    authenticated_garbage_is_not_delivered,
}

fn total_drops<I: Identity>(world: &World<I>, node: usize) -> u64 {
    world.nodes[node].drops().iter().map(|(_, value)| value).sum()
}

/// One genuine datagram of every kind towards B, none of which B has seen.
fn one_of_each<I: Identity>(world: &mut World<I>) -> Vec<Datagram> {
    world.send(A, &ping(A, B, 7));
    let mut datagrams = world.intercept(A);
    let mut other: World<I> = World::pair();
    other.send(A, &ping(A, B, 8));
    datagrams.extend(other.intercept(A));
    let initiation = &datagrams[1];
    other.arrive(B, &initiation.bytes, initiation.arrival());
    datagrams.extend(other.intercept(B));
    assert_eq!(kinds(&datagrams), [Kind::Data, Kind::Initiation, Kind::Response]);
    datagrams
}

fn truncated_lengthened_and_flipped_datagrams_are_dropped_and_counted<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut expected = 0;
    let delivered = world.nodes[B].delivered.len();
    for datagram in one_of_each(&mut world) {
        let whole = &datagram.bytes;
        for len in 0..whole.len() {
            assert_eq!(world.arrive(B, &whole[..len], datagram.arrival()), None);
            expected += 1;
        }
        for extra in [1, 15, 16, 1000, 60_000] {
            let mut longer = whole.clone();
            longer.resize(whole.len() + extra, 0);
            assert_eq!(world.arrive(B, &longer, datagram.arrival()), None);
            expected += 1;
        }
        // mac2 is checked only under load, so flipping it is not noticed, rightly.
        let checked = if datagram.kind() == Kind::Data { whole.len() } else { whole.len() - 16 };
        for byte in 0..checked {
            let mut flipped = whole.clone();
            flipped[byte] ^= 0x10;
            assert_eq!(world.arrive(B, &flipped, datagram.arrival()), None, "byte {byte}");
            expected += 1;
        }
        assert_eq!(total_drops(&world, B), expected, "{:?}", world.nodes[B].drops());
    }
    assert_eq!(world.nodes[B].delivered.len(), delivered);
    assert_eq!(world.intercept(B), [], "none was answered");
}

fn replayed_datagrams_are_dropped_and_counted<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    world.settle();
    let wire: Vec<Datagram> = world.wire.drain(..).collect();
    world.pause();
    for datagram in &wire {
        let node = if datagram.to.remote == world.nodes[A].address { A } else { B };
        assert_eq!(world.arrive(node, &datagram.bytes, datagram.arrival()), None);
    }
    assert_eq!(world.nodes[B].drops(), [("rx_replay", 2), ("rx_replayed_handshake", 1)]);
    assert_eq!(world.nodes[A].drops(), [("rx_no_session", 1)], "the response's initiation is answered");
    assert!(world.intercept(A).is_empty() && world.intercept(B).is_empty());
}

fn handshakes_from_strangers_are_dropped_and_counted<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut stranger: World<I> = World::pair();
    let key = encrypt::PrivateKey::from_bytes([66; 32]);
    let update = tunnel_core::TunnelUpdate { private_key: Some(Some(key)), ..Default::default() };
    stranger.try_update(A, update).unwrap();
    stranger.send(A, &ping(A, B, 1));
    let initiation = stranger.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    assert_eq!(world.nodes[B].drops(), [("rx_unknown_peer", 1)]);
    assert_eq!(world.intercept(B), []);
}

fn authenticated_garbage_is_not_delivered<I: Identity>() {
    // A peer can put anything inside: here, packets whose own length is a lie.
    let mut world: World<I> = World::connected();
    let mut lie = ping(A, B, 1);
    lie[3] += 200;
    world.send(A, &lie);
    assert_eq!(world.nodes[A].drops(), [("tx_malformed", 1)], "we do not even send it");
}

fn refuses_all<I: Identity>(datagrams: &[Vec<u8>], ecn: Ecn) {
    let mut world: World<I> = World::connected();
    let from = Arrival { ecn, ..Arrival::from(world.nodes[A].address) };
    for datagram in datagrams {
        assert_eq!(world.arrive(B, datagram, from), None);
    }
    assert_eq!(total_drops(&world, B), datagrams.len() as u64);
    assert_eq!(world.intercept(B), []);
}

fn mutated() -> impl Strategy<Value = (usize, Vec<(usize, u8)>, usize)> {
    (0usize..3, proptest::collection::vec((0usize..200, any::<u8>()), 0..4), 0usize..220)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))] // each case makes tunnels and handshakes

    #[test]
    fn arbitrary_datagrams_never_panic_and_are_counted_or_delivered(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
        ecn in 0u8..4,
    ) {
        let ecn = Ecn::from_bits(ecn);
        refuses_all::<InsecureIdentity>(&datagrams, ecn);
        refuses_all::<BoringIdentity>(&datagrams, ecn);
        refuses_all::<Simulated>(&datagrams, ecn);
    }

    #[test]
    fn mutated_datagrams_never_panic_and_the_tunnel_still_works(steps in proptest::collection::vec(mutated(), 1..30)) {
        let mut world: World<Simulated> = World::connected();
        let genuine = one_of_each(&mut world);
        for (which, flips, len) in steps {
            let datagram = &genuine[which];
            let mut bytes = datagram.bytes.clone();
            for (at, mask) in flips {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
            bytes.truncate(len);
            world.arrive(B, &bytes, datagram.arrival());
        }
        world.nodes[B].delivered.clear();
        world.drive(crate::world::seconds(30));
        world.send(A, &ping(A, B, 99));
        world.drive(crate::world::seconds(30));
        world.send(A, &ping(A, B, 100));
        world.settle();
        prop_assert_eq!(world.nodes[B].delivered.last(), Some(&ping(A, B, 100)));
    }

    #[test]
    fn arbitrary_packets_never_panic_and_are_sent_or_counted(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let mut world: World<Simulated> = World::connected();
        let mut peer = world.about(B);
        peer.allowed_ips = vec![crate::world::add("0.0.0.0/0"), crate::world::add("::/0")];
        world.update(A, peer);
        for packet in &packets {
            world.send(A, packet);
        }
        let sent = world.intercept(A).len() as u64;
        prop_assert_eq!(sent + total_drops(&world, A), packets.len() as u64);
    }
}
