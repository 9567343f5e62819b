#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod sink;

pub use sink::{AppendError, DatagramSink, Destination, Ecn};
