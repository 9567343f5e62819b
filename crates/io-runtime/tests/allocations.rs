//! In steady state nothing is allocated per packet. A file of its own, for it replaces the allocator.

mod common;

use allocation_counter::{CountingAllocator, on_all_threads};
use common::{Pair, packet, run};
use io_runtime::{Arrangement, Backend, RuntimeConfig};
use tun_device::Offloads;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Packets a round, few enough for any socket buffer.
const ROUND: u32 = 32;
const ROUNDS: u32 = 100;

#[test]
fn steady_state_allocates_nothing_per_packet() {
    // The batching channel's wait for the other thread costs a few allocations each time the loop sleeps,
    // however many packets come then. Without the channel there is not even that.
    let allowed = [(Arrangement::Inline, 0), (Arrangement::TunThreads, 16 * u64::from(ROUNDS))];
    let both = [Backend::Native, Backend::Boringtun].map(|backend| allowed.map(|of| (backend, of)));
    for (backend, (arrangement, allowed)) in
        both.into_iter().flatten().filter(|(backend, _)| backend.is_built())
    {
        let config = RuntimeConfig { arrangement, backend, ..RuntimeConfig::default() };
        run(async {
            let pair = Pair::start(config, Offloads::ALL).await;
            let frames: Vec<Vec<u8>> = (0..ROUND)
                .map(|number| [vec![0; 10], packet(pair.a.inner, pair.b.inner, number, 1_400)].concat())
                .collect();
            let mut buffer = vec![0; 70_000];
            let mut round = || {
                frames.iter().for_each(|frame| pair.a.wire.send_frame(frame));
                for _ in 0..ROUND {
                    pair.b.wire.recv_frame(&mut buffer);
                }
            };
            (0..10).for_each(|_| round());
            let before = on_all_threads();
            assert!(before > 0, "the counter counts");
            (0..ROUNDS).for_each(|_| round());
            let allocated = on_all_threads() - before;
            assert!(
                allocated <= allowed,
                "{backend:?}, {arrangement:?}: {allocated} in {} packets",
                ROUND * ROUNDS
            );
            pair.finish().await;
        });
    }
}
