#![doc = include_str!("../README.md")]

mod device;

pub use device::{MAX_FRAME_LEN, Offloads, TunDevice, VNET_HEADER_LEN};
