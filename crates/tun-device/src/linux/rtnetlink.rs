//! What only rtnetlink sets, or what it sets with less: the ioctl for the transmit queue asks for `CAP_NET_ADMIN` in the
//! first user namespace (net/core/dev_ioctl.c), rtnetlink in the one that owns the network. Requests and attributes:
//! linux/rtnetlink.h, linux/if_link.h.

use std::{io, os::fd::AsRawFd as _};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// linux/if_link.h, inside the `AF_INET6` part of `IFLA_AF_SPEC`.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// linux/if_link.h: the interface gives itself no address.
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// `nlmsghdr` and `ifinfomsg`.
const HEADERS: usize = 16 + 16;
/// `nlmsghdr`, in front of the kernel's answer.
const ANSWER_HEADER: usize = 16;

/// Sets the transmit queue length of `name`, in packets or super-packets.
pub(super) fn set_tx_queue_len(name: &str, len: u32) -> io::Result<()> {
    set_link(name, &attribute(libc::IFLA_TXQLEN, &len.to_ne_bytes()))
}

/// Has `name` generate no IPv6 address for itself. Without IPv6 there is nothing to do.
pub(super) fn set_no_address_generation(name: &str) -> io::Result<()> {
    let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    let inet6 = attribute(libc::AF_INET6 as u16, &mode);
    match set_link(name, &attribute(libc::IFLA_AF_SPEC, &inet6)) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        result => result,
    }
}

/// One RTM_SETLINK in the network namespace of this thread.
fn set_link(name: &str, change: &[u8]) -> io::Result<()> {
    let mut message = vec![0; HEADERS]; // no index: the name says which
    message.extend(attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat()));
    message.extend(change);
    let len = message.len() as u32; // a name and a number
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_SETLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());

    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    // Behind the error comes what was asked for.
    let mut answer = [0; 512];
    let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let errno = answer[..len].get(ANSWER_HEADER..).and_then(<[u8]>::first_chunk).copied();
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(Errno::EBADMSG.into()),
    }
}

/// `nlattr`: length, kind, content, padding to four bytes.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let len = 4 + content.len();
    let mut attribute = Vec::with_capacity(len.next_multiple_of(4));
    attribute.extend((len as u16).to_ne_bytes()); // ours are a few bytes
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(content);
    attribute.resize(len.next_multiple_of(4), 0);
    attribute
}
