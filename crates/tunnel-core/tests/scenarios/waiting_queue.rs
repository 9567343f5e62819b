//! Packets wait for the handshake: in order, within bounds.

use encrypt::Identity;
use gso_queue::Ecn;
use tunnel_core::{PeerUpdate, TunnelConfig};

use crate::world::{A, B, Kind, World, add, kinds, on_every_backend, packet, ping, seconds, serial};

on_every_backend! {
    packets_wait_in_order_behind_one_initiation,
    the_oldest_of_too_many_packets_are_dropped,
    waiting_bytes_are_bounded_per_peer_and_over_all_peers,
    a_new_packet_never_overtakes_waiting_ones,
    removing_the_peer_drops_what_waited_for_it,
}

fn packets_wait_in_order_behind_one_initiation<I: Identity>() {
    let mut world: World<I> = World::pair();
    for serial in 0..20 {
        world.send(A, &ping(A, B, serial));
    }
    assert_eq!(kinds(&world.intercept(A)), [Kind::Initiation], "one for all of them");
    world.drive(seconds(6)); // the first one was taken off the network: retried
    let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
    assert_eq!(serials, Vec::from_iter(0..20));
    assert_eq!(world.nodes[A].drops(), []);
}

fn the_oldest_of_too_many_packets_are_dropped<I: Identity>() {
    let config = TunnelConfig { waiting_packets: 8, ..TunnelConfig::default() };
    let mut world: World<I> = World::pair_with(config);
    for serial in 0..20 {
        world.send(A, &ping(A, B, serial));
    }
    world.settle();
    let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
    assert_eq!(serials, Vec::from_iter(12..20));
    assert_eq!(world.nodes[A].drops(), [("tx_waiting_full", 12)]);
}

fn waiting_bytes_are_bounded_per_peer_and_over_all_peers<I: Identity>() {
    let config = TunnelConfig { waiting_bytes: 5000, waiting_bytes_total: 7000, ..TunnelConfig::default() };
    let mut world: World<I> = World::pair_with(config);
    let mut third = PeerUpdate::new(encrypt::PublicKey::from_bytes([9; 32]));
    third.endpoint = Some("192.0.2.9:9".parse().unwrap());
    third.allowed_ips = vec![add("10.9.0.0/16")];
    world.update(A, third);

    let to = |destination: &str| packet("10.0.0.1", destination, Ecn::NotEct, &[0; 980]);
    for _ in 0..6 {
        world.send(A, &to("10.9.0.1"));
    }
    assert_eq!(world.nodes[A].count("tx_waiting_full"), 1, "its own bound: 5 × 1000 bytes");
    for _ in 0..3 {
        world.send(A, &to("10.0.0.2"));
    }
    assert_eq!(world.nodes[A].count("tx_waiting_full"), 2, "the bound over all: 7 × 1000 bytes");
    world.settle();
    assert_eq!(world.nodes[B].delivered.len(), 2);
}

fn a_new_packet_never_overtakes_waiting_ones<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 0));
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);
    world.send(A, &ping(A, B, 1));
    world.arrive(A, &response.bytes, response.arrival());
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 0), ping(A, B, 1), ping(A, B, 2)]);
}

fn removing_the_peer_drops_what_waited_for_it<I: Identity>() {
    let mut world: World<I> = World::pair();
    for serial in 0..3 {
        world.send(A, &ping(A, B, serial));
    }
    let mut peer = world.about(B);
    peer.remove = true;
    world.update(A, peer);
    assert_eq!(world.nodes[A].drops(), [("tx_peer_gone", 3)]);
    assert_eq!(world.nodes[A].tunnel.poll_timeout(), None, "nothing is left to do for it");
}
