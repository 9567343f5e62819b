//! Receiving: several buffers per call, several datagrams per buffer.

use std::{
    io::{self, IoSliceMut},
    net::IpAddr,
};

use gso_queue::Ecn;
use quinn_udp::{EcnCodepoint, RecvMeta};
use tunnel_core::Arrival;

use crate::{IoCounters, udp::socket::UdpSocket};

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

/// Receive buffers, shared by all sockets, and how far what is in them was taken out.
#[derive(Debug)]
pub(crate) struct Receiver {
    memory: Vec<u8>,
    buffer_len: usize,
    buffers: usize,
    gro: bool,
    mtu: usize,
    meta: [RecvMeta; quinn_udp::BATCH_SIZE],
    /// Buffers filled by the last call.
    filled: usize,
    /// The next datagram: its buffer, and where it starts.
    buffer: usize,
    offset: usize,
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
            filled: 0,
            buffer: 0,
            offset: 0,
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

    /// Fills the buffers from the socket; to be called when [`datagram`](Self::datagram) gives no more. True
    /// if the socket is drained: wait for it to become readable.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, counters: &mut IoCounters) -> io::Result<bool> {
        debug_assert!(self.datagram().is_none(), "what was received last is lost");
        (self.filled, self.buffer, self.offset) = (0, 0, 0);
        self.fit_buffers();
        counters.traffic.udp_recv_calls += 1;
        let mut memory = self.memory.chunks_mut(self.buffer_len);
        let mut slices: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(memory.next().unwrap_or_default()));
        match socket.recv(&mut slices[..self.buffers], &mut self.meta) {
            Ok(filled) => self.filled = filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.count(counters);
        // A call that left room has seen the socket empty, and readiness is edge-triggered.
        Ok(self.filled < self.buffers)
    }

    /// The datagram at hand, with how it came. `None` when all are taken.
    pub(crate) fn datagram(&self) -> Option<(Arrival, &[u8])> {
        let meta = self.meta[..self.filled].get(self.buffer)?;
        let arrival = Arrival { remote: meta.addr, local: meta.dst_ip.filter(can_pin), ecn: ecn(meta.ecn) };
        let memory = &self.memory[self.buffer * self.buffer_len..][..self.buffer_len];
        Some((arrival, &memory[self.offset..self.end_of_datagram(meta)]))
    }

    /// Goes on to the next datagram.
    pub(crate) fn advance(&mut self) {
        let Some(meta) = self.meta[..self.filled].get(self.buffer) else { return };
        self.offset = self.end_of_datagram(meta);
        if self.offset >= meta.len.min(self.buffer_len) {
            (self.buffer, self.offset) = (self.buffer + 1, 0);
        }
    }

    /// All datagrams of a buffer are `stride` bytes long but for the last. An empty one is one, too.
    fn end_of_datagram(&self, meta: &RecvMeta) -> usize {
        let end = self.offset + meta.stride.max(1);
        end.min(meta.len).min(self.buffer_len)
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
    use super::*;

    /// A receiver whose buffers hold so many bytes, in datagrams of that stride.
    fn filled_with(buffers: &[(usize, usize)]) -> Receiver {
        let mut receiver = Receiver::new(true, 1_420, GRO_BUFFERS);
        for (meta, (len, stride)) in receiver.meta.iter_mut().zip(buffers) {
            (meta.len, meta.stride) = (*len, *stride);
        }
        receiver.filled = buffers.len();
        receiver
    }

    fn lengths(buffers: &[(usize, usize)]) -> Vec<usize> {
        let mut receiver = filled_with(buffers);
        let mut lengths = Vec::new();
        while let Some((_, datagram)) = receiver.datagram() {
            lengths.push(datagram.len());
            receiver.advance();
            assert!(lengths.len() <= 1_000, "it goes on for ever");
        }
        lengths
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

    #[test]
    fn replies_are_not_pinned_to_addresses_that_nothing_leaves_from() {
        for address in ["224.0.0.1", "255.255.255.255", "0.0.0.0", "ff02::1", "::"] {
            assert!(!can_pin(&address.parse().unwrap()), "{address}");
        }
        assert!(can_pin(&"192.0.2.1".parse().unwrap()));
        assert!(can_pin(&"fe80::1".parse().unwrap()));
    }
}
