//! What was received, until its datagrams are taken out.

use std::net::IpAddr;

use encrypt::transport::TrainOpening;
use gso_queue::Ecn;
use quinn_udp::{EcnCodepoint, RecvMeta};
use tunnel_core::Arrival;

/// What is in one buffer: datagrams of `stride` bytes, of which the last may be shorter. An empty datagram is one, too.
#[derive(Debug)]
pub(crate) struct Train<'a> {
    pub(crate) arrival: Arrival,
    pub(crate) bytes: &'a mut [u8],
    pub(crate) stride: usize,
    /// How far it was opened and taken.
    pub(crate) opening: &'a mut TrainOpening,
}

/// The buffers that belong together: with `UDP_GRO` one, with a train in it; without, those of one call, with a datagram each.
///
/// Owns them, so that a helper may have it while others are filled.
#[derive(Debug)]
pub(crate) struct Received {
    memory: Vec<u8>,
    buffer_len: usize,
    /// Of each buffer.
    meta: Vec<RecvMeta>,
    openings: Vec<TrainOpening>,
    /// Buffers filled.
    filled: usize,
    /// The next of them.
    buffer: usize,
}

impl Received {
    /// With so many buffers, and in each of them so many datagrams at most; if there are more, room for them is made.
    pub(super) fn new(buffers: usize, datagrams: usize) -> Self {
        Self {
            memory: Vec::new(),
            buffer_len: 0,
            meta: vec![RecvMeta::default(); buffers],
            openings: (0..buffers).map(|_| TrainOpening::with_capacity(datagrams)).collect(),
            filled: 0,
            buffer: 0,
        }
    }

    /// The buffers, to be filled. Each is as long as that from now on.
    pub(super) fn buffers_mut(&mut self, len: usize) -> impl Iterator<Item = &mut [u8]> {
        if len != self.buffer_len {
            self.buffer_len = len;
            self.memory = vec![0; len * self.meta.len()];
        }
        self.memory.chunks_mut(len)
    }

    /// So its first buffers were filled.
    pub(super) fn fill(&mut self, meta: &[RecvMeta]) {
        self.meta[..meta.len()].copy_from_slice(meta);
        (self.filled, self.buffer) = (meta.len(), 0);
    }

    /// How much there is to open, bytes.
    pub(crate) fn len(&self) -> usize {
        self.meta[..self.filled].iter().map(|meta| meta.len).sum()
    }

    /// All that is in it.
    pub(crate) fn trains(&mut self) -> impl Iterator<Item = Train<'_>> {
        let buffers = self.memory.chunks_mut(self.buffer_len.max(1)).zip(&mut self.openings);
        self.meta[..self.filled].iter().zip(buffers).map(|(meta, (memory, opening))| {
            let arrival =
                Arrival { remote: meta.addr, local: meta.dst_ip.filter(can_pin), ecn: ecn(meta.ecn) };
            let len = meta.len.min(memory.len());
            Train { arrival, bytes: &mut memory[..len], stride: meta.stride, opening }
        })
    }

    /// The one at hand, to be used up. `None` when all were.
    pub(crate) fn train(&mut self) -> Option<Train<'_>> {
        let at_hand = self.buffer;
        self.trains().nth(at_hand)
    }

    /// Goes on to the next one.
    pub(crate) fn advance(&mut self) {
        self.buffer += 1;
    }

    /// Opens what it was prepared for.
    pub(crate) fn open(&mut self) {
        for train in self.trains() {
            train.opening.run(train.bytes);
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

    const BUFFER: usize = 65_536;

    /// The lengths of the datagrams in buffers with so many bytes, in datagrams of that stride.
    fn lengths(buffers: &[(usize, usize)]) -> Vec<usize> {
        let mut received = Received::new(buffers.len().max(1), 1);
        received.buffers_mut(BUFFER).count();
        let meta = buffers.iter().map(|&(len, stride)| {
            let mut meta = RecvMeta::default();
            (meta.len, meta.stride) = (len, stride);
            meta
        });
        received.fill(&meta.collect::<Vec<_>>());
        let mut lengths = Vec::new();
        for train in received.trains() {
            train.opening.prepare(train.bytes, train.stride, |_| None);
            while let Some(arrived) = train.opening.take_next() {
                lengths.push(arrived.place.len());
                assert!(lengths.len() <= 1_000, "it goes on for ever");
            }
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
        assert_eq!(lengths(&[(BUFFER + 1, 60_000)]), [60_000, BUFFER - 60_000]);
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
