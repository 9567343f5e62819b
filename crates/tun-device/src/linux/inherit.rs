//! File descriptors that a parent process hands on by number.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

/// Duplicates the descriptor that a parent process handed on by number, in a variable such as `WG_TUN_FD`.
/// The copy is close-on-exec.
///
/// # Errors
/// EBADF if no such descriptor is open.
#[allow(unsafe_code)]
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(nix::errno::Errno::EBADF.into());
    }
    // SAFETY: not −1; borrowed for one fcntl(F_DUPFD_CLOEXEC) only, which checks that it is open and
    // neither closes nor changes it.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn an_open_descriptor_is_duplicated_and_a_closed_one_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let copy = inherited_fd(file.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
        assert!(inherited_fd(-1).is_err());
        assert!(inherited_fd(1_000_000).is_err());
    }
}
