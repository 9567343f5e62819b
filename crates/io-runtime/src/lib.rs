#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // allowed in udp/sys.rs (socket options) and scheduling/sys.rs (policies)

mod alarm;
pub mod clock;
mod config;
mod counters;
mod crew;
mod drive;
mod error;
mod handle;
mod kernel;
mod poller;
mod rest;
mod runtime;
mod scheduling;
mod status;
mod tun;
mod udp;

pub use config::{Arrangement, Backend, Crew, DeviceUpdate, RuntimeConfig};
pub use counters::{Drops, Histogram, IoCounters, Traffic};
pub use crew::MAX_HELPERS;
pub use error::{Error, Stopped, UpdateError};
pub use handle::{Handle, PinnedSource};
pub use kernel::Release as KernelRelease;
pub use runtime::{spawn, spawn_with};
pub use status::{DeviceSecrets, DeviceStatus, Feature, Features};
pub use udp::{RECV_BUFFER as UDP_RECV_BUFFER, SEND_BUFFER as UDP_SEND_BUFFER};
