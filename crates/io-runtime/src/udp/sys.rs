//! What neither nix nor socket2 knows of sockets.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::libc;

/// Lets the kernel fragment what is longer than the path takes (linux/in.h, linux/in6.h).
///
/// quinn-udp forbids it, for QUIC measures the path. A tunnel that forbade it would swallow every full
/// packet of a connection whose path is narrower than the tunnel's MTU says, as over PPPoE with IPv6
/// outside, and the connection would hang. The kernel's WireGuard lets them be fragmented, too.
pub(super) fn allow_fragments(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)
    } else {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    }
}

/// What the send buffer is charged with, bytes: everything sent that no device has taken yet (`SIOCOUTQ`, udp(7)).
pub(super) fn unsent(socket: impl AsFd) -> io::Result<usize> {
    let mut unsent: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes one int, to `unsent`.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(unsent).unwrap_or(0))
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel reads `len` bytes of
    // `value`, which outlives the call, and writes nothing.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
