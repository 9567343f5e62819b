#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch;
mod config;
mod pool;
mod queue;
mod sink;
mod work;

pub use batch::{Batch, Unfinished};
pub use config::{
    DEFAULT_BUFFER_BYTES, DEFAULT_BUFFERS, DEFAULT_SEGMENTS, MAX_SEGMENTS, QueueConfig, QueueCounters,
};
pub use queue::GsoQueue;
pub use sink::{AppendError, DatagramSink, Destination, Ecn, MAX_PAYLOAD_V4, MAX_PAYLOAD_V6};
pub use work::{Slot, Work};
