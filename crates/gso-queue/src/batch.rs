//! One batch: datagrams of one destination, back to back in one buffer.

use std::fmt;

use crate::{Destination, Slot, Work, pool::Buffer};

/// Datagrams of one destination that may leave in one send, once what is [left to do](Work) to them is done.
///
/// Its bytes are out of reach until then, so that nothing leaves half made: plaintext, say. It may be moved to another
/// thread to be [finished](Self::finish) there.
///
/// ```compile_fail
/// # use gso_queue::GsoQueue;
/// let mut queue: GsoQueue = GsoQueue::default();
/// queue.pop().map(|batch| batch.unsent().to_vec());
/// ```
#[must_use = "dropping a batch drops the datagrams in it"]
pub struct Unfinished<W = ()>(Inner<W>);

/// Datagrams of one destination that may leave in one send: all [`segment_len`](Self::segment_len) bytes
/// long, but for the last, which may be shorter.
///
/// A batch owns its bytes and remembers how far it was sent, so it survives a send that would block,
/// fails or is cancelled. When done with it, give it back with
/// [`GsoQueue::recycle`](crate::GsoQueue::recycle). Dropping it is no leak, only a waste: its buffer is
/// freed, and the queue allocates another when it needs one.
#[must_use = "dropping a batch drops the datagrams in it"]
pub struct Batch<W = ()>(Inner<W>);

struct Inner<W> {
    destination: Destination,
    buffer: Buffer<W>,
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
    /// True once its work is done.
    finished: bool,
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

impl<W> Batch<W> {
    /// Where all of it goes.
    #[inline]
    pub const fn destination(&self) -> Destination {
        self.0.destination
    }

    /// Length of every datagram but the last, bytes: the value for `UDP_SEGMENT`.
    pub const fn segment_len(&self) -> usize {
        self.0.segment_len
    }

    /// The datagrams still to send, back to back.
    pub fn unsent(&self) -> &[u8] {
        &self.0.buffer.bytes()[self.0.sent..self.0.end]
    }

    /// The first of them: as many whole datagrams as there are, but at most `max_segments`. For a sender
    /// that must send fewer at once than the queue allowed; with 1, one at a time.
    pub fn unsent_prefix(&self, max_segments: usize) -> &[u8] {
        let unsent = self.unsent();
        let len = max_segments.saturating_mul(self.0.segment_len).min(unsent.len());
        &unsent[..len]
    }

    /// The datagrams still to send, one by one.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator {
        self.unsent().chunks(self.0.segment_len)
    }

    /// How many datagrams are still to send.
    pub const fn segments_left(&self) -> usize {
        self.0.segments_left()
    }

    /// True if more than one datagram is to send. Only then may `UDP_SEGMENT` be set: a plain send must
    /// stay plain.
    pub const fn is_gso(&self) -> bool {
        self.0.unsent_len() > self.0.segment_len
    }

    /// Remembers that the next `segments` datagrams were sent, or given up.
    pub fn advance(&mut self, segments: usize) {
        let bytes = segments.saturating_mul(self.0.segment_len);
        self.0.sent = self.0.sent.saturating_add(bytes).min(self.0.end);
    }

    /// True when there is nothing left to send.
    pub const fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

impl<W> Unfinished<W> {
    /// Where all of it goes.
    #[inline]
    pub const fn destination(&self) -> Destination {
        self.0.destination
    }

    /// Length of every datagram but the last, bytes.
    pub const fn segment_len(&self) -> usize {
        self.0.segment_len
    }

    /// How many datagrams are to send.
    pub const fn segments_left(&self) -> usize {
        self.0.segments_left()
    }

    /// How many bytes are to send.
    pub const fn unsent_len(&self) -> usize {
        self.0.unsent_len()
    }

    /// A batch with one datagram, already written to the start of `buffer`.
    pub(crate) fn open(number: u64, destination: Destination, buffer: Buffer<W>, len: usize) -> Self {
        debug_assert!(len > 0, "an empty datagram has no segment length");
        Self(Inner {
            destination,
            buffer,
            number,
            segment_len: len,
            end: len,
            segments: 1,
            sent: 0,
            sealed: false,
            finished: false,
        })
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
        let batch = &self.0;
        if batch.sealed {
            return Err(Refusal::Sealed);
        }
        if batch.destination != *to {
            return Err(Refusal::OtherHeader);
        }
        if len > batch.segment_len {
            return Err(Refusal::Longer);
        }
        if batch.segments >= max_segments {
            return Err(Refusal::SegmentCap);
        }
        // `end` is at most `max_bytes`, and so is `len`: no overflow.
        if batch.end + len > max_bytes {
            return Err(Refusal::ByteCap);
        }
        Ok(())
    }

    /// Writes a datagram that [`admits`](Self::admits) let in. Nothing changes if `fill` fails.
    pub(crate) fn join<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), E> {
        let batch = &mut self.0;
        let end = batch.end + len;
        let (bytes, work) = batch.buffer.parts_mut();
        fill(Slot { bytes: &mut bytes[batch.end..end], segment: batch.segments, work })?;
        batch.end = end;
        batch.segments += 1;
        batch.sealed = len < batch.segment_len;
        Ok(())
    }

    /// Lets nothing more join.
    pub(crate) const fn seal(&mut self) {
        self.0.sealed = true;
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        self.0.sealed
    }

    pub(crate) const fn is_finished(&self) -> bool {
        self.0.finished
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.0.is_done()
    }

    pub(crate) const fn number(&self) -> u64 {
        self.0.number
    }

    pub(crate) fn into_buffer(self) -> Buffer<W> {
        self.0.buffer
    }
}

impl<W: Work> Unfinished<W> {
    /// Does what is left to do, if anything is.
    pub fn finish(mut self) -> Batch<W> {
        self.work();
        Batch(self.0)
    }

    /// [`finish`](Self::finish) for whoever only has it on loan: a later `finish` finds nothing left to do.
    pub fn work(&mut self) {
        let batch = &mut self.0;
        if !batch.finished {
            let (bytes, work) = batch.buffer.parts_mut();
            work.finish(&mut bytes[..batch.end], batch.segment_len);
            batch.finished = true;
        }
    }
}

/// To be restored or recycled. Nothing is left to do to it, and nothing is done again.
impl<W> From<Batch<W>> for Unfinished<W> {
    fn from(batch: Batch<W>) -> Self {
        Self(batch.0)
    }
}

impl<W> Inner<W> {
    const fn unsent_len(&self) -> usize {
        self.end - self.sent
    }

    const fn segments_left(&self) -> usize {
        self.unsent_len().div_ceil(self.segment_len)
    }

    const fn is_done(&self) -> bool {
        self.sent == self.end
    }

    /// Without the bytes.
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("destination", &self.destination)
            .field("segment_len", &self.segment_len)
            .field("segments_left", &self.segments_left())
            .field("unsent_bytes", &self.unsent_len())
            .finish_non_exhaustive()
    }
}

impl<W> fmt::Debug for Batch<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt("Batch", f)
    }
}

impl<W> fmt::Debug for Unfinished<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt("Unfinished", f)
    }
}
