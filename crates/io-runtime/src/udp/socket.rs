//! One UDP socket: made with socket2, spoken to through quinn-udp.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::{shares::SendBuffer, sys};

/// Kernel receive buffer asked for, bytes. 4 MiB are 30 ms of 1 Gbit/s: they bridge the time another
/// process has the core. The kernel charges them only while datagrams wait.
pub const RECV_BUFFER: usize = 4 << 20;

/// Kernel send buffer asked for, bytes, if nothing else is [configured](crate::RuntimeConfig::udp_send_buffer).
///
/// The kernel charges it with every packet until its device has taken it, whatever queue it waits in. A full one
/// holds up every peer for the slowest, so this is more than queues hold: they have limits of their own, as for
/// the kernel's own packets (`pfifo`: 1,000 trains of 64 KiB; a neighbour that does not answer: 208 KiB). It is
/// a bound, then, and no reservation: Linux doubles it for its own overhead, so that a socket can never tie up
/// more than 512 MiB.
pub const SEND_BUFFER: usize = 256 << 20;

/// `UDP_MAX_SEGMENTS` of linux/udp.h before Linux 6.9.
const GSO_SEGMENTS_EVERYWHERE: usize = 64;
/// `UDP_MAX_SEGMENTS` since.
const GSO_SEGMENTS_NEWER: usize = 128;

/// Sends one [`Transmit`], or says why not. The seam between the failure rules and the kernel.
pub(crate) trait DatagramSocket {
    /// One attempt to send. Either all of it leaves or nothing does.
    ///
    /// # Errors
    /// The system call's.
    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()>;

    /// The send buffer as it is now, if it is so small that it might become full.
    fn small_send_buffer(&self) -> Option<SendBuffer>;
}

/// How the sockets are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) gro: bool,
    /// Asked for, bytes.
    pub(crate) send_buffer: usize,
}

/// Which IP a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(addr: &SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn domain(self) -> Domain {
        match self {
            Self::V4 => Domain::IPV4,
            Self::V6 => Domain::IPV6,
        }
    }

    fn any(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Self::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }
}

/// A bound, non-blocking UDP socket.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    family: Family,
    /// Its send buffer's size as read back, if that is small.
    small_send_buffer: Option<usize>,
    /// The kernel has GSO at all, so a state without it is a state that gave up.
    gso: bool,
    /// Makes the socket as good as full, which no loopback ever is.
    #[cfg(test)]
    pub(crate) full: std::sync::Arc<std::sync::atomic::AtomicBool>,
    /// Makes its next receive fail.
    #[cfg(test)]
    pub(crate) deaf: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl UdpSocket {
    /// Binds to `port` on every address of `family` (0: any port).
    pub(crate) fn bind(family: Family, port: u16, fwmark: u32, options: SocketOptions) -> io::Result<Self> {
        let socket = Socket::new(family.domain(), Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP))?;
        if family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        if fwmark != 0 {
            socket.set_mark(fwmark)?;
        }
        size_buffers(&socket, options.send_buffer);
        socket.bind(&family.any(port).into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // quinn-udp asks for receive timestamps. Nobody reads them, they make the kernel read its clock
        // per packet, and their control message leaves no room for the ECN one beside GRO's.
        if let Err(error) = setsockopt(&socket, sockopt::ReceiveTimestampns, &false) {
            tracing::debug!(%error, "cannot switch receive timestamps off");
        }
        if !options.gro
            && let Err(error) = setsockopt(&socket, sockopt::UdpGroSegment, &false)
        {
            tracing::debug!(%error, "cannot switch UDP_GRO off");
        }
        if let Err(error) = sys::allow_fragments(&socket, family == Family::V6) {
            tracing::debug!(%error, "cannot allow fragments");
        }
        let gso = state.max_gso_segments() > 1;
        let small_send_buffer = socket.send_buffer_size().ok().filter(|size| *size < SEND_BUFFER);
        Ok(Self {
            socket,
            state,
            family,
            small_send_buffer,
            gso,
            #[cfg(test)]
            full: std::sync::Arc::default(),
            #[cfg(test)]
            deaf: std::sync::Arc::default(),
        })
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.as_socket().map_or(0, |addr| addr.port()))
    }

    pub(crate) fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        self.socket.set_mark(fwmark)
    }

    /// True when the kernel knows `UDP_SEGMENT`.
    pub(crate) fn has_gso(&self) -> bool {
        self.gso
    }

    /// True when the kernel knows `UDP_GRO`.
    pub(crate) fn has_gro(&self) -> bool {
        self.state.gro_segments() > 1
    }

    /// `(send, receive)` buffer sizes as the kernel has them, bytes.
    pub(crate) fn buffer_sizes(&self) -> (usize, usize) {
        (self.socket.send_buffer_size().unwrap_or(0), self.socket.recv_buffer_size().unwrap_or(0))
    }

    /// Receives up to `bufs.len()` buffers in one call; each may hold several datagrams (see
    /// [`RecvMeta::stride`]).
    pub(crate) fn recv(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        #[cfg(test)]
        if self.deaf.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOMEM));
        }
        self.state.recv(UdpSockRef::from(&self.socket), bufs, meta)
    }

    /// quinn-udp answers EIO and EINVAL by giving up GSO and ECN for the life of its state. Which route
    /// may use GSO is the sender's decision, so such a state is replaced by a fresh one. It is made from a
    /// throw-away socket: `UdpSocketState::new` sets options that the live one must not get again.
    fn revive_state(&mut self) {
        let fresh = Socket::new(self.family.domain(), Type::DGRAM.cloexec(), Some(Protocol::UDP))
            .and_then(|scratch| UdpSocketState::new(UdpSockRef::from(&scratch)));
        match fresh {
            Ok(state) => self.state = state,
            Err(error) => tracing::debug!(%error, "cannot renew the UDP socket's state"),
        }
    }
}

impl DatagramSocket for UdpSocket {
    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = self.state.try_send(UdpSockRef::from(&self.socket), transmit);
        let gave_up = self.gso && self.state.max_gso_segments() == 1;
        if gave_up {
            self.revive_state();
        }
        result
    }

    fn small_send_buffer(&self) -> Option<SendBuffer> {
        let size = self.small_send_buffer?;
        let used = sys::unsent(&self.socket).ok()?;
        Some(SendBuffer { used, size })
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for our buffer sizes: past the system's limits with CAP_NET_ADMIN, within them without. Linux
/// clamps without an error, so what counts is what is read back.
fn size_buffers(socket: &Socket, send_buffer: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &RECV_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(RECV_BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &send_buffer).is_err() {
        let _ = socket.set_send_buffer_size(send_buffer);
    }
    tracing::debug!(
        receive = socket.recv_buffer_size().unwrap_or(0),
        send = socket.send_buffer_size().unwrap_or(0),
        "UDP socket buffers"
    );
}

/// How many segments this kernel takes in one send. Newer kernels take more than quinn-udp tells, and
/// trains of small packets are worth it. Tried out over the loopback, because stable kernels got the
/// change too; where that is impossible, the number that works everywhere.
pub(crate) fn max_gso_segments() -> usize {
    match try_long_train() {
        Ok(()) => GSO_SEGMENTS_NEWER,
        Err(_) => GSO_SEGMENTS_EVERYWHERE,
    }
}

fn try_long_train() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let itself = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    let train = Transmit {
        destination: itself,
        ecn: None,
        contents: &[0; GSO_SEGMENTS_NEWER],
        segment_size: Some(1),
        src_ip: None,
    };
    state.try_send(UdpSockRef::from(&socket), &train)
}
