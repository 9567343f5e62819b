//! Counts every allocation of the thread while a warm queue is filled, drained, blocked and restored.

use allocation_counter::{CountingAllocator, on_this_thread};
use gso_queue::{AppendError, DatagramSink, Destination, GsoQueue, Slot, Work};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocates for what is left to do, and keeps what it has allocated.
#[derive(Default)]
struct Numbers(Vec<usize>);

impl Work for Numbers {
    fn finish(&mut self, datagrams: &mut [u8], segment_len: usize) {
        let count = datagrams.chunks(segment_len).len();
        assert!(self.0.drain(..).eq(0..count), "work for every datagram");
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Streams, small packets in between, more destinations than there are buffers, failing fills, and a
/// socket that blocks half-way. Some batches are given up before their work is done.
fn one_round(queue: &mut GsoQueue<Numbers>) {
    let peers = (0..200).map(|port| Destination::new(([192, 0, 2, 1], 1000 + port).into()));
    for to in peers {
        for len in [1452, 1452, 1452, 700, 80, 80, 1452] {
            while queue.append(to, len, |slot| fill(slot, len)) == Err(AppendError::Full) {
                flush(queue);
            }
            assert!(queue.append(to, len, |_| Err(())).is_err());
        }
    }
    flush(queue);
}

fn fill(slot: Slot<'_, Numbers>, len: usize) -> Result<(), ()> {
    slot.bytes.fill(len as u8);
    slot.work.0.push(slot.segment);
    Ok(())
}

fn flush(queue: &mut GsoQueue<Numbers>) {
    let mut blocked = queue.pop().expect("something to send").finish();
    blocked.advance(1);
    queue.restore(blocked);
    while let Some(batch) = queue.pop_where(|to| to.remote.port() % 2 == 0) {
        queue.recycle(batch);
    }
    while let Some(batch) = queue.pop() {
        queue.recycle(batch.finish());
    }
}

#[test]
fn steady_state_allocates_nothing() {
    let mut queue = GsoQueue::default();
    one_round(&mut queue);
    let warm = on_this_thread();
    assert!(warm > 0, "the counter counts");
    for _ in 0..20 {
        one_round(&mut queue);
    }
    assert_eq!(on_this_thread() - warm, 0, "allocations after warming up");
}
