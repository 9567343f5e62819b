//! Everything at once: configuration changes, roaming, outages and a bad network, in random order.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use encrypt::{Identity, PresharedKey, PrivateKey};
use tunnel_core::{PeerUpdate, TunnelUpdate};

use crate::{
    netem::{Network, Random},
    world::{A, B, World, add, on_every_backend, ping, seconds},
};

on_every_backend! {
    after_any_mishap_the_tunnel_works_again_once_both_sides_agree,
}

fn after_any_mishap_the_tunnel_works_again_once_both_sides_agree<I: Identity>() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let mut world: World<I> = World::connected();
        world.network = Network::bad(seed);
        let mut serial = 1;
        for _ in 0..150 {
            mishap(&mut world, &mut random);
            for _ in 0..random.below(5) {
                serial += 1;
                world.send(A, &ping(A, B, serial));
                world.send(B, &ping(B, A, serial));
            }
            world.drive(Duration::from_millis(10 + random.below(4000)));
        }
        for node in [A, B] {
            let delivered = &world.nodes[node].delivered;
            let unique: HashSet<&Vec<u8>> = delivered.iter().collect();
            assert_eq!(unique.len(), delivered.len(), "seed {seed}: delivered twice");
        }

        agree(&mut world);
        world.drive(seconds(200)); // handshakes of the past are given up, sessions of the past too old
        for (from, to) in [(A, B), (B, A)] {
            world.nodes[to].delivered.clear();
            world.send(from, &ping(from, to, 0));
            world.settle();
            assert_eq!(
                world.nodes[to].delivered,
                [ping(from, to, 0)],
                "seed {seed}: {:?}",
                world.nodes[to].drops()
            );
        }
        world.drive(seconds(1000));
        for node in &world.nodes {
            assert_eq!(node.tunnel.poll_timeout(), None, "seed {seed}: something is left behind");
        }
    }
}

fn mishap<I: Identity>(world: &mut World<I>, random: &mut Random) {
    let node = random.below(2) as usize;
    let other = 1 - node;
    let mut peer = world.about(other);
    match random.below(14) {
        0 => peer.persistent_keepalive = Some(random.below(40) as u16),
        1 => peer.persistent_keepalive = Some(0),
        2 => peer.preshared_key = Some(Some(PresharedKey::from_bytes([random.below(2) as u8; 32]))),
        3 => peer.preshared_key = Some(None),
        4 => peer.remove = random.below(3) == 0,
        5 => peer.replace_allowed_ips = true,
        6 => peer.allowed_ips = vec![add("10.0.0.0/8"), add("::/0")],
        7 => peer.endpoint = Some(SocketAddr::from(([192, 0, 2, 200], 1))),
        8 => peer.endpoint = Some(world.nodes[other].address),
        9 => world.nodes[node].unplugged = random.below(2) == 0,
        10 => world.nodes[node].address.set_port(1024 + random.below(1000) as u16),
        11 => {
            let keys = [None, Some(world.nodes[node].key.clone()), Some(PrivateKey::from_bytes([99; 32]))];
            let key = keys[random.below(3) as usize].clone();
            let update = TunnelUpdate { private_key: Some(key), ..TunnelUpdate::default() };
            world.try_update(node, update).unwrap();
            return;
        }
        12 => {
            let update = TunnelUpdate { replace_peers: true, peers: vec![peer], ..TunnelUpdate::default() };
            world.try_update(node, update).unwrap();
            return;
        }
        _ => return,
    }
    world.update(node, peer);
}

/// What [`World::pair`] begins with, and a perfect network.
fn agree<I: Identity>(world: &mut World<I>) {
    world.network = Network::perfect();
    for (node, other) in [(A, B), (B, A)] {
        world.nodes[node].unplugged = false;
        let peer = PeerUpdate {
            preshared_key: Some(None),
            persistent_keepalive: Some(0),
            endpoint: Some(world.nodes[other].address),
            allowed_ips: vec![add(&format!("10.0.0.{}/32", other + 1))],
            ..world.about(other)
        };
        let key = world.nodes[node].key.clone();
        let update = TunnelUpdate { private_key: Some(Some(key)), replace_peers: true, peers: vec![peer] };
        world.try_update(node, update).unwrap();
    }
}
