//! What counts as an allocation, and whose it is.

use std::hint::black_box;

use allocation_counter::{CountingAllocator, on_all_threads, on_this_thread};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// How many allocations of this thread `work` makes.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = on_this_thread();
    work();
    on_this_thread() - before
}

#[test]
fn every_way_to_get_memory_counts_once() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1, "a block");
    assert_eq!(allocations(|| drop(black_box(vec![0u8; 4096]))), 1, "a zeroed block");
    let mut bytes: Vec<u8> = Vec::with_capacity(16);
    assert_eq!(allocations(|| black_box(&mut bytes).reserve_exact(4096)), 1, "a larger block");
    assert_eq!(allocations(|| black_box(&mut bytes).shrink_to(16)), 1, "a smaller block");
}

#[test]
fn using_and_freeing_memory_does_not_count() {
    let mut bytes: Vec<u8> = Vec::with_capacity(16);
    assert_eq!(allocations(|| bytes.extend([1; 16])), 0);
    assert_eq!(allocations(|| drop(black_box(bytes))), 0);
}

#[test]
fn another_threads_allocations_are_its_own_and_everybodys() {
    let (here, everywhere) = (on_this_thread(), on_all_threads());
    let thread = std::thread::spawn(|| allocations(|| (0..1000).for_each(|n| drop(black_box(Box::new(n))))));
    assert_eq!(thread.join().expect("the thread ends"), 1000);
    assert!(on_all_threads() - everywhere >= 1000);
    assert!(on_this_thread() - here < 1000, "starting a thread takes a few of ours");
}
