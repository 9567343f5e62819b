use super::*;
use crate::{Ecn, MAX_PAYLOAD_V4, MAX_PAYLOAD_V6};

fn v4(host: u8) -> Destination {
    Destination::new(([192, 0, 2, host], 51820).into())
}

fn v6(host: u16) -> Destination {
    Destination::new(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 51820).into())
}

fn append(queue: &mut GsoQueue, to: Destination, len: usize, byte: u8) -> Result<(), AppendError<()>> {
    queue.append(to, len, |slot| {
        assert_eq!(slot.bytes.len(), len);
        slot.bytes.fill(byte);
        Ok(())
    })
}

fn append_all(queue: &mut GsoQueue, to: Destination, lens: &[usize]) {
    for (i, &len) in lens.iter().enumerate() {
        append(queue, to, len, i as u8).unwrap();
    }
}

/// The lengths of the datagrams of every batch, oldest batch first.
fn drain(queue: &mut GsoQueue) -> Vec<Vec<usize>> {
    let mut batches = Vec::new();
    while let Some(batch) = queue.pop() {
        let batch = batch.finish();
        batches.push(batch.datagrams().map(<[u8]>::len).collect());
        queue.recycle(batch);
    }
    batches
}

#[test]
fn equal_datagrams_share_a_batch() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100; 40]);
    assert_eq!((queue.batches(), queue.bytes()), (1, 4000));

    let batch = queue.pop().unwrap().finish();
    assert_eq!((batch.destination(), batch.segment_len(), batch.segments_left()), (v4(1), 100, 40));
    assert!(batch.is_gso());
    let order: Vec<u8> = batch.datagrams().map(|datagram| datagram[0]).collect();
    assert_eq!(order, (0..40).collect::<Vec<u8>>());
}

#[test]
fn a_lone_datagram_is_no_gso_send() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100]);
    assert!(!queue.pop().unwrap().finish().is_gso());
}

#[test]
fn short_datagram_goes_last_and_seals_the_batch() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100, 100, 60, 60, 100, 100]);
    assert_eq!(drain(&mut queue), [vec![100, 100, 60], vec![60], vec![100, 100]]);
    assert_eq!(queue.counters().sealed_by_shorter, 1);
    assert_eq!(queue.counters().left_for_longer, 1);
}

#[test]
fn short_datagram_does_not_overtake_longer_ones() {
    let mut queue: GsoQueue = GsoQueue::default();
    // The second 60 would fit the batch of the first one, which left its place to the 100 since.
    append_all(&mut queue, v4(1), &[60, 100, 60]);
    assert_eq!(drain(&mut queue), [vec![60], vec![100, 60]]);
}

#[test]
fn destinations_do_not_close_each_others_batches() {
    let mut queue: GsoQueue = GsoQueue::default();
    for _ in 0..3 {
        append_all(&mut queue, v4(1), &[100]);
        append_all(&mut queue, v6(1), &[100]);
        append_all(&mut queue, v4(2), &[90]);
    }
    assert_eq!(drain(&mut queue), [vec![100; 3], vec![100; 3], vec![90; 3]]);
}

#[test]
fn congestion_mark_does_not_reorder_a_flow() {
    let mut queue: GsoQueue = GsoQueue::default();
    let capable = Destination { ecn: Ecn::Ect0, ..v4(1) };
    let marked = Destination { ecn: Ecn::Ce, ..v4(1) };
    for (i, to) in [capable, capable, marked, capable].into_iter().enumerate() {
        append(&mut queue, to, 100, i as u8).unwrap();
    }
    let mut order = Vec::new();
    while let Some(batch) = queue.pop() {
        let batch = batch.finish();
        order.extend(batch.datagrams().map(|datagram| (batch.destination().ecn, datagram[0])));
        queue.recycle(batch);
    }
    assert_eq!(order, [(Ecn::Ect0, 0), (Ecn::Ect0, 1), (Ecn::Ce, 2), (Ecn::Ect0, 3)]);
    assert_eq!(queue.counters().left_for_other_header, 2);
}

#[test]
fn flows_with_and_without_ecn_share_no_batch_and_close_none_of_the_others() {
    let mut queue: GsoQueue = GsoQueue::default();
    let capable = Destination { ecn: Ecn::Ect1, ..v4(1) };
    for to in [v4(1), capable, v4(1), capable] {
        append(&mut queue, to, 100, 0).unwrap();
    }
    assert_eq!(drain(&mut queue), [vec![100; 2], vec![100; 2]]);
}

#[test]
fn another_source_address_needs_a_send_of_its_own_in_order() {
    let mut queue: GsoQueue = GsoQueue::default();
    let pinned = Destination { local: Some([192, 0, 2, 99].into()), ..v4(1) };
    for to in [v4(1), pinned, v4(1)] {
        append(&mut queue, to, 100, 0).unwrap();
    }
    assert_eq!(drain(&mut queue), [vec![100], vec![100], vec![100]]);
}

#[test]
fn segment_cap_opens_a_new_batch() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100; 65]);
    assert_eq!(drain(&mut queue), [vec![100; 64], vec![100]]);
    assert_eq!(queue.counters().left_at_segment_cap, 1);
}

#[test]
fn segment_cap_follows_the_setting_within_what_linux_allows() {
    let mut queue: GsoQueue = GsoQueue::new(QueueConfig { max_segments: 1000, ..QueueConfig::default() });
    assert_eq!(queue.max_segments(), 128);
    queue.set_max_segments(0);
    assert_eq!(queue.max_segments(), 1);
    append_all(&mut queue, v4(1), &[100, 100]);
    queue.set_max_segments(2);
    append_all(&mut queue, v4(1), &[100, 100]);
    assert_eq!(drain(&mut queue), [vec![100], vec![100, 100], vec![100]]);
}

#[test]
fn byte_cap_is_the_longest_payload_of_the_address_family() {
    let mut queue: GsoQueue = GsoQueue::new(QueueConfig { max_segments: 128, ..QueueConfig::default() });
    for (to, max) in [(v4(1), MAX_PAYLOAD_V4), (v6(1), MAX_PAYLOAD_V6)] {
        assert_eq!(append(&mut queue, to, max + 1, 0), Err(AppendError::TooLong(max + 1)));
        append(&mut queue, to, max, 0).unwrap();
        assert_eq!(drain(&mut queue), [vec![max]]);

        let half = max / 2;
        append_all(&mut queue, to, &[half, half, 2]);
        assert_eq!(drain(&mut queue), [vec![half, half], vec![2]]);
        append_all(&mut queue, to, &[half, half, 1, 1]);
        assert_eq!(drain(&mut queue), [vec![half, half, 1], vec![1]]);
    }
    assert_eq!(queue.counters().left_at_byte_cap, 2);
}

#[test]
fn byte_cap_is_the_buffer_where_that_is_smaller() {
    let mut queue: GsoQueue = GsoQueue::new(QueueConfig { buffer_bytes: 1000, ..QueueConfig::default() });
    assert_eq!(append(&mut queue, v4(1), 1001, 0), Err(AppendError::TooLong(1001)));
    append_all(&mut queue, v4(1), &[400, 400, 400]);
    assert_eq!(drain(&mut queue), [vec![400, 400], vec![400]]);
}

#[test]
fn empty_datagram_is_refused() {
    let mut queue: GsoQueue = GsoQueue::default();
    assert_eq!(append(&mut queue, v4(1), 0, 0), Err(AppendError::Empty));
    assert!(queue.is_empty());
}

#[test]
fn failing_fill_opens_no_batch_and_takes_no_buffer() {
    let mut queue: GsoQueue = GsoQueue::default();
    let free = queue.free_buffers();
    assert_eq!(queue.append(v4(1), 100, |_| Err("no key")), Err(AppendError::Fill("no key")));
    assert!(queue.is_empty() && queue.pop().is_none());
    assert_eq!((queue.bytes(), queue.free_buffers()), (0, free));
    assert_eq!(queue.counters(), QueueCounters::default());
}

#[test]
fn failing_fill_leaves_the_newest_batch_open() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100]);
    let before = queue.counters();
    for len in [100, 60, 120] {
        let failed = queue.append(v4(1), len, |slot| {
            slot.bytes.fill(0xee);
            Err(())
        });
        assert_eq!(failed, Err(AppendError::Fill(())));
    }
    assert_eq!(queue.counters(), before);
    append(&mut queue, v4(1), 100, 7).unwrap();
    let batch = queue.pop().unwrap().finish();
    assert_eq!(batch.unsent(), [[0; 100], [7; 100]].concat());
    assert!(queue.is_empty());
}

#[test]
fn panicking_fill_leaves_the_queue_usable() {
    let mut queue: GsoQueue = GsoQueue::new(QueueConfig { buffers: 1, ..QueueConfig::default() });
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        queue.append(v4(1), 100, |_| -> Result<(), ()> { panic!("a bug in the caller") })
    }));
    assert!(panicked.is_err());
    append_all(&mut queue, v4(1), &[50, 50]);
    assert_eq!(drain(&mut queue), [vec![50, 50]]);
}

#[test]
fn full_pool_refuses_new_batches_but_not_joining_ones() {
    let mut queue: GsoQueue = GsoQueue::new(QueueConfig { buffers: 2, ..QueueConfig::default() });
    append_all(&mut queue, v4(1), &[100]);
    append_all(&mut queue, v4(2), &[100]);
    let refused = queue.append(v4(3), 100, |_| -> Result<(), ()> { panic!("nothing to fill") });
    assert_eq!(refused, Err(AppendError::Full));
    append_all(&mut queue, v4(1), &[100]);

    // A batch that was popped still has its buffer …
    let batch = queue.pop().unwrap().finish();
    assert_eq!(append(&mut queue, v4(3), 100, 0), Err(AppendError::Full));
    // … until it is recycled.
    queue.recycle(batch);
    append(&mut queue, v4(3), 100, 0).unwrap();
    assert_eq!(queue.counters().refused_full, 2);
}

#[test]
fn a_thousand_peers_need_no_thousand_buffers() {
    let mut queue: GsoQueue = GsoQueue::default();
    let mut sends = 0;
    for peer in 0..1000 {
        while append(&mut queue, v6(peer), 80, 0) == Err(AppendError::Full) {
            sends += drain(&mut queue).len();
        }
    }
    sends += drain(&mut queue).len();
    assert_eq!(sends, 1000, "one send a peer, as without the bound");
    assert_eq!(queue.counters().refused_full, 7);
}

#[test]
fn dropped_batches_do_not_starve_the_pool() {
    let mut queue: GsoQueue = GsoQueue::new(QueueConfig { buffers: 1, ..QueueConfig::default() });
    for _ in 0..10 {
        append_all(&mut queue, v4(1), &[100]);
        assert_eq!(queue.free_buffers(), 0);
        drop(queue.pop());
        assert_eq!(queue.free_buffers(), 1);
    }
}

#[test]
fn advancing_moves_by_whole_datagrams_and_stops_at_the_end() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100, 100, 100, 60]);
    let mut batch = queue.pop().unwrap().finish();
    batch.advance(2);
    assert_eq!((batch.segments_left(), batch.unsent().len(), batch.unsent()[0]), (2, 160, 2));
    assert_eq!(batch.unsent_prefix(1).len(), 100);
    assert_eq!(batch.unsent_prefix(usize::MAX).len(), 160);
    batch.advance(1);
    assert!(!batch.is_gso() && !batch.is_done());
    assert_eq!(batch.unsent_prefix(1).len(), 60);
    batch.advance(usize::MAX);
    assert!(batch.is_done());
    assert_eq!((batch.segments_left(), batch.unsent().len(), batch.datagrams().len()), (0, 0, 0));
}

#[test]
fn restored_batch_leaves_before_what_was_appended_since() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100, 100]);
    let mut blocked = queue.pop().unwrap().finish();
    append_all(&mut queue, v4(1), &[100]);
    blocked.advance(1);
    queue.restore(blocked);
    assert_eq!((queue.batches(), queue.bytes()), (2, 200));
    append_all(&mut queue, v4(1), &[100]);
    assert_eq!(drain(&mut queue), [vec![100], vec![100, 100]]);
}

#[test]
fn nothing_joins_a_restored_batch() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100]);
    let blocked = queue.pop().unwrap().finish();
    queue.restore(blocked);
    append_all(&mut queue, v4(1), &[100]);
    assert_eq!(drain(&mut queue), [vec![100], vec![100]]);
}

#[test]
fn batches_restored_in_any_order_find_their_old_places() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[10, 20, 30, 40]);
    let popped: Vec<_> = (0..3).map(|_| queue.pop().unwrap().finish()).collect();
    let [first, second, third] = popped.try_into().unwrap();
    queue.restore(second);
    queue.restore(third);
    queue.restore(first);
    assert_eq!(drain(&mut queue), [vec![10], vec![20], vec![30], vec![40]]);
}

#[test]
fn restoring_a_finished_batch_recycles_it() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100]);
    let free = queue.free_buffers();
    let mut batch = queue.pop().unwrap().finish();
    batch.advance(1);
    queue.restore(batch);
    assert!(queue.is_empty());
    assert_eq!(queue.free_buffers(), free + 1);
}

#[test]
fn a_blocked_address_family_does_not_block_the_other() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100]);
    append_all(&mut queue, v6(1), &[100]);
    append_all(&mut queue, v4(1), &[120]);
    append_all(&mut queue, v6(1), &[120]);
    let is_v6 = |to: Destination| to.remote.is_ipv6();
    assert_eq!(queue.pop_where(is_v6).unwrap().segment_len(), 100);
    assert_eq!(queue.pop_where(is_v6).unwrap().segment_len(), 120);
    assert!(queue.pop_where(is_v6).is_none());
    // What was stepped over is still in order, and the newest of it still open.
    append_all(&mut queue, v4(1), &[120]);
    assert_eq!(drain(&mut queue), [vec![100], vec![120, 120]]);
}

#[test]
fn debug_output_shows_no_payload() {
    let mut queue: GsoQueue = GsoQueue::default();
    append(&mut queue, v4(1), 5, b'S').unwrap();
    let text = format!("{queue:?}");
    assert!(text.contains("192.0.2.1:51820") && !text.contains("SSS") && !text.contains("83"), "{text}");
}

/// The datagrams to be turned into capitals.
#[derive(Debug, Default)]
struct Capitals(Vec<usize>);

impl Work for Capitals {
    fn finish(&mut self, datagrams: &mut [u8], segment_len: usize) {
        for segment in self.0.drain(..) {
            datagrams.chunks_mut(segment_len).nth(segment).unwrap().make_ascii_uppercase();
        }
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

fn append_capital(queue: &mut GsoQueue<Capitals>, datagram: &[u8]) {
    let appended = queue.append(v4(1), datagram.len(), |slot| {
        slot.bytes.copy_from_slice(datagram);
        slot.work.0.push(slot.segment);
        Ok::<(), ()>(())
    });
    assert_eq!(appended, Ok(()));
}

#[test]
fn work_of_a_batch_given_up_is_not_done_to_the_next_in_its_buffer() {
    let mut queue: GsoQueue<Capitals> = GsoQueue::new(QueueConfig { buffers: 1, ..QueueConfig::default() });
    append_capital(&mut queue, b"abc");
    append_capital(&mut queue, b"abc");
    let given_up = queue.pop().unwrap();
    queue.recycle(given_up);
    let as_it_is = |slot: Slot<'_, Capitals>| {
        slot.bytes.copy_from_slice(b"def");
        Ok::<(), ()>(())
    };
    queue.append(v4(1), 3, as_it_is).unwrap();
    append_capital(&mut queue, b"ghi");
    assert_eq!(queue.pop().unwrap().finish().unsent(), b"defGHI");
}

#[test]
fn unfinished_batch_tells_what_it_is_and_shows_no_payload() {
    let mut queue: GsoQueue<Capitals> = GsoQueue::default();
    append_capital(&mut queue, b"SSSS");
    append_capital(&mut queue, b"SSS");
    let batch = queue.pop().unwrap();
    assert_eq!((batch.destination(), batch.segment_len()), (v4(1), 4));
    assert_eq!((batch.segments_left(), batch.unsent_len()), (2, 7));
    let text = format!("{batch:?}");
    assert!(text.contains("192.0.2.1:51820") && !text.contains("SSS") && !text.contains("83"), "{text}");
}

#[test]
fn restored_unfinished_batch_keeps_its_place_and_its_work() {
    let mut queue: GsoQueue<Capitals> = GsoQueue::default();
    append_capital(&mut queue, b"abc");
    append_capital(&mut queue, b"defg");
    let first = queue.pop().unwrap();
    queue.restore(first);
    append_capital(&mut queue, b"hi");
    let mut sent = Vec::new();
    while let Some(batch) = queue.pop() {
        let batch = batch.finish();
        sent.extend_from_slice(batch.unsent());
        queue.recycle(batch);
    }
    assert_eq!(sent, b"ABCDEFGHI");
}

#[test]
fn closed_batch_may_leave_while_others_are_filled_and_an_open_one_may_not() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100, 100]);
    assert!(queue.pop_closed().is_none(), "it can grow");
    append_all(&mut queue, v4(1), &[60, 80]);
    assert_eq!(queue.pop_closed().unwrap().segments_left(), 3, "a shorter one has sealed it");
    assert!(queue.pop_closed().is_none());
    append_all(&mut queue, v4(1), &[100]);
    assert_eq!(queue.pop_closed().unwrap().segment_len(), 80, "another is newer");
    assert_eq!(drain(&mut queue), [vec![100]]);
}

#[test]
fn closed_batch_does_not_pass_an_older_one_that_is_open() {
    let mut queue: GsoQueue = GsoQueue::default();
    append_all(&mut queue, v4(1), &[100]);
    append_all(&mut queue, v4(2), &[100, 60]);
    assert!(queue.pop_closed().is_none());
    assert_eq!(queue.pop_unfinished().unwrap().destination(), v4(1));
    assert_eq!(queue.pop_closed().unwrap().destination(), v4(2));
}

#[test]
fn finished_and_unfinished_batches_are_told_apart() {
    let mut queue: GsoQueue<Capitals> = GsoQueue::default();
    append_capital(&mut queue, b"abc");
    append_capital(&mut queue, b"defg");
    let mut first = queue.pop_unfinished().unwrap();
    first.work();
    first.work();
    queue.restore(first);
    assert_eq!(queue.pop_unfinished().unwrap().segment_len(), 4);
    assert!(queue.pop_unfinished().is_none() && queue.pop_closed().is_none());
    assert!(queue.pop_finished_where(|to| to != v4(1)).is_none());
    assert_eq!(queue.pop_finished_where(|to| to == v4(1)).unwrap().unsent(), b"ABC");
}
