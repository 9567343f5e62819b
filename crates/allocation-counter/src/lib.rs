#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

thread_local! {
    static THIS_THREAD: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

static ALL_THREADS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator; it counts while it is the program's `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

/// Allocations that the calling thread has made since it began.
pub fn on_this_thread() -> u64 {
    THIS_THREAD.get()
}

/// Allocations that all threads have made since the program began. Those of other threads that nothing has
/// waited for may be missing.
pub fn on_all_threads() -> u64 {
    ALL_THREADS.load(Relaxed)
}

/// Bytes that the calling thread has allocated and not freed since it began; less than 0 if it freed what others had
/// allocated. What dropping a value frees is what it held.
pub fn bytes_held_by_this_thread() -> i64 {
    BYTES.get()
}

/// An allocator may neither allocate nor unwind: the cell has no destructor to register, and the sum wraps.
fn count() {
    THIS_THREAD.set(THIS_THREAD.get().wrapping_add(1));
    ALL_THREADS.fetch_add(1, Relaxed);
}

/// A size fits: no block is longer than `isize::MAX` bytes (`Layout`).
fn hold(size: usize, freed: usize) {
    BYTES.set(BYTES.get().wrapping_add(size as i64).wrapping_sub(freed as i64));
}

// SAFETY: every call goes unchanged to `System`, which keeps the contract; `count` and `hold` touch no memory that the
// allocator gave out, and neither allocate nor unwind.
#[expect(unsafe_code, reason = "the trait is unsafe to implement, and there is no counting without it")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size(), 0);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size(), 0);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        hold(new_size, layout.size());
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(block, layout) }
    }
}
