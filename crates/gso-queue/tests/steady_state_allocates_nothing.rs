//! Counts every allocation of the thread while a warm queue is filled, drained, blocked and restored.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use gso_queue::{AppendError, DatagramSink, Destination, GsoQueue};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes unchanged to `System`, which keeps the contract; counting touches only a
// thread-local `Cell` without destructor, so it neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

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
    let warm = ALLOCATIONS.get();
    assert!(warm > 0, "the counter counts");
    for _ in 0..20 {
        one_round(&mut queue);
    }
    assert_eq!(ALLOCATIONS.get() - warm, 0, "allocations after warming up");
}
