//! Receiving with recvmsg(2), for a kernel or a seccomp filter that refuses recvmmsg(2). quinn-udp knows only the latter.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd as _},
    slice,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, SockaddrStorage, recvmsg},
};
use quinn_udp::{EcnCodepoint, RecvMeta};

/// One buffer per system call.
#[derive(Debug)]
pub(super) struct PlainCall {
    /// Control messages.
    control: Vec<u8>,
}

impl PlainCall {
    pub(super) fn new() -> Self {
        // Where it was sent to, its ECN bits, and the length of a train's datagrams.
        Self { control: cmsg_space!(libc::in6_pktinfo, libc::c_int, libc::c_int) }
    }

    /// What `UdpSocketState::recv` does: fills buffers as long as there is something, one at least.
    ///
    /// # Errors
    /// Of the first call; a later one leaves what came before it, and its error to the next time.
    pub(super) fn recv(
        &mut self,
        socket: impl AsFd,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            match self.recv_one(&socket, buffer) {
                Ok(received) => *meta = received,
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            }
            filled += 1;
        }
        Ok(filled)
    }

    fn recv_one(&mut self, socket: &impl AsFd, buffer: &mut IoSliceMut<'_>) -> io::Result<RecvMeta> {
        loop {
            let (fd, buffers) = (socket.as_fd().as_raw_fd(), slice::from_mut(buffer));
            let flags = MsgFlags::empty();
            match recvmsg::<SockaddrStorage>(fd, buffers, Some(&mut self.control), flags) {
                Ok(message) => return meta(&message),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn meta(message: &RecvMsg<'_, '_, SockaddrStorage>) -> io::Result<RecvMeta> {
    let mut meta = RecvMeta::default();
    meta.addr = message.address.as_ref().and_then(socket_addr).ok_or(io::ErrorKind::InvalidData)?;
    (meta.len, meta.stride) = (message.bytes, message.bytes);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                meta.dst_ip = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                meta.dst_ip = Some(IpAddr::from(info.ipi6_addr.s6_addr));
            }
            ControlMessageOwned::Ipv4Tos(tos) => meta.ecn = EcnCodepoint::from_bits(tos),
            // The kernel gives the low byte of the traffic class.
            ControlMessageOwned::Ipv6TClass(class) => meta.ecn = EcnCodepoint::from_bits(class as u8),
            ControlMessageOwned::UdpGroSegments(len) => {
                meta.stride = usize::try_from(len).unwrap_or(message.bytes);
            }
            _ => {}
        }
    }
    Ok(meta)
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}
