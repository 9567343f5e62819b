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

/// Receive buffers, shared by all sockets, for the loop is done with them before it receives again.
#[derive(Debug)]
pub(crate) struct Receiver {
    memory: Vec<u8>,
    buffer_len: usize,
    buffers: usize,
    meta: [RecvMeta; quinn_udp::BATCH_SIZE],
}

/// What one call gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    buffers: usize,
    /// The socket had no more: wait for it to become readable.
    pub(crate) drained: bool,
}

impl Receiver {
    /// `max_buffers` bounds how many buffers one call fills; 1 is one packet per system call.
    pub(crate) fn new(gro: bool, mtu: usize, max_buffers: usize) -> Self {
        let (buffer_len, buffers) = match gro {
            true => (GRO_BUFFER, GRO_BUFFERS),
            false => (PLAIN_BUFFER.max(mtu + HEADROOM), PLAIN_BUFFERS),
        };
        let buffers = buffers.min(max_buffers.max(1));
        let meta = [RecvMeta::default(); quinn_udp::BATCH_SIZE];
        Self { memory: vec![0; buffer_len * buffers], buffer_len, buffers, meta }
    }

    /// Fills buffers from the socket. What came is in [`datagrams`](Self::datagrams).
    pub(crate) fn receive(&mut self, socket: &UdpSocket, counters: &mut IoCounters) -> io::Result<Received> {
        counters.traffic.udp_recv_calls += 1;
        let mut memory = self.memory.chunks_mut(self.buffer_len);
        let mut slices: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(memory.next().unwrap_or_default()));
        match socket.recv(&mut slices[..self.buffers], &mut self.meta) {
            Ok(buffers) => {
                // Edge-triggered readiness: a call that left room has seen the socket empty. With a
                // single buffer there is no such sign but the next call.
                let drained = buffers < self.buffers;
                Ok(Received { buffers, drained })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Received { buffers: 0, drained: true })
            }
            Err(error) => Err(error),
        }
    }

    /// Every datagram of the last call, with how it came.
    pub(crate) fn datagrams(&self, received: Received) -> impl Iterator<Item = (Arrival, &[u8])> {
        self.memory.chunks(self.buffer_len).zip(&self.meta).take(received.buffers).flat_map(
            |(buffer, meta)| {
                let arrival =
                    Arrival { remote: meta.addr, local: meta.dst_ip.filter(can_pin), ecn: ecn(meta.ecn) };
                split(&buffer[..meta.len.min(buffer.len())], meta.stride)
                    .map(move |datagram| (arrival, datagram))
            },
        )
    }

    /// Counts what the last call gave.
    pub(crate) fn count(&self, received: Received, counters: &mut IoCounters) {
        for meta in &self.meta[..received.buffers] {
            let datagrams = meta.len.div_ceil(meta.stride.max(1)).max(1);
            counters.recv_batches.record(datagrams);
            counters.traffic.udp_datagrams_received += datagrams as u64;
            counters.traffic.udp_bytes_received += meta.len as u64;
        }
    }
}

/// The datagrams of a GRO buffer: all `stride` bytes long but for the last. An empty one is one, too.
fn split(buffer: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    let empty = buffer.is_empty().then_some(buffer);
    empty.into_iter().chain(buffer.chunks(stride.max(1)))
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

    fn lengths(buffer: &[u8], stride: usize) -> Vec<usize> {
        split(buffer, stride).map(<[u8]>::len).collect()
    }

    #[test]
    fn gro_buffers_split_at_every_stride() {
        assert_eq!(lengths(&[0; 250], 100), [100, 100, 50]);
        assert_eq!(lengths(&[0; 200], 100), [100, 100]);
        assert_eq!(lengths(&[0; 50], 100), [50]);
        assert_eq!(lengths(&[0; 128], 1).len(), 128);
    }

    #[test]
    fn an_empty_datagram_is_one_datagram() {
        assert_eq!(lengths(&[], 0), [0]);
        assert_eq!(lengths(&[], 100), [0]);
    }
}
