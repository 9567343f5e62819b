//! The steady state allocates nothing: not per packet, not per frame.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use common::Spec;
use tun_device::{CoalesceConfig, Coalescer, MAX_FRAME_LEN, Segments};

/// The system's allocator, counting this thread's allocations.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn coalescing_and_splitting_allocate_nothing() {
    // Eight interleaved flows, TCP and UDP, that grow, and packets of a hundred more that cannot.
    let mut packets = Vec::new();
    let mut flows: Vec<Spec> =
        (0..8).map(|i| Spec { tcp: i % 2 == 0, port: i, ..Spec::tcp() }.payload(i.into(), 1000)).collect();
    for round in 0..20u16 {
        for flow in &mut flows {
            packets.push(flow.build());
            *flow = flow.next(1000);
        }
        packets
            .extend((0..5).map(|i| Spec { port: 100 + 5 * round + i, ..Spec::udp() }.payload(1, 10).build()));
    }
    let mut coalescer = Coalescer::new(CoalesceConfig::default());
    let mut copy = vec![0; MAX_FRAME_LEN];
    let mut split = 0;
    let before = ALLOCATIONS.get();
    for _ in 0..3 {
        for packet in &packets {
            coalescer.slot()[..packet.len()].copy_from_slice(packet);
            while coalescer.commit(packet.len()).is_err() {
                let flushed = coalescer.flush(|frame| {
                    copy[..frame.len()].copy_from_slice(frame);
                    let mut segments = Segments::new(&mut copy[..frame.len()]).unwrap();
                    while segments.next().is_some() {
                        split += 1;
                    }
                    Ok(())
                });
                flushed.unwrap();
            }
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert!(split > packets.len() && coalescer.counters().merged > 100);
}
