#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // allowed in udp/sys.rs alone

pub mod clock;
mod config;
mod counters;
mod error;
mod handle;
mod kernel;
mod runtime;
mod status;
mod udp;

pub use config::{Arrangement, DeviceUpdate, RuntimeConfig};
pub use counters::{Drops, Histogram, IoCounters, Traffic};
pub use error::{Error, Stopped, UpdateError};
pub use handle::Handle;
pub use runtime::spawn;
pub use status::{DeviceStatus, Feature, Features};
