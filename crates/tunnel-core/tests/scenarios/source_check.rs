//! A peer may only use inner source addresses from its allowed IPs.

use encrypt::Identity;
use gso_queue::Ecn;

use crate::world::{A, B, World, add, on_every_backend, packet, ping};

on_every_backend! {
    spoofed_sources_are_dropped_and_counted,
    the_longest_prefix_decides_whose_a_source_is,
}

fn spoofed_sources_are_dropped_and_counted<I: Identity>() {
    let mut world: World<I> = World::connected();
    for source in ["10.0.0.2", "10.0.0.3", "0.0.0.0", "255.255.255.255"] {
        world.send(A, &packet(source, "10.0.0.2", Ecn::NotEct, b"spoofed"));
    }
    world.send(A, &packet("fd00::2", "fd00::2", Ecn::NotEct, b"spoofed"));
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
    assert_eq!(world.nodes[B].drops(), [("rx_bad_source", 5)]);
}

fn the_longest_prefix_decides_whose_a_source_is<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut peer = world.about(A);
    peer.allowed_ips = vec![add("10.0.0.0/8")];
    world.update(B, peer);
    let mut third = tunnel_core::PeerUpdate::new(encrypt::PublicKey::from_bytes([9; 32]));
    third.allowed_ips = vec![add("10.7.0.0/16")];
    world.update(B, third);

    world.send(A, &packet("10.6.0.1", "10.0.0.2", Ecn::NotEct, b"its own"));
    world.send(A, &packet("10.7.0.1", "10.0.0.2", Ecn::NotEct, b"the third peer's"));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [packet("10.6.0.1", "10.0.0.2", Ecn::NotEct, b"its own")]);
    assert_eq!(world.nodes[B].drops(), [("rx_bad_source", 1)]);
}
