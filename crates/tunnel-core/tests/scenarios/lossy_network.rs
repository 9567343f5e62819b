//! A network that loses, doubles, delays and reorders.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    native::Simulated,
    netem::Network,
    world::{A, B, World, ping, seconds, serial},
};

/// Packets per run: over five rekeys.
const PACKETS: u32 = 6000;

fn run(seed: u64) -> World<Simulated> {
    let mut world: World<Simulated> = World::pair();
    world.network = Network::bad(seed);
    for n in 0..PACKETS {
        world.send(A, &ping(A, B, n));
        world.send(B, &ping(B, A, n));
        world.drive(Duration::from_millis(100));
    }
    world.drive(seconds(5));
    world
}

#[test]
fn each_packet_arrives_at_most_once_and_most_arrive() {
    for seed in 1..=5 {
        let world = run(seed);
        for node in [A, B] {
            let delivered = &world.nodes[node].delivered;
            let serials: BTreeSet<u32> = delivered.iter().map(|packet| serial(packet)).collect();
            assert_eq!(serials.len(), delivered.len(), "seed {seed}: a duplicate came through");
            let share = serials.len() as f64 / f64::from(PACKETS);
            assert!(share > 0.95, "seed {seed}: {share} arrived at {node}");
        }
        let duplicates = world.nodes[B].count("rx_replay");
        assert!(duplicates > 0, "seed {seed}: the network doubled nothing");
        let allowed = [
            "rx_replay",
            "rx_replayed_handshake",
            "rx_handshake_too_soon",
            "rx_no_session",
            "tx_no_endpoint",
        ];
        for node in [A, B] {
            for (reason, value) in world.nodes[node].drops() {
                assert!(allowed.contains(&reason), "seed {seed}: {value} × {reason}");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let summary = |world: &World<Simulated>| {
        let counters = world.nodes.iter().map(|node| *node.tunnel.counters());
        (counters.collect::<Vec<_>>(), world.wire.len(), world.nodes[B].delivered.clone())
    };
    assert!(summary(&run(42)) == summary(&run(42)));
}
