//! Prefixes move between peers, and traffic with them.

use encrypt::{Identity, PublicKey};
use gso_queue::Ecn;
use ipnet::IpNet;
use tunnel_core::PeerUpdate;

use crate::world::{A, B, World, add, on_every_backend, packet, ping, take};

on_every_backend! {
    traffic_follows_a_prefix_to_its_new_peer,
    removing_a_peer_frees_its_prefixes,
    changes_apply_in_order_and_host_bits_are_masked,
    prefixes_of_a_live_peer_change_without_losing_the_session,
}

const THIRD: PublicKey = PublicKey::from_bytes([9; 32]);

fn listed<I: Identity>(world: &World<I>, key: &PublicKey) -> Vec<String> {
    world.nodes[A].peer(key).allowed_ips.iter().map(IpNet::to_string).collect()
}

fn traffic_follows_a_prefix_to_its_new_peer<I: Identity>() {
    let mut world: World<I> = World::connected();
    let to_b = packet("10.0.0.1", "10.0.0.2", Ecn::NotEct, b"to whom?");
    world.send(A, &to_b); // the route is cached now
    world.settle();

    let mut third = PeerUpdate::new(THIRD);
    third.endpoint = Some("192.0.2.9:9".parse().unwrap());
    third.allowed_ips = vec![add("10.0.0.2/32")];
    world.update(A, third);
    let b = world.nodes[B].public_key();
    assert_eq!(listed(&world, &b), ["fd00::2/128"]);
    assert_eq!(listed(&world, &THIRD), ["10.0.0.2/32"]);
    world.send(A, &to_b);
    assert_eq!(world.intercept(A)[0].to.remote, "192.0.2.9:9".parse().unwrap());

    world.send(B, &ping(B, A, 1));
    world.settle();
    assert!(world.nodes[A].delivered.is_empty(), "and B may no longer use it");
    assert_eq!(world.nodes[A].count("rx_bad_source"), 1);
}

fn removing_a_peer_frees_its_prefixes<I: Identity>() {
    let mut world: World<I> = World::pair();
    let mut peer = world.about(B);
    peer.remove = true;
    world.update(A, peer);
    world.send(A, &ping(A, B, 1));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 1)]);
    world.update(A, PeerUpdate { allowed_ips: vec![add("10.0.0.2/32")], ..PeerUpdate::new(THIRD) });
    world.send(A, &ping(A, B, 2));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 1), ("tx_no_endpoint", 1)]);
}

fn changes_apply_in_order_and_host_bits_are_masked<I: Identity>() {
    let mut world: World<I> = World::pair();
    let b = world.nodes[B].public_key();
    let mut peer = world.about(B);
    peer.allowed_ips = vec![add("10.1.2.3/8"), add("fd01::5/64"), take("10.9.9.9/8"), take("1.1.1.1/32")];
    world.update(A, peer);
    assert_eq!(listed(&world, &b), ["10.0.0.2/32", "fd00::2/128", "fd01::/64"]);

    let mut peer = world.about(B);
    peer.replace_allowed_ips = true;
    peer.allowed_ips = vec![add("0.0.0.0/0"), add("::/0")];
    world.update(A, peer);
    assert_eq!(listed(&world, &b), ["0.0.0.0/0", "::/0"]);

    let mut third = PeerUpdate::new(THIRD);
    third.allowed_ips = vec![take("0.0.0.0/0")];
    world.update(A, third);
    assert_eq!(listed(&world, &b), ["0.0.0.0/0", "::/0"], "only its owner can lose a prefix by removal");
}

fn prefixes_of_a_live_peer_change_without_losing_the_session<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut peer = world.about(B);
    peer.replace_allowed_ips = true;
    peer.allowed_ips = vec![add("0.0.0.0/0")];
    world.update(A, peer);
    world.send(A, &ping(A, B, 1));
    assert_eq!(crate::world::kinds(&world.intercept(A)), [crate::world::Kind::Data]);
}

#[test]
fn a_peer_may_have_130_000_prefixes() {
    let mut world: World<crate::probe::ProbeIdentity> = World::connected();
    let prefix = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        add(&format!("172.{}.{middle}.{low}/32", 16 + high))
    };
    let mut peer = world.about(B);
    peer.allowed_ips = (0..130_000).map(prefix).collect();
    world.update(A, peer);
    assert_eq!(world.peer(A, B).allowed_ips.len(), 130_002);
    for to in ["172.16.0.0", "172.17.42.7", "172.17.251.207"] {
        world.send(A, &packet("10.0.0.1", to, Ecn::NotEct, b"x"));
        assert_eq!(world.intercept(A).len(), 1, "{to}");
    }
    world.send(A, &packet("10.0.0.1", "172.17.251.208", Ecn::NotEct, b"x"));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 1)], "one past the last");
    let mut gone = world.about(B);
    gone.remove = true;
    world.update(A, gone);
    world.send(A, &packet("10.0.0.1", "172.16.0.0", Ecn::NotEct, b"x"));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 2)]);
}
