//! The first packet brings up a session; data flows both ways.

use encrypt::Identity;
use gso_queue::{AppendError, DatagramSink, Destination, Ecn, Slot};
use tunnel_core::{Sealing, TunnelConfig};

use crate::world::{A, B, Kind, World, kinds, on_every_backend, packet, ping};

on_every_backend! {
    the_first_packet_brings_up_a_session_and_follows_it,
    bytes_and_packets_are_counted_alike_on_both_sides,
    packets_are_padded_to_16_bytes_but_never_past_the_mtu,
    padding_and_trailing_bytes_do_not_reach_the_other_side,
    what_cannot_be_sent_is_dropped_with_its_reason,
    a_packet_longer_than_a_datagram_is_dropped_and_counted,
    both_sides_may_initiate_at_the_same_moment,
    carries_both_families_both_ways,
}

fn the_first_packet_brings_up_a_session_and_follows_it<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive, Kind::Data]);
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
    assert_eq!(world.peer(A, B).last_handshake, Some(world.now));
    assert_eq!(world.peer(B, A).last_handshake, Some(world.now));

    world.send(B, &ping(B, A, 2));
    world.settle();
    assert_eq!(world.nodes[A].delivered, [ping(B, A, 2)]);
    assert_eq!(world.nodes[A].drops(), []);
    assert_eq!(world.nodes[B].drops(), []);
}

fn bytes_and_packets_are_counted_alike_on_both_sides<I: Identity>() {
    let mut world: World<I> = World::pair();
    for serial in 0..10 {
        world.send(A, &ping(A, B, serial));
        world.settle();
    }
    let on_the_wire = |from: usize, world: &World<I>| -> u64 {
        let sent = world.wire.iter().filter(|d| d.from == world.nodes[from].address);
        sent.map(|d| d.bytes.len() as u64).sum()
    };
    for (node, other) in [(A, B), (B, A)] {
        let (sent, received) = (world.peer(node, other), world.peer(other, node));
        assert_eq!(sent.tx_bytes, on_the_wire(node, &world));
        assert_eq!(sent.tx_bytes, received.rx_bytes);
        assert_eq!(world.nodes[node].count("tx_bytes"), sent.tx_bytes);
        assert_eq!(world.nodes[other].count("rx_bytes"), sent.tx_bytes);
    }
    assert_eq!(world.nodes[A].count("tx_packets"), 10);
    assert_eq!(world.nodes[B].count("rx_packets"), 10);
    assert_eq!(world.nodes[A].count("initiations_sent"), 1);
    assert_eq!(world.nodes[B].count("initiations_received"), 1);
    assert_eq!(world.nodes[B].count("responses_sent"), 1);
    assert_eq!(world.nodes[A].count("responses_received"), 1);
    assert_eq!(world.nodes[A].count("keepalives_sent"), 1);
    assert_eq!(world.nodes[B].count("keepalives_received"), 1);
}

fn packets_are_padded_to_16_bytes_but_never_past_the_mtu<I: Identity>() {
    let config = TunnelConfig { mtu: 1420, ..TunnelConfig::default() };
    let mut world: World<I> = World::connected_with(config);
    let sealed_len = |world: &mut World<I>, payload: usize| {
        world.send(A, &packet("10.0.0.1", "10.0.0.2", Ecn::NotEct, &vec![7; payload]));
        world.intercept(A)[0].bytes.len() - 32
    };
    assert_eq!(sealed_len(&mut world, 0), 32, "20 bytes");
    assert_eq!(sealed_len(&mut world, 12), 32, "32 bytes: aligned already");
    assert_eq!(sealed_len(&mut world, 13), 48, "33 bytes");
    assert_eq!(sealed_len(&mut world, 1400), 1420, "the full MTU, which 16 does not divide");
    assert_eq!(sealed_len(&mut world, 1390), 1420, "1410 bytes: 1424 would be past the MTU");
    world.nodes[A].tunnel.set_mtu(1500);
    assert_eq!(sealed_len(&mut world, 1390), 1424);
}

fn padding_and_trailing_bytes_do_not_reach_the_other_side<I: Identity>() {
    let mut world: World<I> = World::pair();
    let mut with_trailer = ping(A, B, 5);
    with_trailer.extend([0xee; 9]);
    world.send(A, &with_trailer);
    world.settle();
    world.send(A, &with_trailer);
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 5), ping(A, B, 5)], "queued, then sealed directly");
}

fn what_cannot_be_sent_is_dropped_with_its_reason<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &[]);
    world.send(A, &[0x45; 10]);
    world.send(A, &packet("10.0.0.1", "10.0.0.77", Ecn::NotEct, b"nobody"));
    world.send(B, &ping(B, A, 0));
    assert_eq!(world.nodes[A].drops(), [("tx_malformed", 2), ("tx_no_route", 1)]);
    assert_eq!(world.nodes[B].drops(), [("tx_no_endpoint", 1)]);
    assert!(world.intercept(A).is_empty() && world.intercept(B).is_empty());
}

fn a_packet_longer_than_a_datagram_is_dropped_and_counted<I: Identity>() {
    /// Takes what UDP over IPv4 takes.
    struct Udp;
    impl DatagramSink<Sealing> for Udp {
        fn append<E>(
            &mut self,
            _: Destination,
            len: usize,
            fill: impl FnOnce(Slot<'_, Sealing>) -> Result<(), E>,
        ) -> Result<(), AppendError<E>> {
            if len > 65_507 {
                return Err(AppendError::TooLong(len));
            }
            let slot = Slot { bytes: &mut vec![0; len], segment: 0, work: &mut Sealing::default() };
            fill(slot).map_err(AppendError::Fill)
        }
    }
    let mut world: World<I> = World::connected();
    let long = packet("10.0.0.1", "10.0.0.2", Ecn::NotEct, &vec![0; 65_535 - 20]);
    world.nodes[A].tunnel.send(&long, world.now, &mut Udp).unwrap();
    assert_eq!(world.nodes[A].drops(), [("tx_too_big", 1)]);
}

fn both_sides_may_initiate_at_the_same_moment<I: Identity>() {
    let mut world: World<I> = World::pair();
    let mut peer = world.about(A);
    peer.endpoint = Some(world.nodes[A].address);
    world.update(B, peer);
    world.send(A, &ping(A, B, 1));
    world.send(B, &ping(B, A, 2));
    world.drive(crate::world::seconds(20));
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
    assert_eq!(world.nodes[A].delivered, [ping(B, A, 2)]);
}

fn carries_both_families_both_ways<I: Identity>() {
    let mut world: World<I> = World::pair();
    for len in [0, 1, 15, 16, 17, 500, 1379, 1380] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        for (from, to) in [(A, B), (B, A)] {
            let v4 = |node| format!("10.0.0.{}", node + 1);
            let v6 = |node| format!("fd00::{}", node + 1);
            let packets = [
                packet(&v4(from), &v4(to), Ecn::NotEct, &payload),
                packet(&v6(from), &v6(to), Ecn::NotEct, &payload),
            ];
            for packet in &packets {
                world.send(from, packet);
            }
            world.settle();
            assert_eq!(std::mem::take(&mut world.nodes[to].delivered), packets, "{len} bytes");
        }
    }
    for node in [A, B] {
        assert_eq!(world.nodes[node].drops(), []);
    }
}
