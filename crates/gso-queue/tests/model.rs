//! The queue against a naive model: same appends, pops, work done, partial sends, failures and restores, and after
//! each step both must agree.

use gso_queue::{
    AppendError, Batch, DatagramSink, Destination, Ecn, GsoQueue, QueueConfig, QueueCounters, Slot,
    Unfinished, Work,
};
use proptest::{collection::vec, prelude::*, sample::Index};

const BUFFERS: usize = 6;
const DESTINATIONS: usize = 6;

/// Two IPv4 peers, an IPv6 one, and the first again with a pinned source and with other ECN codepoints.
fn destination(i: usize) -> Destination {
    let first = Destination::new("192.0.2.1:51820".parse().unwrap());
    match i {
        0 => first,
        1 => Destination::new("192.0.2.2:51820".parse().unwrap()),
        2 => Destination::new("[2001:db8::1]:51820".parse().unwrap()),
        3 => Destination { local: Some("192.0.2.99".parse().unwrap()), ..first },
        4 => Destination { ecn: Ecn::Ect0, ..first },
        _ => Destination { ecn: Ecn::Ce, ..first },
    }
}

/// Destinations with the same lane are ordered with each other: here 0 and 3, and 4 and 5.
fn lane(i: usize) -> usize {
    [0, 1, 2, 0, 4, 4][i]
}

/// The work of the tests: to add 1 to every byte of these datagrams, so that the bytes tell how often it was done.
#[derive(Debug, Default)]
struct Increments(Vec<usize>);

impl Work for Increments {
    fn finish(&mut self, datagrams: &mut [u8], segment_len: usize) {
        let mut datagrams: Vec<&mut [u8]> = datagrams.chunks_mut(segment_len).collect();
        for segment in self.0.drain(..) {
            increment(datagrams[segment]);
        }
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

fn increment(datagram: &mut [u8]) {
    datagram.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        to: usize,
        len: usize,
        /// Leaves work for later.
        works: bool,
        fails: bool,
    },
    Pop,
    /// Pops the first batch whose lane's bit is set.
    PopWhere(u8),
    PopUnfinished,
    PopClosed,
    /// Pops the first finished batch whose lane's bit is set.
    PopFinishedWhere(u8),
    /// Does the work of a held batch.
    Finish(Index),
    /// Sends this many datagrams of the oldest held batch of some destination, finished if it was not.
    Send(Index, usize),
    /// Puts a held batch back, finished and sent or not.
    Restore(Index),
    /// Gives up a held batch, by recycling or by dropping it.
    GiveUp {
        which: Index,
        recycle: bool,
    },
    SetMaxSegments(usize),
}

/// Accepts the destinations whose lane's bit is set.
fn ready(mask: u8) -> impl Fn(Destination) -> bool {
    move |to| (0..DESTINATIONS).any(|i| mask & (1 << lane(i)) != 0 && destination(i) == to)
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => prop::sample::select(vec![1_usize, 60, 64, 100, 1452]),
        2 => 1..2000_usize,
        1 => prop::sample::select(vec![0, 20_000, 32_743, 32_744, 65_486, 65_487, 65_488, 65_507, 65_508]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..DESTINATIONS, len(), any::<bool>(), prop::bool::weighted(0.15))
            .prop_map(|(to, len, works, fails)| Step::Append { to, len, works, fails }),
        2 => Just(Step::Pop),
        1 => any::<u8>().prop_map(Step::PopWhere),
        1 => Just(Step::PopUnfinished),
        1 => Just(Step::PopClosed),
        1 => any::<u8>().prop_map(Step::PopFinishedWhere),
        1 => any::<Index>().prop_map(Step::Finish),
        3 => (any::<Index>(), 0..5_usize).prop_map(|(which, n)| Step::Send(which, n)),
        2 => any::<Index>().prop_map(Step::Restore),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(which, recycle)| Step::GiveUp { which, recycle }),
        1 => (0..6_usize).prop_map(Step::SetMaxSegments),
    ]
}

/// What a batch should be: whole datagrams in a list.
#[derive(Clone, Debug)]
struct ModelBatch {
    number: usize,
    to: usize,
    segment_len: usize,
    /// Those not yet sent, as they should be when they are.
    datagrams: Vec<Vec<u8>>,
    /// The numbers of those with work left to do, until it is done.
    work: Vec<usize>,
    /// Their number and bytes when all were there.
    segments: usize,
    bytes: usize,
    open: bool,
    finished: bool,
}

/// A datagram's number in its batch, and those before it that have work.
type Place = (usize, Vec<usize>);

/// The rule, written down as plainly as it can be.
struct Model {
    waiting: Vec<ModelBatch>,
    held: Vec<ModelBatch>,
    max_segments: usize,
    opened: usize,
    appended: u64,
}

impl Model {
    /// Gives also what `fill` is told, if it is called.
    fn append(
        &mut self,
        to: usize,
        content: &[u8],
        works: bool,
        fails: bool,
    ) -> (Result<(), AppendError<()>>, Option<Place>) {
        let len = content.len();
        let cap = if destination(to).remote.is_ipv4() { 65_507 } else { 65_487 };
        if len == 0 {
            return (Err(AppendError::Empty), None);
        }
        if len > cap {
            return (Err(AppendError::TooLong(len)), None);
        }
        let all_in_use = self.waiting.len() + self.held.len() == BUFFERS;
        let newest = self.waiting.iter_mut().rfind(|batch| lane(batch.to) == lane(to));
        let joins = newest.filter(|batch| {
            batch.open
                && batch.to == to
                && len <= batch.segment_len
                && batch.segments < self.max_segments
                && batch.bytes + len <= cap
        });
        if joins.is_none() && all_in_use {
            return (Err(AppendError::Full), None);
        }
        let slot = joins.as_ref().map_or((0, Vec::new()), |batch| (batch.segments, batch.work.clone()));
        if fails {
            return (Err(AppendError::Fill(())), Some(slot));
        }
        self.appended += 1;
        let mut datagram = content.to_vec();
        if works {
            increment(&mut datagram);
        }
        let work = works.then_some(slot.0);
        if let Some(batch) = joins {
            batch.datagrams.push(datagram);
            batch.work.extend(work);
            batch.segments += 1;
            batch.bytes += len;
            batch.open = len == batch.segment_len;
            return (Ok(()), Some(slot));
        }
        self.waiting
            .iter_mut()
            .filter(|batch| lane(batch.to) == lane(to))
            .for_each(|batch| batch.open = false);
        self.waiting.push(ModelBatch {
            number: self.opened,
            to,
            segment_len: len,
            datagrams: vec![datagram],
            work: work.into_iter().collect(),
            segments: 1,
            bytes: len,
            open: true,
            finished: false,
        });
        self.opened += 1;
        (Ok(()), Some(slot))
    }

    fn pop(&mut self, wanted: impl Fn(&ModelBatch) -> bool) -> Option<ModelBatch> {
        let i = self.waiting.iter().position(wanted)?;
        let mut batch = self.waiting.remove(i);
        batch.open = false;
        self.held.push(batch.clone());
        Some(batch)
    }

    fn restore(&mut self, i: usize) {
        let batch = self.held.remove(i);
        if batch.datagrams.is_empty() {
            return;
        }
        self.waiting.push(batch);
        self.waiting.sort_by_key(|batch| batch.number);
    }

    /// The held batches that a sender may send from next: per lane the oldest, and none while an
    /// older one waits in the queue.
    fn sendable(&self) -> Vec<usize> {
        let older_exists = |batch: &ModelBatch| {
            let mut all = self.waiting.iter().chain(&self.held);
            all.any(|other| lane(other.to) == lane(batch.to) && other.number < batch.number)
        };
        (0..self.held.len()).filter(|&i| !older_exists(&self.held[i])).collect()
    }
}

/// A popped batch.
enum Held {
    Unfinished(Unfinished<Increments>),
    Finished(Batch<Increments>),
}

impl From<Held> for Unfinished<Increments> {
    fn from(held: Held) -> Self {
        match held {
            Held::Unfinished(batch) => batch,
            Held::Finished(batch) => batch.into(),
        }
    }
}

impl Held {
    fn finish(self) -> Batch<Increments> {
        Unfinished::from(self).finish()
    }
}

/// The queue and the model side by side, and what was appended to and received from each lane.
struct Rig {
    queue: GsoQueue<Increments>,
    held: Vec<Held>,
    model: Model,
    appended: [Vec<Vec<u8>>; DESTINATIONS],
    received: [Vec<Vec<u8>>; DESTINATIONS],
    /// Datagrams of batches given up.
    given_up: [Vec<Vec<u8>>; DESTINATIONS],
    serial: u32,
}

impl Rig {
    fn new() -> Self {
        let config = QueueConfig { buffers: BUFFERS, max_segments: 4, ..QueueConfig::default() };
        Self {
            queue: GsoQueue::new(config),
            held: Vec::new(),
            model: Model { waiting: Vec::new(), held: Vec::new(), max_segments: 4, opened: 0, appended: 0 },
            appended: Default::default(),
            received: Default::default(),
            given_up: Default::default(),
            serial: 0,
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append { to, len, works, fails } => self.append(*to, *len, *works, *fails),
            Step::Pop => self.pop(u8::MAX),
            Step::PopWhere(mask) => self.pop(*mask),
            Step::PopUnfinished => {
                let batch = self.queue.pop_unfinished().map(Held::Unfinished);
                self.hold(batch, |batch| !batch.finished);
            }
            Step::PopClosed => {
                let batch = self.queue.pop_closed().map(Held::Unfinished);
                let oldest = self.model.waiting.iter().find(|batch| !batch.finished).cloned();
                let oldest = oldest.filter(|batch| !batch.open).map(|batch| batch.number);
                self.hold(batch, |batch| Some(batch.number) == oldest);
            }
            Step::PopFinishedWhere(mask) => {
                let batch = self.queue.pop_finished_where(ready(*mask)).map(Held::Finished);
                self.hold(batch, |batch| batch.finished && mask & (1 << lane(batch.to)) != 0);
            }
            Step::Finish(which) if !self.held.is_empty() => self.finish_work(which.index(self.held.len())),
            Step::Send(which, datagrams) => {
                let sendable = self.model.sendable();
                if !sendable.is_empty() {
                    self.send(*which.get(&sendable), *datagrams);
                }
            }
            Step::Restore(which) if !self.held.is_empty() => self.restore(which.index(self.held.len())),
            Step::GiveUp { which, recycle } if !self.held.is_empty() => {
                self.give_up(which.index(self.held.len()), *recycle);
            }
            Step::Finish(_) | Step::Restore(_) | Step::GiveUp { .. } => {}
            Step::SetMaxSegments(n) => {
                self.queue.set_max_segments(*n);
                self.model.max_segments = (*n).max(1);
            }
        }
        self.compare();
    }

    fn append(&mut self, to: usize, len: usize, works: bool, fails: bool) {
        // Every datagram differs from every other, as far as its length allows.
        self.serial += 1;
        let content: Vec<u8> = self.serial.to_be_bytes().into_iter().rev().cycle().take(len).collect();

        let (expected, expected_slot) = self.model.append(to, &content, works, fails);
        let mut slot = None;
        let result = self.queue.append(destination(to), len, |Slot { bytes, segment, work }| {
            slot = Some((segment, work.0.clone()));
            assert_eq!(bytes.len(), len);
            if fails {
                bytes.fill(0xee);
                return Err(());
            }
            bytes.copy_from_slice(&content);
            work.0.extend(works.then_some(segment));
            Ok(())
        });
        assert_eq!(result, expected);
        assert_eq!(slot, expected_slot);
        if result.is_ok() {
            let mut sent = content;
            if works {
                increment(&mut sent);
            }
            self.appended[lane(to)].push(sent);
        }
    }

    fn pop(&mut self, mask: u8) {
        let batch = self.queue.pop_where(ready(mask)).map(Held::Unfinished);
        self.hold(batch, |batch| mask & (1 << lane(batch.to)) != 0);
    }

    fn hold(&mut self, batch: Option<Held>, expected: impl Fn(&ModelBatch) -> bool) {
        let expected = self.model.pop(expected);
        assert_eq!(batch.is_some(), expected.is_some());
        let (Some(batch), Some(expected)) = (batch, expected) else { return };
        let (to, segment_len) = match &batch {
            Held::Unfinished(batch) => (batch.destination(), batch.segment_len()),
            Held::Finished(batch) => (batch.destination(), batch.segment_len()),
        };
        assert_eq!((to, segment_len), (destination(expected.to), expected.segment_len));
        self.held.push(batch);
    }

    fn finish_work(&mut self, i: usize) {
        let batch = self.held.remove(i).finish();
        self.model.held[i].work.clear();
        self.model.held[i].finished = true;
        assert_one_valid_send(&batch);
        self.held.insert(i, Held::Finished(batch));
    }

    fn send(&mut self, i: usize, datagrams: usize) {
        self.finish_work(i);
        let Held::Finished(batch) = &mut self.held[i] else { panic!("it was just finished") };
        let expected = &mut self.model.held[i];
        let n = datagrams.min(expected.datagrams.len());
        let sent: Vec<Vec<u8>> = expected.datagrams.drain(..n).collect();
        assert_eq!(batch.unsent_prefix(datagrams), sent.concat());
        batch.advance(datagrams);
        self.received[lane(expected.to)].extend(sent);
        if batch.is_done() {
            assert!(expected.datagrams.is_empty());
            self.queue.recycle(self.held.remove(i));
            self.model.held.remove(i);
        }
    }

    fn restore(&mut self, i: usize) {
        self.queue.restore(self.held.remove(i));
        self.model.restore(i);
    }

    fn give_up(&mut self, i: usize, recycle: bool) {
        let batch = self.held.remove(i);
        let expected = self.model.held.remove(i);
        self.given_up[lane(expected.to)].extend(expected.datagrams);
        if recycle {
            self.queue.recycle(batch);
        }
    }

    fn compare(&self) {
        let waiting = &self.model.waiting;
        assert_eq!(self.queue.is_empty(), waiting.is_empty());
        assert_eq!(self.queue.batches(), waiting.len());
        let bytes: usize = waiting.iter().flat_map(|batch| &batch.datagrams).map(Vec::len).sum();
        assert_eq!(self.queue.bytes(), bytes);
        assert_eq!(self.queue.free_buffers(), BUFFERS - waiting.len() - self.held.len());
        for (batch, expected) in self.held.iter().zip(&self.model.held) {
            let segments_left = match batch {
                Held::Unfinished(batch) => batch.segments_left(),
                Held::Finished(batch) => {
                    assert_eq!(batch.unsent(), expected.datagrams.concat());
                    assert!(batch.datagrams().eq(expected.datagrams.iter().map(Vec::as_slice)));
                    batch.segments_left()
                }
            };
            assert_eq!(segments_left, expected.datagrams.len());
        }
        let QueueCounters { datagrams, batches, .. } = self.queue.counters();
        assert_eq!((datagrams, batches), (self.model.appended, self.model.opened as u64));
    }

    /// Sends all that is left, then checks that each lane got each datagram once and in order,
    /// but for those given up.
    fn finish(mut self) {
        while !self.held.is_empty() {
            self.restore(0);
        }
        while !self.queue.is_empty() {
            self.pop(u8::MAX);
            self.send(0, usize::MAX);
            self.compare();
        }
        assert_eq!(self.queue.free_buffers(), BUFFERS, "a buffer leaked");
        for to in 0..DESTINATIONS {
            let given_up = &self.given_up[to];
            assert_eq!(self.appended[to].len(), self.received[to].len() + given_up.len());
            if given_up.is_empty() {
                assert_eq!(self.appended[to], self.received[to]);
            } else {
                assert_is_subsequence(&self.received[to], &self.appended[to]);
            }
        }
    }
}

/// What Linux asks of one `UDP_SEGMENT` send.
fn assert_one_valid_send<W>(batch: &Batch<W>) {
    let lens: Vec<usize> = batch.datagrams().map(<[u8]>::len).collect();
    let (last, full) = lens.split_last().expect("a batch in the queue has something to send");
    assert!(full.iter().all(|len| *len == batch.segment_len()));
    assert!((1..=batch.segment_len()).contains(last));
    assert!(lens.len() <= 128);
    assert!(batch.unsent().len() <= batch.destination().max_payload());
    assert_eq!(batch.is_gso(), lens.len() > 1);
}

fn assert_is_subsequence(part: &[Vec<u8>], whole: &[Vec<u8>]) {
    let mut whole = whole.iter();
    assert!(part.iter().all(|datagram| whole.any(|other| other == datagram)), "out of order or unknown");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn queue_agrees_with_the_naive_model(steps in vec(step(), 1..120)) {
        let mut rig = Rig::new();
        for step in &steps {
            rig.run(step);
        }
        rig.finish();
    }

    /// A mix of lengths to a few destinations, drained by a sender that manages only so many datagrams
    /// at a time before its socket would block.
    #[test]
    fn nothing_is_lost_doubled_or_reordered_by_partial_drains(
        rounds in vec((vec((0..DESTINATIONS, 1..1453_usize), 0..40), 0..60_usize), 1..20),
    ) {
        let mut queue: GsoQueue = GsoQueue::default();
        let mut appended: [Vec<Vec<u8>>; DESTINATIONS] = Default::default();
        let mut received: [Vec<Vec<u8>>; DESTINATIONS] = Default::default();
        let mut serial = 0_u32;

        for (datagrams, budget) in rounds {
            for (to, len) in datagrams {
                serial += 1;
                let content: Vec<u8> = serial.to_le_bytes().into_iter().cycle().take(len).collect();
                let copied = queue.append(destination(to), len, |slot| {
                    slot.bytes.copy_from_slice(&content);
                    Ok::<(), ()>(())
                });
                if copied == Err(AppendError::Full) {
                    drain(&mut queue, usize::MAX, &mut received);
                    continue; // dropped, by the test's own choice
                }
                prop_assert_eq!(copied, Ok(()));
                appended[lane(to)].push(content);
            }
            drain(&mut queue, budget, &mut received);
        }
        drain(&mut queue, usize::MAX, &mut received);
        prop_assert_eq!(received, appended);
        prop_assert_eq!(queue.free_buffers(), QueueConfig::default().buffers);
    }
}

/// Sends at most `budget` datagrams, then would block.
fn drain(queue: &mut GsoQueue, mut budget: usize, received: &mut [Vec<Vec<u8>>; DESTINATIONS]) {
    while let Some(batch) = queue.pop() {
        let mut batch = batch.finish();
        assert_one_valid_send(&batch);
        let to = (0..DESTINATIONS).find(|&i| destination(i) == batch.destination()).unwrap();
        let sent = budget.min(batch.segments_left());
        received[lane(to)].extend(batch.datagrams().take(sent).map(<[u8]>::to_vec));
        batch.advance(sent);
        budget -= sent;
        if !batch.is_done() {
            return queue.restore(batch);
        }
        queue.recycle(batch);
    }
}
