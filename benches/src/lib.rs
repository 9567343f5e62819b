//! Criterion benches live beside this file in `benches/`; this library holds what they share.
//!
//! `cargo bench -p benches` runs them all; `cargo bench -p benches --bench queue` one of them.

#![forbid(unsafe_code)]

mod frames;
mod pair;
mod sessions;

use std::time::Duration;

use criterion::Criterion;
use gso_queue::Destination;

pub use frames::{FULL_PACKET, FULL_TRAIN, tcp_frame, tcp_packet, turned_around};
pub use pair::{Pair, Side, Train};
pub use sessions::{Connected, connected_sessions};

/// UDP payload of a full data message at the default inner MTU.
pub const FULL_DATAGRAM: usize = FULL_PACKET + encrypt::DATA_OVERHEAD;

/// Full datagrams that fit into one GSO send over IPv4.
pub const FULL_BATCH: usize = gso_queue::MAX_PAYLOAD_V4 / FULL_DATAGRAM;

/// Criterion set up so that a whole bench file takes seconds: these are for comparing two ways of doing a
/// thing on one machine, not for the third digit.
pub fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args()
}

/// The `i`-th of many peers.
pub fn peer(i: usize) -> Destination {
    let [.., high, low] = i.to_be_bytes();
    Destination::new(([10, 0, high, low], 51820).into())
}
