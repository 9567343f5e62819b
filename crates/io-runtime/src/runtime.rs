//! Starting the data plane. (skeleton: it answers commands and moves no packets yet)

use std::{os::fd::AsFd, sync::Arc};

use tun_device::TunDevice;

use crate::{Error, Handle, RuntimeConfig};

/// Starts the data plane on a thread of its own and gives the handle to it.
///
/// # Errors
/// [`Error`] when the sockets or the thread cannot be made; nothing is left behind then.
pub fn spawn<D: TunDevice + AsFd>(device: D, config: RuntimeConfig) -> Result<Handle, Error> {
    let _ = (Arc::new(device), config);
    todo!("lands next")
}
