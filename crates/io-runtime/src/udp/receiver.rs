//! Receiving: several buffers per call, several datagrams per buffer.

use std::{
    io::{self, IoSliceMut},
    net::IpAddr,
};

use gso_queue::Ecn;
use nix::libc;
use quinn_udp::{EcnCodepoint, RecvMeta};
use tunnel_core::Arrival;

use crate::{
    IoCounters,
    udp::{plain_call::PlainCall, socket::UdpSocket},
};

/// What one buffer must hold with `UDP_GRO`: a train is never longer than an IP packet.
const GRO_BUFFER: usize = 65_536;
/// Buffers per call with `UDP_GRO`. Four trains are the longest step worth taking before their packets go
/// to the TUN; more only adds latency.
const GRO_BUFFERS: usize = 4;
/// Without it one datagram fills one buffer. Enough for jumbo frames; a longer tunnel MTU makes it more.
const PLAIN_BUFFER: usize = 9_216;
/// Buffers per call then: what quinn-udp takes at most.
const PLAIN_BUFFERS: usize = quinn_udp::BATCH_SIZE;
/// What WireGuard adds to a packet, and some.
const HEADROOM: usize = 128;

/// Receive memory with the default settings, bytes.
const _: () = assert!(GRO_BUFFER * GRO_BUFFERS <= 512 << 10 && PLAIN_BUFFER * PLAIN_BUFFERS <= 512 << 10);

/// What is in one buffer: datagrams of `stride` bytes, of which the last may be shorter. An empty datagram is one, too.
#[derive(Debug)]
pub(crate) struct Train<'a> {
    pub(crate) arrival: Arrival,
    pub(crate) bytes: &'a mut [u8],
    pub(crate) stride: usize,
}

/// Receive buffers, shared by all sockets, and how far what is in them was taken out.
#[derive(Debug)]
pub(crate) struct Receiver {
    memory: Vec<u8>,
    buffer_len: usize,
    buffers: usize,
    gro: bool,
    mtu: usize,
    meta: [RecvMeta; quinn_udp::BATCH_SIZE],
    /// In use once recvmmsg(2) was refused.
    plain: Option<PlainCall>,
    /// Buffers filled by the last call.
    filled: usize,
    /// The next of them.
    buffer: usize,
}

impl Receiver {
    /// `max_buffers` bounds how many buffers one call fills; 1 is one packet per system call.
    pub(crate) fn new(gro: bool, mtu: usize, max_buffers: usize) -> Self {
        let buffers = if gro { GRO_BUFFERS } else { PLAIN_BUFFERS };
        let mut receiver = Self {
            memory: Vec::new(),
            buffer_len: 0,
            buffers: buffers.min(max_buffers.max(1)),
            gro,
            mtu,
            meta: [RecvMeta::default(); quinn_udp::BATCH_SIZE],
            plain: None,
            filled: 0,
            buffer: 0,
        };
        receiver.fit_buffers();
        receiver
    }

    /// Follows the tunnel's MTU, once what was received is taken out.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    fn fit_buffers(&mut self) {
        let plain = self.mtu.saturating_add(HEADROOM).clamp(PLAIN_BUFFER, GRO_BUFFER);
        let wanted = if self.gro { GRO_BUFFER } else { plain };
        if wanted != self.buffer_len {
            self.buffer_len = wanted;
            self.memory = vec![0; wanted * self.buffers];
        }
    }

    /// Fills the buffers from the socket; to be called when [`train`](Self::train) gives no more. True
    /// if the socket is drained: wait for it to become readable.
    ///
    /// # Errors
    /// The system call's. [`is_refused`] tells those that it is no use to try again after.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, counters: &mut IoCounters) -> io::Result<bool> {
        debug_assert!(self.train().is_none(), "what was received last is lost");
        (self.filled, self.buffer) = (0, 0);
        self.fit_buffers();
        counters.traffic.udp_recv_calls += 1;
        let mut memory = self.memory.chunks_mut(self.buffer_len);
        let mut slices: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(memory.next().unwrap_or_default()));
        match recv(socket, &mut slices[..self.buffers], &mut self.meta, &mut self.plain) {
            Ok(filled) => self.filled = filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.count(counters);
        // A call that left room has seen the socket empty, and readiness is edge-triggered.
        Ok(self.filled < self.buffers)
    }

    /// The buffer at hand, to be used up, with how it came. `None` when all are taken.
    pub(crate) fn train(&mut self) -> Option<Train<'_>> {
        let meta = self.meta[..self.filled].get(self.buffer)?;
        let arrival = Arrival { remote: meta.addr, local: meta.dst_ip.filter(can_pin), ecn: ecn(meta.ecn) };
        let memory = &mut self.memory[self.buffer * self.buffer_len..][..self.buffer_len];
        let len = meta.len.min(memory.len());
        Some(Train { arrival, bytes: &mut memory[..len], stride: meta.stride })
    }

    /// Goes on to the next buffer.
    pub(crate) fn advance(&mut self) {
        self.buffer += 1;
    }

    fn count(&self, counters: &mut IoCounters) {
        for meta in &self.meta[..self.filled] {
            let datagrams = meta.len.div_ceil(meta.stride.max(1)).max(1);
            counters.recv_batches.record(datagrams);
            counters.traffic.udp_datagrams_received += datagrams as u64;
            counters.traffic.udp_bytes_received += meta.len as u64;
        }
    }
}

/// Fills buffers in one call, and where that is refused, now or later, in one call for each.
fn recv(
    socket: &UdpSocket,
    buffers: &mut [IoSliceMut<'_>],
    meta: &mut [RecvMeta],
    plain: &mut Option<PlainCall>,
) -> io::Result<usize> {
    if let Some(plain) = plain {
        return plain.recv(socket, buffers, meta);
    }
    match socket.recv(buffers, meta) {
        Err(error) if is_refused(&error) => {
            tracing::warn!(
                "recvmmsg is refused by the kernel or a seccomp filter ({error}): receiving with recvmsg, one system \
                 call for each buffer"
            );
            plain.insert(PlainCall::new()).recv(socket, buffers, meta)
        }
        result => result,
    }
}

/// Said of a system call that this kernel does not have, or that a filter forbids. No receive is answered so otherwise.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES))
}

/// Replies must not be pinned to an address that no datagram may leave from.
fn can_pin(local: &IpAddr) -> bool {
    let is_broadcast = matches!(local, IpAddr::V4(v4) if v4.is_broadcast());
    !local.is_multicast() && !local.is_unspecified() && !is_broadcast
}

fn ecn(codepoint: Option<EcnCodepoint>) -> Ecn {
    codepoint.map_or(Ecn::NotEct, |codepoint| Ecn::from_bits(codepoint as u8))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};

    use encrypt::transport::TrainOpening;
    use quinn_udp::Transmit;

    use super::*;
    use crate::udp::{SEND_BUFFER, SocketOptions, Sockets, socket::DatagramSocket as _};

    /// A receiver whose buffers hold so many bytes, in datagrams of that stride.
    fn filled_with(buffers: &[(usize, usize)]) -> Receiver {
        let mut receiver = Receiver::new(true, 1_420, GRO_BUFFERS);
        for (meta, (len, stride)) in receiver.meta.iter_mut().zip(buffers) {
            (meta.len, meta.stride) = (*len, *stride);
        }
        receiver.filled = buffers.len();
        receiver
    }

    /// All datagrams that there are, as the loop takes them.
    fn datagrams(receiver: &mut Receiver) -> Vec<(Arrival, Vec<u8>)> {
        let mut datagrams = Vec::new();
        let mut opening = TrainOpening::default();
        while let Some(Train { arrival, bytes, stride }) = receiver.train() {
            opening.prepare(bytes, stride, |_| None);
            while let Some(arrived) = opening.take_next() {
                datagrams.push((arrival, bytes[arrived.place].to_vec()));
                assert!(datagrams.len() <= 1_000, "it goes on for ever");
            }
            receiver.advance();
        }
        datagrams
    }

    fn lengths(buffers: &[(usize, usize)]) -> Vec<usize> {
        datagrams(&mut filled_with(buffers)).into_iter().map(|(_, datagram)| datagram.len()).collect()
    }

    #[test]
    fn gro_buffers_split_at_every_stride() {
        assert_eq!(lengths(&[(250, 100)]), [100, 100, 50]);
        assert_eq!(lengths(&[(200, 100), (50, 100)]), [100, 100, 50]);
        assert_eq!(lengths(&[(128, 1)]).len(), 128);
        assert_eq!(lengths(&[]), []);
    }

    #[test]
    fn an_empty_datagram_is_one_datagram() {
        assert_eq!(lengths(&[(0, 0), (0, 100), (10, 10)]), [0, 0, 10]);
    }

    #[test]
    fn impossible_lengths_stay_inside_the_buffer() {
        assert_eq!(lengths(&[(GRO_BUFFER + 1, 60_000)]), [60_000, GRO_BUFFER - 60_000]);
    }

    fn sockets() -> Sockets {
        let options = SocketOptions { gro: true, send_buffer: SEND_BUFFER };
        Sockets::bind(0, 0, options).unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[test]
    fn a_larger_mtu_fits_without_gro() {
        let sockets = sockets();
        let mut receiver = Receiver::new(false, 1_420, PLAIN_BUFFERS);
        let sender = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let receive = |receiver: &mut Receiver, len: usize| {
            sender.send_to(&vec![7; len], (Ipv4Addr::LOCALHOST, sockets.port)).unwrap();
            receiver.receive(&sockets.v4, &mut IoCounters::default()).unwrap();
            let received = receiver.train().unwrap().bytes.len();
            receiver.advance();
            received
        };
        assert_eq!(receive(&mut receiver, PLAIN_BUFFER), PLAIN_BUFFER);
        for mtu in [20_000, 65_000, 1_420] {
            receiver.set_mtu(mtu);
            assert_eq!(receive(&mut receiver, mtu + 32), mtu + 32);
        }
        assert_eq!(receiver.memory.len(), PLAIN_BUFFER * PLAIN_BUFFERS, "what is not needed is given back");
    }

    #[test]
    fn the_plain_call_tells_what_recvmmsg_tells() {
        let mut sockets = sockets();
        let port = sockets.port;
        let v4 = Some((&mut sockets.v4, SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        let v6 = sockets.v6.as_mut().map(|v6| (v6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))));
        for (socket, destination) in v4.into_iter().chain(v6) {
            let mut told = [false, true].map(|is_plain| {
                let train = [(300, Some(100)), (77, None)];
                for (len, segment_size) in train {
                    let ecn = Some(EcnCodepoint::Ect1);
                    let contents = &vec![7; len];
                    let transmit =
                        Transmit { destination, ecn, contents, segment_size, src_ip: Some(destination.ip()) };
                    socket.try_send(&transmit).unwrap();
                }
                let mut receiver = Receiver::new(true, 1_420, GRO_BUFFERS);
                receiver.plain = is_plain.then(PlainCall::new);
                assert!(receiver.receive(socket, &mut IoCounters::default()).unwrap(), "drained");
                datagrams(&mut receiver)
            });
            let [usual, plain] = &mut told;
            assert_eq!(usual.len(), 4);
            assert_eq!(usual, plain);
            assert_eq!(usual[0].0.ecn, Ecn::Ect1);
        }
    }

    #[test]
    fn replies_are_not_pinned_to_addresses_that_nothing_leaves_from() {
        for address in ["224.0.0.1", "255.255.255.255", "0.0.0.0", "ff02::1", "::"] {
            assert!(!can_pin(&address.parse().unwrap()), "{address}");
        }
        assert!(can_pin(&"192.0.2.1".parse().unwrap()));
        assert!(can_pin(&"fe80::1".parse().unwrap()));
    }
}
