//! The system calls of this crate that the standard library and nix do not wrap, and its only unsafe
//! code. Requests and flags: linux/if_tun.h, linux/sockios.h.
#![allow(unsafe_code, reason = "ioctl has no safe wrapper; every block says why it holds")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::libc;

/// `IFF_TUN | IFF_NO_PI | …` as TUNSETIFF takes them and TUNGETIFF gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TunFlags(pub(super) libc::c_int);

impl TunFlags {
    pub(super) fn has(self, flag: libc::c_int) -> bool {
        self.0 & flag != 0
    }
}

/// Attaches a /dev/net/tun descriptor to the interface `name`, creating it. Gives the kernel's name.
pub(super) fn set_interface(tun: BorrowedFd<'_>, name: &str, flags: TunFlags) -> io::Result<String> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = flags.0 as libc::c_short; // the kernel reads the same 16 bits
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is and outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(interface_name(&request))
}

/// The name and flags of the interface that a descriptor is attached to.
pub(super) fn interface(tun: BorrowedFd<'_>) -> io::Result<(String, TunFlags)> {
    let mut request = interface_request("")?;
    // SAFETY: TUNGETIFF writes one `ifreq`, which `request` is and outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    // SAFETY: TUNGETIFF filled `ifru_flags`; every bit pattern is a valid integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((interface_name(&request), TunFlags(libc::c_int::from(flags as u16))))
}

/// The network namespace of the interface that a descriptor is attached to.
pub(super) fn device_network(tun: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument and touches no memory of ours.
    let fd = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETDEVNETNS) };
    check(fd)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Changes what hardware (`ARPHRD_*`) the interface is said to be.
pub(super) fn set_link_type(tun: BorrowedFd<'_>, hardware: u16) -> io::Result<()> {
    // SAFETY: TUNSETLINK takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETLINK, libc::c_ulong::from(hardware)) })
}

/// Sets the length of the virtio-net header in front of every packet.
pub(super) fn set_vnet_header_len(tun: BorrowedFd<'_>, len: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, which `len` is and outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &len) })
}

/// Tells the kernel which super-packets and partial checksums we can read (`TUN_F_*`).
pub(super) fn set_offload(tun: BorrowedFd<'_>, features: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features)) })
}

/// Reads the MTU of `name`, by any socket of its network namespace.
pub(super) fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<libc::c_int> {
    let mut request = interface_request(name)?;
    // SAFETY: SIOCGIFMTU reads and writes one `ifreq`, which `request` is and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: SIOCGIFMTU filled `ifru_mtu`; every bit pattern is a valid integer.
    Ok(unsafe { request.ifr_ifru.ifru_mtu })
}

/// Sets the MTU of `name`.
pub(super) fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: libc::c_int) -> io::Result<()> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_mtu = mtu;
    // SAFETY: SIOCSIFMTU reads one `ifreq`, which `request` is and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request) })
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain integers and arrays of them; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1; // the kernel wants the terminating zero
    if name.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn interface_name(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
