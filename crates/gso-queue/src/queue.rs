//! The queue: batches in write order, and the rule for which one a datagram joins.

use std::{collections::VecDeque, fmt, net::IpAddr};

use crate::{
    AppendError, Batch, DatagramSink, Destination, MAX_SEGMENTS, QueueConfig, QueueCounters, Slot,
    Unfinished, Work, batch::Refusal, pool::Pool,
};

/// Outgoing datagrams, in batches that each leave in one send.
///
/// Fill it through [`DatagramSink`], empty it with [`pop`](Self::pop). The crate's page tells the rules. `W` is what may
/// be left to do to a batch between the two ([`Work`]).
pub struct GsoQueue<W = ()> {
    /// In the order of their numbers, which is the order in which they were opened.
    batches: VecDeque<Unfinished<W>>,
    /// The tag of each batch's destination. Finding the newest batch searches these, four bytes a batch.
    tags: Vec<Tag>,
    pool: Pool<W>,
    max_segments: usize,
    buffer_bytes: usize,
    /// Unsent bytes in `batches`.
    bytes: usize,
    /// Batches in `batches` that are finished.
    finished: usize,
    counters: QueueCounters,
}

impl<W: Work> GsoQueue<W> {
    /// An empty queue. Its buffers are allocated when first needed; all else is allocated here.
    pub fn new(config: QueueConfig) -> Self {
        let buffers = config.buffers.max(1);
        let buffer_bytes = config.buffer_bytes.max(1);
        let mut queue = Self {
            batches: VecDeque::with_capacity(buffers),
            tags: Vec::with_capacity(buffers),
            pool: Pool::new(buffers, buffer_bytes),
            max_segments: 1,
            buffer_bytes,
            bytes: 0,
            finished: 0,
            counters: QueueCounters::default(),
        };
        queue.set_max_segments(config.max_segments);
        queue
    }

    /// Changes how many datagrams may share a batch from now on (moved into 1 to [`MAX_SEGMENTS`]).
    /// Batches that are already longer stay so: send them with
    /// [`unsent_prefix`](Batch::unsent_prefix).
    pub fn set_max_segments(&mut self, max_segments: usize) {
        self.max_segments = max_segments.clamp(1, MAX_SEGMENTS);
    }

    /// How many datagrams may share a batch.
    pub const fn max_segments(&self) -> usize {
        self.max_segments
    }

    /// Takes out the oldest batch. `None` when the queue is empty.
    pub fn pop(&mut self) -> Option<Unfinished<W>> {
        self.pop_where(|_| true)
    }

    /// Takes out the oldest batch whose destination `ready` accepts, for a sender with several sockets of
    /// which some would block. Order stays sacred as long as `ready` decides by the remote address.
    pub fn pop_where(&mut self, mut ready: impl FnMut(Destination) -> bool) -> Option<Unfinished<W>> {
        self.remove_first(|batch| ready(batch.destination()))
    }

    /// Takes out the oldest batch that was never finished.
    ///
    /// With [`pop_finished_where`](Self::pop_finished_where), for an owner that has batches finished elsewhere: as long as
    /// they come back in the order in which they were popped, and those that were finished and restored leave first,
    /// nothing overtakes.
    pub fn pop_unfinished(&mut self) -> Option<Unfinished<W>> {
        self.remove_first(|batch| !batch.is_finished())
    }

    /// Takes out the oldest batch that was never finished, unless a datagram to come could have joined it. So it may be
    /// finished while others are still being filled, and none is shorter for it.
    pub fn pop_closed(&mut self) -> Option<Unfinished<W>> {
        let index = self.batches.iter().position(|batch| !batch.is_finished())?;
        self.batches[index].is_sealed().then(|| self.remove(index)).flatten()
    }

    /// Takes out the oldest batch that was finished, and restored, among those whose destination `ready` accepts.
    pub fn pop_finished_where(&mut self, mut ready: impl FnMut(Destination) -> bool) -> Option<Batch<W>> {
        if self.finished == 0 {
            return None; // mostly
        }
        self.remove_first(|batch| batch.is_finished() && ready(batch.destination())).map(Unfinished::finish)
    }

    fn remove_first(&mut self, wanted: impl FnMut(&Unfinished<W>) -> bool) -> Option<Unfinished<W>> {
        let index = self.batches.iter().position(wanted)?;
        self.remove(index)
    }

    fn remove(&mut self, index: usize) -> Option<Unfinished<W>> {
        let mut batch = self.batches.remove(index)?;
        self.tags.remove(index);
        batch.seal();
        self.bytes -= batch.unsent_len();
        self.finished -= usize::from(batch.is_finished());
        Some(batch)
    }

    /// Puts back a batch that could not be sent, or not all of it, in its old place in the order: before
    /// everything that was appended after it, in whatever order several are put back. Nothing joins it
    /// any more, and nothing overtakes it.
    ///
    /// A batch with nothing left to send is recycled instead. One that is finished stays so.
    pub fn restore(&mut self, batch: impl Into<Unfinished<W>>) {
        let batch = batch.into();
        if batch.is_done() {
            return self.recycle(batch);
        }
        let index = self.batches.partition_point(|earlier| earlier.number() < batch.number());
        self.bytes += batch.unsent_len();
        self.finished += usize::from(batch.is_finished());
        self.tags.insert(index, Tag::of(&batch.destination()));
        self.batches.insert(index, batch);
    }

    /// Gives a batch's buffer back to the pool. Whatever of it is unsent is gone, and so is what was left to do to it.
    pub fn recycle(&mut self, batch: impl Into<Unfinished<W>>) {
        self.pool.give_back(batch.into().into_buffer());
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Batches waiting, each one send.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Bytes waiting (UDP payload).
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many more batches may be opened before appending answers [`AppendError::Full`].
    pub fn free_buffers(&self) -> usize {
        self.pool.available()
    }

    /// A snapshot of the counters.
    pub const fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// The longest batch, and so the longest datagram, that may go there. Bytes.
    fn max_bytes(&self, to: Destination) -> usize {
        to.max_payload().min(self.buffer_bytes)
    }

    /// Where the newest batch is that a datagram to this destination must not overtake.
    fn newest(&self, to: &Destination) -> Option<usize> {
        let last = self.batches.len().checked_sub(1)?;
        // A stream appends to the newest batch of all, again and again.
        if self.batches[last].destination().is_ordered_with(to) {
            return Some(last);
        }
        let tag = Tag::of(to);
        let mut end = last;
        while let Some(found) = tag.newest_in(&self.tags[..end]) {
            if self.batches[found].destination().is_ordered_with(to) {
                return Some(found);
            }
            end = found; // another destination with the same tag
        }
        None
    }

    fn join<E>(
        &mut self,
        index: usize,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        let batch = &mut self.batches[index];
        batch.join(len, fill).map_err(AppendError::Fill)?;
        self.counters.sealed_by_shorter += u64::from(batch.is_sealed());
        Ok(())
    }

    /// Opens a batch behind all others. The datagram is written into the pool's next buffer before that
    /// buffer is taken, so a failing `fill` leaves nothing to undo.
    fn open<E>(
        &mut self,
        to: Destination,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        let Some((bytes, work)) = self.pool.next_mut() else {
            self.counters.refused_full += 1;
            return Err(AppendError::Full);
        };
        fill(Slot { bytes: &mut bytes[..len], segment: 0, work }).map_err(AppendError::Fill)?;
        let buffer = self.pool.take().ok_or(AppendError::Full)?;

        self.batches.push_back(Unfinished::open(self.counters.batches, to, buffer, len));
        self.tags.push(Tag::of(&to));
        self.counters.batches += 1;
        Ok(())
    }

    const fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Sealed => {} // counted when it was sealed
            Refusal::OtherHeader => self.counters.left_for_other_header += 1,
            Refusal::Longer => self.counters.left_for_longer += 1,
            Refusal::SegmentCap => self.counters.left_at_segment_cap += 1,
            Refusal::ByteCap => self.counters.left_at_byte_cap += 1,
        }
    }
}

/// Without the bytes.
impl<W: Work> fmt::Debug for GsoQueue<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GsoQueue")
            .field("batches", &self.batches)
            .field("bytes", &self.bytes)
            .field("free_buffers", &self.free_buffers())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl<W: Work> Default for GsoQueue<W> {
    fn default() -> Self {
        Self::new(QueueConfig::default())
    }
}

impl<W: Work> DatagramSink<W> for GsoQueue<W> {
    fn append<E>(
        &mut self,
        to: Destination,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        if len == 0 {
            return Err(AppendError::Empty);
        }
        let max_bytes = self.max_bytes(to);
        if len > max_bytes {
            return Err(AppendError::TooLong(len));
        }
        // Only the newest batch is open: joining an older one would overtake.
        let newest = self.newest(&to);
        match newest.map(|i| (i, self.batches[i].admits(&to, len, self.max_segments, max_bytes))) {
            Some((newest, Ok(()))) => self.join(newest, len, fill)?,
            Some((newest, Err(refusal))) => {
                self.open(to, len, fill)?;
                self.batches[newest].seal(); // it is no longer the newest
                self.count(refusal);
            }
            None => self.open(to, len, fill)?,
        }
        self.bytes += len;
        self.counters.datagrams += 1;
        self.counters.bytes += len as u64;
        Ok(())
    }
}

/// Four bytes of hash. Destinations that [are ordered](Destination::is_ordered_with) with each other have
/// equal tags, others almost always differ; a peer who makes them collide costs us one full comparison a
/// batch.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag(u32);

impl Tag {
    fn of(to: &Destination) -> Self {
        /// 2^64 / φ, odd: multiplying by it spreads every input bit over the high half.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let address = match to.remote.ip() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                ((bits >> 64) as u64).wrapping_mul(SPREAD) ^ bits as u64
            }
        };
        let rest = u64::from(to.remote.port()) << 2 | u64::from(to.ecn.is_capable());
        let mixed = (address.wrapping_mul(SPREAD) ^ rest).wrapping_mul(SPREAD);
        Self((mixed >> 32) as u32)
    }

    /// The last place in `tags` where this one stands.
    fn newest_in(self, tags: &[Self]) -> Option<usize> {
        /// Compared without a branch between them, so with vector instructions: a search through 128
        /// tags, the default's worst case, takes 8 steps.
        const AT_ONCE: usize = 16;
        let mut end = tags.len();
        for chunk in tags.rchunks(AT_ONCE) {
            let start = end - chunk.len();
            if chunk.iter().fold(false, |found, tag| found | (*tag == self)) {
                return chunk.iter().rposition(|tag| *tag == self).map(|i| start + i);
            }
            end = start;
        }
        None
    }
}

#[cfg(test)]
mod tests;
