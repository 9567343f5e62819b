#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // allowed in linux/sys.rs alone

mod device;
mod error;
mod linux;
mod offload;

pub use device::{MAX_FRAME_LEN, Offloads, TunDevice, VNET_HEADER_LEN};
pub use error::Error;
pub use linux::{LinuxTun, TunOptions, check_interface_name, inherited_fd};
pub use offload::{
    CoalesceConfig, CoalesceCounters, Coalescer, Full, GsoType, Malformed, Segments, VnetHeader,
};
