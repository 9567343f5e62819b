//! A bounded pool of equal buffers, each with the work of the batch that is in it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::BytesMut;

use crate::Work;

/// One buffer of a [`Pool`]. Given back, it is used again; dropped, it is freed and the pool may
/// allocate another in its place. Either way the pool's bound holds and nothing is lost.
pub(crate) struct Buffer<W> {
    /// Always at its full length, so that writing into it never zeroes or grows anything; whoever holds
    /// it remembers how far it is filled.
    bytes: BytesMut,
    /// Kept with the buffer for the sake of what it has allocated itself.
    work: W,
    /// Buffers of the pool that exist, this one among them.
    allocated: Arc<AtomicUsize>,
}

impl<W> Buffer<W> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn parts_mut(&mut self) -> (&mut [u8], &mut W) {
        (&mut self.bytes, &mut self.work)
    }
}

impl<W> Drop for Buffer<W> {
    fn drop(&mut self) {
        // Freed first and counted second, so that the bound holds at every moment. `Relaxed`, since the
        // count guards no data.
        self.bytes = BytesMut::new();
        self.allocated.fetch_sub(1, Relaxed);
    }
}

/// At most `buffers` buffers of `buffer_bytes` each, allocated when first needed.
pub(crate) struct Pool<W> {
    /// Last in, first out: the buffer used last is the one still in the processor's cache.
    free: Vec<Buffer<W>>,
    allocated: Arc<AtomicUsize>,
    buffers: usize,
    buffer_bytes: usize,
}

impl<W: Work> Pool<W> {
    pub(crate) fn new(buffers: usize, buffer_bytes: usize) -> Self {
        let free = Vec::with_capacity(buffers);
        Self { free, allocated: Arc::default(), buffers, buffer_bytes }
    }

    /// Buffers that may still be taken.
    pub(crate) fn available(&self) -> usize {
        let lent = self.allocated.load(Relaxed) - self.free.len();
        self.buffers - lent
    }

    /// The buffer that [`take`](Self::take) would give next, to be written before it is
    /// taken: if the writing fails, or panics, there is nothing to give back.
    pub(crate) fn next_mut(&mut self) -> Option<(&mut [u8], &mut W)> {
        if self.free.is_empty() && self.allocated.load(Relaxed) < self.buffers {
            self.allocated.fetch_add(1, Relaxed);
            // The allocator gives zeroed pages untouched: memory is resident only as far as it is used.
            let bytes = BytesMut::zeroed(self.buffer_bytes);
            self.free.push(Buffer { bytes, work: W::default(), allocated: Arc::clone(&self.allocated) });
        }
        self.free.last_mut().map(Buffer::parts_mut)
    }

    /// The buffer last shown by [`next_mut`](Self::next_mut).
    pub(crate) fn take(&mut self) -> Option<Buffer<W>> {
        self.free.pop()
    }

    /// Takes back a buffer of this pool, whatever is left to do in it; frees one of another pool, which counts it.
    pub(crate) fn give_back(&mut self, mut buffer: Buffer<W>) {
        let ours = Arc::ptr_eq(&self.allocated, &buffer.allocated);
        if ours {
            buffer.work.clear();
            debug_assert_eq!(buffer.bytes.len(), self.buffer_bytes, "a buffer changed its size");
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pool: &mut Pool<()>) -> Option<Buffer<()>> {
        pool.next_mut()?;
        pool.take()
    }

    #[test]
    fn nothing_is_allocated_before_it_is_needed() {
        let pool = Pool::<()>::new(8, 64);
        assert_eq!(pool.allocated.load(Relaxed), 0);
        assert_eq!(pool.available(), 8);
    }

    #[test]
    fn the_bound_holds_and_a_returned_buffer_is_the_next_one_out() {
        let mut pool = Pool::new(2, 64);
        let first = taken(&mut pool).unwrap();
        let second = taken(&mut pool).unwrap();
        assert!(pool.next_mut().is_none());
        assert_eq!(pool.available(), 0);

        let address = first.bytes().as_ptr();
        pool.give_back(first);
        pool.give_back(second);
        taken(&mut pool);
        assert_eq!(taken(&mut pool).unwrap().bytes().as_ptr(), address);
    }

    #[test]
    fn buffers_keep_their_size_and_capacity() {
        let mut pool = Pool::new(1, 64);
        for _ in 0..3 {
            let buffer = taken(&mut pool).unwrap();
            assert_eq!((buffer.bytes.len(), buffer.bytes.capacity()), (64, 64));
            pool.give_back(buffer);
        }
    }

    #[test]
    fn a_dropped_buffer_makes_room_for_another() {
        let mut pool = Pool::new(1, 64);
        drop(taken(&mut pool));
        assert_eq!(pool.available(), 1);
        assert!(taken(&mut pool).is_some());
    }

    #[test]
    fn a_foreign_buffer_is_freed_and_counted_where_it_came_from() {
        let mut home = Pool::new(1, 64);
        let mut other = Pool::new(1, 64);
        other.give_back(taken(&mut home).unwrap());
        assert_eq!((home.available(), other.available()), (1, 1));
        assert!(other.free.is_empty());
    }

    #[test]
    fn buffers_may_outlive_their_pool() {
        let mut pool = Pool::new(1, 64);
        let buffer = taken(&mut pool).unwrap();
        drop(pool);
        assert_eq!(buffer.bytes().len(), 64);
    }
}
