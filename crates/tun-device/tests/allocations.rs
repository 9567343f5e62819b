//! The steady state allocates nothing: not per packet, not per frame.

mod common;

use allocation_counter::{CountingAllocator, on_this_thread};
use common::Spec;
use tun_device::{CoalesceConfig, Coalescer, MAX_FRAME_LEN, Segments};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

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
    let before = on_this_thread();
    assert!(before > 0, "the counter counts");
    for _ in 0..3 {
        for packet in &packets {
            while coalescer.push(packet).is_err() {
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
    assert_eq!(on_this_thread(), before);
    assert!(split > packets.len() && coalescer.counters().merged > 100);
}
