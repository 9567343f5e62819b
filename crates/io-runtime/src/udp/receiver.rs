//! Receiving: several buffers per call, several datagrams per buffer.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
};

use nix::libc;
use quinn_udp::RecvMeta;

use crate::{
    IoCounters,
    udp::{plain_call::PlainCall, received::Received, socket::UdpSocket},
};

/// What one buffer must hold with `UDP_GRO`: a train is never longer than an IP packet.
const GRO_BUFFER: usize = 65_536;
/// Buffers per call with `UDP_GRO`. Four trains are the longest step worth taking before their packets go
/// to the TUN; more only adds latency.
const GRO_BUFFERS: usize = 4;
/// Datagrams in a train at most (`UDP_GRO_CNT_MAX` in net/ipv4/udp_offload.c; as many as a GSO send has that was not
/// segmented on its way).
const GRO_DATAGRAMS: usize = gso_queue::MAX_SEGMENTS;
/// Trains that may be under way: two calls' worth, so that some are received while helpers open the others.
const GRO_TRAINS: usize = 2 * GRO_BUFFERS;
/// Without it one datagram fills one buffer. Enough for jumbo frames; a longer tunnel MTU makes it more.
const PLAIN_BUFFER: usize = 9_216;
/// Buffers per call then: what quinn-udp takes at most.
const PLAIN_BUFFERS: usize = quinn_udp::BATCH_SIZE;
/// What a datagram costs beside its bytes, as bytes.
const PER_DATAGRAM: usize = 512;
/// What WireGuard adds to a packet, and some.
const HEADROOM: usize = 128;

/// Receive memory with the default settings, bytes.
const _: () = assert!(GRO_BUFFER * GRO_TRAINS <= 512 << 10 && PLAIN_BUFFER * PLAIN_BUFFERS <= 512 << 10);

/// Receive buffers, shared by all sockets.
#[derive(Debug)]
pub(crate) struct Receiver {
    gro: bool,
    mtu: usize,
    /// Buffers that one call fills at most.
    buffers: usize,
    /// Last in, first out: what was used last is still in the processor's cache.
    empty: Vec<Received>,
    /// In the order of their arrival.
    filled: VecDeque<Received>,
    meta: [RecvMeta; quinn_udp::BATCH_SIZE],
    last_cost: usize,
    /// In use once recvmmsg(2) was refused.
    plain: Option<PlainCall>,
}

impl Receiver {
    /// `max_buffers` bounds how many buffers one call fills; 1 is one packet per system call.
    pub(crate) fn new(gro: bool, mtu: usize, max_buffers: usize) -> Self {
        let buffers = if gro { GRO_BUFFERS } else { PLAIN_BUFFERS }.min(max_buffers.max(1));
        let (trains, buffers_of_each, datagrams) =
            if gro { (GRO_TRAINS, 1, GRO_DATAGRAMS) } else { (1, buffers, 1) };
        let empty = (0..trains).map(|_| Received::new(buffers_of_each, datagrams)).collect();
        let meta = [RecvMeta::default(); quinn_udp::BATCH_SIZE];
        Self {
            gro,
            mtu,
            buffers,
            empty,
            filled: VecDeque::with_capacity(trains),
            meta,
            last_cost: 0,
            plain: None,
        }
    }

    /// Follows the tunnel's MTU, once what was received is taken out.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    fn buffer_len(&self) -> usize {
        let plain = self.mtu.saturating_add(HEADROOM).clamp(PLAIN_BUFFER, GRO_BUFFER);
        if self.gro { GRO_BUFFER } else { plain }
    }

    /// False while all buffers are lent: see [`give_back`](Self::give_back).
    pub(crate) fn has_buffers(&self) -> bool {
        !self.empty.is_empty()
    }

    /// Fills buffers from the socket; [`next`](Self::next) gives them. True if the socket is drained: wait for it to become
    /// readable.
    ///
    /// # Errors
    /// The system call's. [`is_refused`] tells those that it is no use to try again after.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, counters: &mut IoCounters) -> io::Result<bool> {
        debug_assert!(self.has_buffers(), "a call that has no buffers finds nothing");
        counters.traffic.udp_recv_calls += 1;
        let len = self.buffer_len();
        let mut slices: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let memory = self.empty.iter_mut().rev().flat_map(|empty| empty.buffers_mut(len)).take(self.buffers);
        let offered =
            slices.iter_mut().zip(memory).map(|(slice, memory)| *slice = IoSliceMut::new(memory)).count();
        let filled = match recv(socket, &mut slices[..offered], &mut self.meta, &mut self.plain) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let meta = &self.meta[..filled];
        count(meta, counters);
        self.last_cost = meta.iter().map(cost).sum();
        for meta in meta.chunks(if self.gro { 1 } else { self.buffers }) {
            let Some(mut received) = self.empty.pop() else { break };
            received.fill(meta);
            self.filled.push_back(received);
        }
        // A call that left room has seen the socket empty, and readiness is edge-triggered.
        Ok(filled < offered)
    }

    /// What the last call's datagrams cost, as bytes: theirs, and what each costs beside.
    pub(crate) const fn last_cost(&self) -> usize {
        self.last_cost
    }

    /// What was received first. To be given back.
    pub(crate) fn next(&mut self) -> Option<Received> {
        self.filled.pop_front()
    }

    pub(crate) fn give_back(&mut self, received: Received) {
        self.empty.push(received);
    }
}

fn datagrams(meta: &RecvMeta) -> usize {
    meta.len.div_ceil(meta.stride.max(1)).max(1)
}

fn cost(meta: &RecvMeta) -> usize {
    meta.len + datagrams(meta) * PER_DATAGRAM
}

fn count(filled: &[RecvMeta], counters: &mut IoCounters) {
    for meta in filled {
        let datagrams = datagrams(meta);
        counters.recv_batches.record(datagrams);
        counters.traffic.udp_datagrams_received += datagrams as u64;
        counters.traffic.udp_bytes_received += meta.len as u64;
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};

    use gso_queue::Ecn;
    use quinn_udp::{EcnCodepoint, Transmit};
    use tunnel_core::Arrival;

    use super::*;
    use crate::udp::{SEND_BUFFER, SocketOptions, Sockets, socket::DatagramSocket as _};

    fn datagrams(receiver: &mut Receiver) -> Vec<(Arrival, Vec<u8>)> {
        let mut datagrams = Vec::new();
        while let Some(mut received) = receiver.next() {
            for train in received.trains() {
                let datagram = |bytes: &[u8]| (train.arrival, bytes.to_vec());
                datagrams.extend(train.bytes.chunks(train.stride).map(datagram));
            }
            receiver.give_back(received);
        }
        datagrams
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
            datagrams(receiver)[0].1.len()
        };
        assert_eq!(receive(&mut receiver, PLAIN_BUFFER), PLAIN_BUFFER);
        for mtu in [20_000, 65_000, 1_420] {
            receiver.set_mtu(mtu);
            assert_eq!(receive(&mut receiver, mtu + 32), mtu + 32);
        }
        let len = receiver.buffer_len();
        let memory: usize = receiver.empty[0].buffers_mut(len).map(|buffer| buffer.len()).sum();
        assert_eq!(memory, PLAIN_BUFFER * PLAIN_BUFFERS, "what is not needed is given back");
    }

    #[test]
    fn what_is_lent_is_not_received_into_and_nothing_is_lost_for_it() {
        let sockets = sockets();
        let mut receiver = Receiver::new(true, 1_420, GRO_BUFFERS);
        let sender = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut lent = Vec::new();
        let mut sent = 0;
        while receiver.has_buffers() {
            // No two make a train: they differ in length, upwards.
            sender.send_to(&vec![7; 100 + sent], (Ipv4Addr::LOCALHOST, sockets.port)).unwrap();
            sent += 1;
            receiver.receive(&sockets.v4, &mut IoCounters::default()).unwrap();
            lent.extend(std::iter::from_fn(|| receiver.next()));
        }
        assert_eq!((sent, lent.len()), (GRO_TRAINS, GRO_TRAINS));
        let lengths = lent.iter_mut().map(|received| received.train().unwrap().bytes.len());
        assert!(lengths.eq((0..GRO_TRAINS).map(|i| 100 + i)));
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
}
