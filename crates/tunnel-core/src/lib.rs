#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod allowed_ips;
mod config;
mod control;
mod counters;
mod deadlines;
mod handshakes;
mod inner;
mod link;
mod packets;
mod peer;
mod peer_table;
mod persistent_keepalive;
mod receive;
mod routing_loop;
mod sealing;
mod shared;
mod tunnel;
mod unreachable;
mod update;
mod waiting;

pub use config::{AllowedIpUpdate, PeerStatus, PeerUpdate, TunnelConfig, TunnelUpdate};
pub use counters::{Counters, Drops, Traffic};
pub use packets::Packets;
pub use sealing::Sealing;
pub use tunnel::{Arrival, Sent, SinkFull, Tunnel};
pub use unreachable::MAX_ICMP_ERROR_LEN;
pub use update::UpdateError;
