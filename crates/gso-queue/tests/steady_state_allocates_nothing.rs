//! Counts every allocation of the thread while a warm queue is filled, drained, blocked and restored.

use allocation_counter::{CountingAllocator, on_this_thread};
use gso_queue::{AppendError, DatagramSink, Destination, GsoQueue};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Streams, small packets in between, more destinations than there are buffers, failing fills, and a
/// socket that blocks half-way.
fn one_round(queue: &mut GsoQueue) {
    let peers = (0..200).map(|port| Destination::new(([192, 0, 2, 1], 1000 + port).into()));
    for to in peers {
        for len in [1452, 1452, 1452, 700, 80, 80, 1452] {
            while queue.append(to, len, |out| fill(out, len)) == Err(AppendError::Full) {
                flush(queue);
            }
            assert!(queue.append(to, len, |_| Err(())).is_err());
        }
    }
    flush(queue);
}

fn fill(out: &mut [u8], len: usize) -> Result<(), ()> {
    out.fill(len as u8);
    Ok(())
}

fn flush(queue: &mut GsoQueue) {
    let mut blocked = queue.pop().expect("something to send");
    blocked.advance(1);
    queue.restore(blocked);
    while let Some(batch) = queue.pop_where(|to| to.remote.port() % 2 == 0) {
        queue.recycle(batch);
    }
    while let Some(batch) = queue.pop() {
        queue.recycle(batch);
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
