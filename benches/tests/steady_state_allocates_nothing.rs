//! Counts every allocation of the thread while two warm tunnels carry traffic both ways: frames are split,
//! sealed into the queue, opened, coalesced and written, with either backend.

use std::time::{Duration, Instant};

use allocation_counter::{CountingAllocator, on_this_thread};
use benches::{FULL_PACKET, FULL_TRAIN, Pair, Side, Train, tcp_frame, tcp_packet, turned_around};
use encrypt::{Identity, boring::BoringIdentity, native::NativeIdentity};
use tun_device::{CoalesceConfig, Coalescer, Segments};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What one side reads from its TUN in one tick, again and again.
struct Traffic {
    frames: Vec<Vec<u8>>,
    /// The read buffer: splitting uses it up.
    buffer: Vec<u8>,
}

impl Traffic {
    /// From the left side to the right.
    fn to_the_right() -> Self {
        let full = tcp_frame(FULL_TRAIN);
        let small = [64, FULL_PACKET, 65, 1000].map(tcp_packet);
        let frames = [full.clone(), tcp_frame(7), full].into_iter().chain(small).collect();
        Self { frames, buffer: Vec::with_capacity(tun_device::MAX_FRAME_LEN) }
    }

    fn to_the_left() -> Self {
        let mut traffic = Self::to_the_right();
        traffic.frames = traffic.frames.into_iter().map(turned_around).collect();
        traffic
    }

    fn packets(&self) -> u64 {
        (2 * FULL_TRAIN + 7 + 4) as u64
    }

    fn send(&mut self, side: &mut Side<impl Identity>, now: Instant) {
        for frame in &self.frames {
            self.buffer.clone_from(frame);
            let mut segments = Segments::new(&mut self.buffer).expect("a good frame");
            while let Some(packet) = segments.next() {
                side.send(packet, now);
            }
        }
    }
}

#[test]
fn steady_state_of_the_whole_hot_path_allocates_nothing() {
    steady_state_allocates_nothing::<NativeIdentity>();
}

#[test]
fn steady_state_of_the_whole_hot_path_allocates_nothing_with_boringtun() {
    steady_state_allocates_nothing::<BoringIdentity>();
}

fn steady_state_allocates_nothing<I: Identity>() {
    let start = io_runtime::clock::now();
    let mut pair = Pair::<I>::connected(start);
    let mut train = Train::default();
    let (mut to_the_right, mut to_the_left) = (Traffic::to_the_right(), Traffic::to_the_left());
    let mut coalescer = Coalescer::new(CoalesceConfig::default());

    // A millisecond a tick, so that timers are asked for and none falls due.
    let mut tick = |i: u32| {
        let now = start + Duration::from_millis(1) * i;
        to_the_right.send(&mut pair.left, now);
        exchange(&mut pair.left, &mut pair.right, &mut train, &mut coalescer, now);
        to_the_left.send(&mut pair.right, now);
        exchange(&mut pair.right, &mut pair.left, &mut train, &mut coalescer, now);
    };
    (0..20).for_each(&mut tick);
    let warm = on_this_thread();
    assert!(warm > 0, "the counter counts");
    (20..220).for_each(&mut tick);
    assert_eq!(on_this_thread() - warm, 0, "allocations after warming up");
    assert_eq!(coalescer.counters().packets, 2 * 220 * to_the_left.packets(), "every packet arrived");
}

fn exchange<I: Identity>(
    from: &mut Side<I>,
    to: &mut Side<I>,
    train: &mut Train,
    coalescer: &mut Coalescer,
    now: Instant,
) {
    while let Some(batch) = from.queue.pop() {
        train.receive(batch, &mut from.queue);
        to.receive_into(train, now, coalescer);
        coalescer.flush(|_| Ok(())).expect("nothing fails");
    }
    for side in [from, to] {
        side.tunnel.handle_timeout(now, &mut side.queue);
        assert!(side.queue.is_empty(), "no timer is due");
    }
}
