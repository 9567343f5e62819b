#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod counters;
mod tunnel;
mod update;

pub use config::{AllowedIpUpdate, PeerStatus, PeerUpdate, TunnelConfig, TunnelUpdate};
pub use counters::{Counters, Drops, Traffic};
pub use tunnel::{Arrival, SinkFull, Tunnel};
pub use update::UpdateError;
