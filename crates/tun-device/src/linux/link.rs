//! The interface itself, apart from its packets: what it is called, and where it is.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::libc;

use super::{LinuxTun, gone_or, sys};

/// The interface of a [`LinuxTun`], wherever it was moved and however it was renamed. As long as this lives, so does
/// the interface.
#[derive(Debug)]
pub struct TunLink(File);

impl LinuxTun {
    /// Its interface, to be asked from another thread.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn link(&self) -> io::Result<TunLink> {
        self.file.try_clone().map(TunLink)
    }
}

impl TunLink {
    /// The interface's name now.
    ///
    /// # Errors
    /// `UnexpectedEof` once the interface is gone.
    pub fn name(&self) -> io::Result<String> {
        sys::interface(self.0.as_fd()).map(|(name, _)| name).map_err(gone_or)
    }

    /// The network namespace in which the interface is now.
    ///
    /// # Errors
    /// `UnexpectedEof` once the interface is gone; EPERM without `CAP_NET_ADMIN` in that namespace; EINVAL before
    /// Linux 5.7.
    pub fn network(&self) -> io::Result<OwnedFd> {
        sys::device_network(self.0.as_fd()).map_err(gone_or)
    }

    /// Has the kernel generate no IPv6 address for the interface, in whatever namespace, for good.
    ///
    /// A move resets what [`LinuxTun::generate_no_address`] sets, and only who may enter the new namespace can set it
    /// there. The kernel also generates none for hardware whose interface identifiers it does not know; so this
    /// declares the interface a serial line (`link/slip`): IP packets without a header, as those of a TUN.
    ///
    /// # Errors
    /// EBUSY while it is up; `UnexpectedEof` once it is gone.
    pub fn generate_no_address_anywhere(&self) -> io::Result<()> {
        sys::set_link_type(self.0.as_fd(), libc::ARPHRD_SLIP).map_err(gone_or)
    }
}
