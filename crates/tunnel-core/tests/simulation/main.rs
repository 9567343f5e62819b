//! Seeded bad days of two nodes, on the native backend's real cryptography in simulated time. A network that loses, doubles,
//! delays, reorders and parts them; clocks that are set by years; a node that roams, restarts, sleeps for hours or has
//! another pre-shared key; an attacker who changes and repeats what he has seen. Whatever happens: only what the
//! other node sent is delivered, as it was and once; what a tunnel holds stays bounded; and once the network is good and both
//! agree, the tunnel is back within seconds, loses nothing more, and at last comes to rest.
//!
//! `VOLLEY_SIMULATION_SEEDS=10000 cargo test -p tunnel-core --test simulation` for the long run, as in CI; with
//! `VOLLEY_SIMULATION_STORY=1` what happens on a day is printed.

#[path = "../scenarios/native.rs"]
mod native;
#[path = "../scenarios/netem.rs"]
mod netem;
#[expect(dead_code, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/probe.rs"]
mod probe;
#[expect(dead_code, unused_macros, unused_imports, reason = "shared with the scenarios, which use all of it")]
#[path = "../scenarios/world.rs"]
mod world;

mod attacker;
mod day;
mod tally;

use std::sync::Mutex;

use allocation_counter::CountingAllocator;

use crate::{day::Day, tally::Tally};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SEEDS: seeds::Seeds = seeds::Seeds {
    variable: "VOLLEY_SIMULATION",
    default: 300,
    test: "cargo test -p tunnel-core --test simulation",
};

/// Of so many days one is lived twice.
const TWICE: u64 = 50;

#[test]
fn after_every_bad_day_the_tunnel_is_back_and_only_what_was_sent_was_delivered_once() {
    let all = Mutex::new(Tally::default());
    let days = SEEDS.run(|seed| {
        let (trace, tally) = Day::live(seed);
        if seed % TWICE == 0 {
            assert_eq!(Day::live(seed).0, trace, "the same day again");
        }
        all.lock().unwrap().add(&tally);
    });
    all.into_inner().unwrap().assert_bad_enough(days);
}
