//! One batch: datagrams of one destination, back to back in one buffer.

use std::fmt;

use crate::{Destination, pool::Buffer};

/// Datagrams of one destination that may leave in one send: all [`segment_len`](Self::segment_len) bytes
/// long, but for the last, which may be shorter.
///
/// A batch owns its bytes and remembers how far it was sent, so it survives a send that would block,
/// fails or is cancelled. When done with it, give it back with
/// [`GsoQueue::recycle`](crate::GsoQueue::recycle). Dropping it is no leak, only a waste: its buffer is
/// freed, and the queue allocates another when it needs one.
#[must_use = "dropping a batch drops the datagrams in it"]
pub struct Batch {
    destination: Destination,
    buffer: Buffer,
    /// The queue's count of batches when this one was opened: its place in write order.
    number: u64,
    segment_len: usize,
    /// Bytes written; `buffer` is valid up to here.
    end: usize,
    /// Datagrams written.
    segments: usize,
    /// Bytes sent; a multiple of `segment_len`, or `end`.
    sent: usize,
    /// True once nothing may join: the last segment is short, or the batch has left the queue before.
    sealed: bool,
}

/// Why a datagram may not join a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Sealed,
    OtherHeader,
    Longer,
    SegmentCap,
    ByteCap,
}

impl Batch {
    /// Where all of it goes.
    #[inline]
    pub const fn destination(&self) -> Destination {
        self.destination
    }

    /// Length of every datagram but the last, bytes: the value for `UDP_SEGMENT`.
    pub const fn segment_len(&self) -> usize {
        self.segment_len
    }

    /// The datagrams still to send, back to back.
    pub fn unsent(&self) -> &[u8] {
        &self.buffer.bytes()[self.sent..self.end]
    }

    /// The first of them: as many whole datagrams as there are, but at most `max_segments`. For a sender
    /// that must send fewer at once than the queue allowed; with 1, one at a time.
    pub fn unsent_prefix(&self, max_segments: usize) -> &[u8] {
        let unsent = self.unsent();
        let len = max_segments.saturating_mul(self.segment_len).min(unsent.len());
        &unsent[..len]
    }

    /// The datagrams still to send, one by one.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator {
        self.unsent().chunks(self.segment_len)
    }

    /// How many datagrams are still to send.
    pub fn segments_left(&self) -> usize {
        self.unsent().len().div_ceil(self.segment_len)
    }

    /// True if more than one datagram is to send. Only then may `UDP_SEGMENT` be set: a plain send must
    /// stay plain.
    pub fn is_gso(&self) -> bool {
        self.unsent().len() > self.segment_len
    }

    /// Remembers that the next `segments` datagrams were sent, or given up.
    pub fn advance(&mut self, segments: usize) {
        let bytes = segments.saturating_mul(self.segment_len);
        self.sent = self.sent.saturating_add(bytes).min(self.end);
    }

    /// True when there is nothing left to send.
    pub const fn is_done(&self) -> bool {
        self.sent == self.end
    }

    /// A batch with one datagram, already written to the start of `buffer`.
    pub(crate) fn open(number: u64, destination: Destination, buffer: Buffer, len: usize) -> Self {
        debug_assert!(len > 0, "an empty datagram has no segment length");
        Self { destination, buffer, number, segment_len: len, end: len, segments: 1, sent: 0, sealed: false }
    }

    /// May a datagram of `len` bytes join? The kernel cuts a train at every `segment_len` bytes, so
    /// only the last datagram may be shorter and none longer.
    pub(crate) fn admits(
        &self,
        to: &Destination,
        len: usize,
        max_segments: usize,
        max_bytes: usize,
    ) -> Result<(), Refusal> {
        if self.sealed {
            return Err(Refusal::Sealed);
        }
        if self.destination != *to {
            return Err(Refusal::OtherHeader);
        }
        if len > self.segment_len {
            return Err(Refusal::Longer);
        }
        if self.segments >= max_segments {
            return Err(Refusal::SegmentCap);
        }
        // `end` is at most `max_bytes`, and so is `len`: no overflow.
        if self.end + len > max_bytes {
            return Err(Refusal::ByteCap);
        }
        Ok(())
    }

    /// Writes a datagram that [`admits`](Self::admits) let in. Nothing changes if `fill` fails.
    pub(crate) fn join<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = self.end + len;
        fill(&mut self.buffer.bytes_mut()[self.end..end])?;
        self.end = end;
        self.segments += 1;
        self.sealed = len < self.segment_len;
        Ok(())
    }

    /// Lets nothing more join.
    pub(crate) const fn seal(&mut self) {
        self.sealed = true;
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

/// Without the bytes.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("destination", &self.destination)
            .field("segment_len", &self.segment_len)
            .field("segments_left", &self.segments_left())
            .field("unsent_bytes", &self.unsent().len())
            .finish_non_exhaustive()
    }
}
