#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // allowed in linux/sys.rs and linux/inherit.rs alone

mod device;
mod error;
#[cfg(any(test, feature = "test-util"))]
mod faulty;
mod linux;
mod memory;
mod offload;
mod tap;

pub use device::{MAX_FRAME_LEN, Offloads, TunDevice, VNET_HEADER_LEN};
pub use error::{ClosedBy, Error};
#[cfg(any(test, feature = "test-util"))]
pub use faulty::{Call, Fault, Faulty};
pub use linux::{LinuxTun, TunLink, TunOptions, check_device, check_interface_name, inherited_fd};
pub use memory::{MemoryHost, MemoryTun};
pub use offload::{
    CoalesceConfig, CoalesceCounters, Coalescer, Full, GsoType, Malformed, Segments, SuperPackets, VnetHeader,
};
pub use tap::Tap;
