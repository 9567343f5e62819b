//! A TUN device without a kernel interface, for tests and for embedding.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};

use crate::{GsoType, Offloads, TunDevice, VNET_HEADER_LEN, VnetHeader};

/// The device's side of an in-memory TUN: what a tunnel reads from and writes to.
///
/// The two sides are a pair of local packet sockets, so each has a descriptor to wait on, the socket buffers
/// bound what is on the way, and a full one answers `WouldBlock`. Like an old kernel it refuses, with EINVAL,
/// super-packets of kinds that it was not made for.
#[derive(Debug)]
pub struct MemoryTun {
    name: String,
    offloads: Offloads,
    socket: OwnedFd,
}

/// The host's side of an in-memory TUN: where a kernel's network stack would be. Dropping it deletes the
/// interface, as far as the device's side can tell.
#[derive(Debug)]
pub struct MemoryHost {
    socket: OwnedFd,
}

impl MemoryTun {
    /// Makes both sides.
    ///
    /// # Errors
    /// The kernel's answer if it has no more sockets for us.
    pub fn pair(name: &str, offloads: Offloads) -> io::Result<(Self, MemoryHost)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (device, host) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self { name: name.into(), offloads, socket: device }, MemoryHost { socket: host }))
    }

    fn takes(&self, gso_type: GsoType) -> bool {
        match gso_type {
            GsoType::None => true,
            GsoType::TcpV4 | GsoType::TcpV6 => self.offloads.tso,
            GsoType::UdpL4 => self.offloads.uso,
        }
    }
}

impl TunDevice for MemoryTun {
    fn name(&self) -> &str {
        &self.name
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        receive(&self.socket, buf)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let header = VnetHeader::parse(frame).map_err(|_| Errno::EINVAL)?;
        if !self.takes(header.gso_type) {
            return Err(Errno::EINVAL.into());
        }
        transmit(&self.socket, frame)
    }
}

impl MemoryHost {
    /// Reads one frame that the device's side has sent: a virtio-net header and a packet.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `UnexpectedEof` once the device's side is dropped.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        receive(&self.socket, buf)
    }

    /// Sends one frame for the device's side to read: a virtio-net header and a packet.
    ///
    /// # Errors
    /// `WouldBlock` when the device's side has too much to read; `UnexpectedEof` once it is dropped.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        transmit(&self.socket, frame)
    }

    /// Sends one plain packet, behind a virtio-net header of zeros.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_packet(&self, packet: &[u8]) -> io::Result<()> {
        self.send(&[&[0; VNET_HEADER_LEN], packet].concat())
    }
}

impl AsFd for MemoryTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for MemoryHost {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    match recv(socket.as_raw_fd(), buf, MsgFlags::empty()) {
        // No frame is empty: the other side is gone.
        Ok(0) | Err(Errno::ECONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(len) => Ok(len),
        Err(errno) => Err(errno.into()),
    }
}

fn transmit(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    if frame.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    match send(socket.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL) {
        Ok(_) => Ok(()), // a packet socket takes all or nothing
        Err(Errno::EPIPE | Errno::ECONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::MAX_FRAME_LEN;

    fn is_readable(side: &impl AsFd) -> bool {
        let mut fds = [PollFd::new(side.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn frames_cross_whole_and_in_order_and_wake_the_reader() {
        let (tun, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let mut buf = vec![0; MAX_FRAME_LEN];
        assert!(!is_readable(&tun));
        assert_eq!(kind(tun.recv(&mut buf)), io::ErrorKind::WouldBlock);
        host.send_packet(b"one").unwrap();
        host.send(&vec![7; MAX_FRAME_LEN]).unwrap();
        assert!(is_readable(&tun));
        assert_eq!(tun.recv(&mut buf).unwrap(), VNET_HEADER_LEN + 3);
        assert_eq!(&buf[VNET_HEADER_LEN..][..3], b"one");
        assert_eq!(tun.recv(&mut buf).unwrap(), MAX_FRAME_LEN);
        tun.send(&[0; 50]).unwrap();
        assert_eq!(host.recv(&mut buf).unwrap(), 50);
    }

    #[test]
    fn a_full_device_blocks_and_recovers() {
        let (tun, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let frame = vec![0; MAX_FRAME_LEN];
        let mut buf = vec![0; MAX_FRAME_LEN];
        let mut sent = 0;
        while tun.send(&frame).is_ok() {
            sent += 1;
            assert!(sent < 1000, "unbounded");
        }
        assert_eq!(kind(tun.send(&frame)), io::ErrorKind::WouldBlock);
        for _ in 0..sent {
            assert_eq!(host.recv(&mut buf).unwrap(), MAX_FRAME_LEN);
        }
        tun.send(&frame).unwrap();
    }

    #[test]
    fn dropping_the_host_deletes_the_interface() {
        let (tun, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        tun.send(&[0; 30]).unwrap();
        drop(host);
        assert!(is_readable(&tun));
        assert_eq!(kind(tun.recv(&mut [0; 64])), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(tun.send(&[0; 30])), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn super_packets_it_was_not_made_for_are_refused() {
        let (tun, _host) = MemoryTun::pair("mem0", Offloads { uso: false, ..Offloads::ALL }).unwrap();
        let mut frame = [0; 60];
        frame[1] = GsoType::TcpV4 as u8;
        tun.send(&frame).unwrap();
        frame[1] = GsoType::UdpL4 as u8;
        assert_eq!(kind(tun.send(&frame)), io::ErrorKind::InvalidInput);
    }
}
