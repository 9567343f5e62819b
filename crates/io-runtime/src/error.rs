//! What can go wrong, and whose fault it is.

use std::{io, sync::Arc};

use crate::Backend;

/// Why the data plane did not start, or why it ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This build does not have the backend; see [`Backend::is_built`].
    #[error("the {0} backend was left out of this build: build it with the feature `{0}`, or choose another")]
    NotBuilt(Backend),
    /// The UDP port is taken by another program.
    #[error("UDP port {0} is in use")]
    AddrInUse(u16),
    /// A UDP socket could not be made or set up.
    #[error("cannot open the UDP sockets: {0}")]
    Socket(#[source] Arc<io::Error>),
    /// The TUN interface was deleted.
    #[error("the TUN interface is gone")]
    DeviceGone,
    /// The TUN device failed for another reason.
    #[error("the TUN device failed: {0}")]
    Device(#[source] Arc<io::Error>),
    /// A thread or its event loop could not be started.
    #[error("cannot start the data plane: {0}")]
    Start(#[source] Arc<io::Error>),
    /// The kernel refused to say what is ready.
    #[error("cannot wait for the sockets and the TUN device: {0}")]
    Wait(#[source] Arc<io::Error>),
    /// The kernel, or a filter of system calls, refuses to receive.
    #[error("the kernel or a seccomp filter refuses recvmmsg and recvmsg: {0}")]
    Receive(#[source] Arc<io::Error>),
    /// The kernel, or a filter of system calls, refuses to send.
    #[error("the kernel or a seccomp filter refuses sendmsg: {0}")]
    Send(#[source] Arc<io::Error>),
    /// A bug: a thread of the data plane panicked.
    #[error("the data plane panicked: {0}")]
    Panicked(Arc<str>),
}

/// Why an update was not applied. Nothing changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The new UDP port is taken; the old sockets stay.
    #[error("UDP port {0} is in use")]
    AddrInUse(u16),
    /// A socket could not be made or set up; the old ones stay.
    #[error("cannot change the UDP sockets: {0}")]
    Io(#[from] io::Error),
    /// The tunnel refused its part.
    #[error(transparent)]
    Tunnel(#[from] tunnel_core::UpdateError),
    /// The data plane has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The data plane has ended, so it answers no more. [`Handle::finished`](crate::Handle::finished) says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data plane has ended")]
pub struct Stopped;
