use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use gso_queue::{DatagramSink as _, Ecn, QueueConfig, Slot};
use nix::libc::{
    EADDRNOTAVAIL, EAGAIN, EHOSTUNREACH, EINTR, EINVAL, EIO, EMSGSIZE, ENETUNREACH, ENOBUFS, ENOSYS, EPERM,
};
use proptest::prelude::*;
use quinn_udp::Transmit;

use super::*;
use crate::udp::shares::SendBuffer;

/// What a scripted socket saw of one datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    from: Option<IpAddr>,
    bytes: Vec<u8>,
}

/// The errno for a send; `None` lets it pass.
type Rule = dyn FnMut(&Transmit<'_>) -> Option<i32>;

/// A socket that answers as its rule says, and checks what every kernel would check.
struct Fake {
    rule: Box<Rule>,
    /// Its send buffer, if that is small, and the only destination that fills it.
    buffer: Option<SendBuffer>,
    stuck: Option<SocketAddr>,
    calls: usize,
    sent: Vec<Sent>,
    /// Datagrams refused for good: sent plainly, or for a reason that is not GSO's.
    refused: Vec<Vec<u8>>,
}

impl Fake {
    fn new(rule: impl FnMut(&Transmit<'_>) -> Option<i32> + 'static) -> Self {
        let rule = Box::new(rule);
        Self { rule, buffer: None, stuck: None, calls: 0, sent: Vec::new(), refused: Vec::new() }
    }

    /// With a small send buffer, in which everything for `stuck` stays.
    fn small(size: usize, stuck: SocketAddr) -> Self {
        Self { buffer: Some(SendBuffer { used: 0, size }), stuck: Some(stuck), ..Self::good() }
    }

    fn good() -> Self {
        Self::new(|_| None)
    }

    fn scripted(script: Vec<Option<i32>>) -> Self {
        let mut script = script.into_iter();
        Self::new(move |_| script.next().flatten())
    }
}

impl DatagramSocket for Fake {
    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.calls += 1;
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        assert!(segment > 0 && transmit.contents.len() <= 65_507);
        assert!(
            transmit.segment_size.is_none_or(|len| len < transmit.contents.len()),
            "a plain send stays plain"
        );
        assert!(transmit.contents.len().div_ceil(segment) <= SEGMENTS);
        if let Some(errno) = (self.rule)(transmit) {
            let hard = ![EAGAIN, EINTR, ENOBUFS].contains(&errno);
            let concerns_gso = [EIO, EINVAL, EMSGSIZE].contains(&errno);
            if hard && (transmit.segment_size.is_none() || !concerns_gso) {
                self.refused.extend(transmit.contents.chunks(segment).map(<[u8]>::to_vec));
            }
            return Err(io::Error::from_raw_os_error(errno));
        }
        if let Some(buffer) = &mut self.buffer {
            if buffer.used >= buffer.size {
                return Err(io::Error::from_raw_os_error(EAGAIN));
            }
            if self.stuck == Some(transmit.destination) {
                buffer.used += transmit.contents.len();
            }
        }
        self.sent.extend(
            transmit
                .contents
                .chunks(segment)
                .map(|bytes| Sent { from: transmit.src_ip, bytes: bytes.to_vec() }),
        );
        Ok(())
    }

    fn small_send_buffer(&self) -> Option<SendBuffer> {
        self.buffer
    }
}

const SEGMENTS: usize = 8;
const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1);
const V4_OTHER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 1);
const V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 1);
const PIN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99));

/// A sender over fake sockets, its queue, and what it reported.
struct Bench {
    sender: Sender<Fake>,
    queue: GsoQueue,
    counters: IoCounters,
    forgotten: Vec<Destination>,
    now: Instant,
    next: u32,
}

impl Bench {
    fn new(v4: Fake, v6: Option<Fake>) -> Self {
        Self {
            sender: Sender::new(v4, v6, true, SEGMENTS),
            queue: GsoQueue::new(QueueConfig { max_segments: SEGMENTS, ..QueueConfig::DEFAULT }),
            counters: IoCounters::default(),
            forgotten: Vec::new(),
            now: crate::clock::now(),
            next: 0,
        }
    }

    /// Queues a datagram that carries its number. Gives the number.
    fn push(&mut self, to: Destination, len: usize) -> u32 {
        let number = self.next;
        self.next += 1;
        let fill = |slot: Slot<'_>| {
            slot.bytes.fill(0);
            slot.bytes[..4].copy_from_slice(&number.to_be_bytes());
            Ok::<_, ()>(())
        };
        self.queue.append(to, len, fill).expect("room in the queue");
        number
    }

    fn push_many(&mut self, to: SocketAddr, count: usize) {
        for _ in 0..count {
            self.push(Destination::new(to), 100);
        }
    }

    fn flush(&mut self) {
        let Self { sender, queue, counters, forgotten, now, .. } = self;
        let mut cx = Context { now: *now, counters, forget_source: |to| forgotten.push(to) };
        sender.resend(queue, &mut cx);
        while let Some(batch) = queue.pop_unfinished() {
            sender.send(batch.finish(), queue, &mut cx);
        }
    }

    /// The next turn of the loop, a moment later.
    fn turn_after(&mut self, time: Duration) {
        self.now += time;
        self.sender.retry();
        self.flush();
    }

    fn v4(&self) -> &Fake {
        &self.sender.v4.socket
    }

    fn v6(&self) -> &Fake {
        &self.sender.v6.as_ref().expect("a v6 socket").socket
    }

    fn dropped(&self) -> u64 {
        self.counters.drops.total()
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn numbers(fake: &Fake) -> Vec<u32> {
    fake.sent.iter().map(|sent| number(&sent.bytes)).collect()
}

fn is_train(transmit: &Transmit<'_>) -> bool {
    transmit.segment_size.is_some()
}

#[test]
fn a_batch_leaves_in_one_call() {
    let mut bench = Bench::new(Fake::good(), None);
    bench.push_many(V4, SEGMENTS);
    bench.flush();
    assert_eq!(bench.v4().calls, 1);
    assert_eq!(numbers(bench.v4()), (0..SEGMENTS as u32).collect::<Vec<_>>());
    assert_eq!(bench.counters.send_batches.sum(), SEGMENTS as u64);
    assert!(bench.queue.is_empty());
}

#[test]
fn without_gso_every_datagram_leaves_alone() {
    let mut bench = Bench::new(Fake::new(|transmit| is_train(transmit).then_some(EIO)), None);
    bench.sender.rules.gso = false;
    bench.push_many(V4, 5);
    bench.flush();
    assert_eq!(bench.v4().calls, 5);
    assert_eq!(bench.dropped(), 0);
}

#[test]
fn a_route_without_gso_loses_nothing_and_rests() {
    for errno in [EIO, EINVAL, EMSGSIZE] {
        let mut bench = Bench::new(Fake::new(move |transmit| is_train(transmit).then_some(errno)), None);
        bench.push_many(V4, 4);
        bench.flush();
        assert_eq!(numbers(bench.v4()), [0, 1, 2, 3]);
        assert_eq!(bench.v4().calls, 1 + 4, "one train, then each alone");
        assert_eq!(bench.counters.traffic.gso_routes_disabled, 1);

        bench.push_many(V4, 4);
        bench.flush();
        assert_eq!(bench.v4().calls, 5 + 4, "no train while the route rests");
        assert_eq!(bench.dropped(), 0);
    }
}

#[test]
fn a_resting_route_is_probed_and_recovers() {
    let broken = std::rc::Rc::new(std::cell::Cell::new(true));
    let rule = {
        let broken = broken.clone();
        move |transmit: &Transmit<'_>| (broken.get() && is_train(transmit)).then_some(EIO)
    };
    let mut bench = Bench::new(Fake::new(rule), None);
    bench.push_many(V4, 4);
    bench.flush();
    broken.set(false);

    bench.now += Duration::from_secs(2);
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.counters.traffic.gso_probes, 1);
    let calls = bench.v4().calls;
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.v4().calls, calls + 1, "trains again");
    assert_eq!(numbers(bench.v4()), (0..12).collect::<Vec<_>>());
}

#[test]
fn other_routes_keep_their_gso() {
    let rule = |transmit: &Transmit<'_>| (is_train(transmit) && transmit.destination == V4).then_some(EIO);
    let mut bench = Bench::new(Fake::new(rule), None);
    bench.push_many(V4, 4);
    bench.flush();
    let calls = bench.v4().calls;
    bench.push_many(V4_OTHER, 4);
    bench.flush();
    assert_eq!(bench.v4().calls, calls + 1);
}

#[test]
fn a_broken_route_keeps_gso_and_counts_each_drop() {
    let mut bench = Bench::new(Fake::new(|_| Some(EINVAL)), None);
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.counters.drops.udp_refused, 4);
    assert_eq!(bench.counters.traffic.gso_routes_disabled, 0, "the route is at fault, not GSO");

    bench.sender.v4.socket = Fake::good();
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.v4().calls, 1, "a train at once");
}

#[test]
fn an_error_that_is_not_gsos_costs_one_call_and_counts_each_datagram() {
    for errno in [EPERM, ENETUNREACH, EHOSTUNREACH] {
        let mut bench = Bench::new(Fake::new(move |_| Some(errno)), None);
        bench.push_many(V4, 4);
        bench.flush();
        assert_eq!(bench.v4().calls, 1);
        assert_eq!(bench.counters.drops.udp_refused, 4);
        assert_eq!(bench.counters.traffic.gso_fallbacks, 0);
        assert!(bench.sender.take_end().is_none());
    }
}

#[test]
fn without_the_system_call_there_is_no_going_on() {
    let mut bench = Bench::new(Fake::new(|_| Some(ENOSYS)), None);
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.sender.take_end().unwrap().raw_os_error(), Some(ENOSYS));
}

#[test]
fn too_big_for_the_path_drops_that_one_alone() {
    let rule = |transmit: &Transmit<'_>| {
        let longest = transmit.segment_size.unwrap_or(transmit.contents.len());
        (longest > 100).then_some(EMSGSIZE)
    };
    let mut bench = Bench::new(Fake::new(rule), None);
    let to = Destination::new(V4);
    for len in [200, 200, 80, 100, 100] {
        bench.push(to, len);
    }
    bench.flush();
    assert_eq!(numbers(bench.v4()), [2, 3, 4]);
    assert_eq!(bench.counters.drops.udp_too_big, 2);
    assert_eq!(bench.counters.traffic.gso_routes_disabled, 0);
}

const NO_TIME: Duration = Duration::ZERO;

#[test]
fn a_full_socket_keeps_its_place_in_the_batch() {
    // Trains fail; two datagrams leave, and the third finds the buffer full.
    let mut alone = 0;
    let rule = move |transmit: &Transmit<'_>| {
        alone += u32::from(!is_train(transmit));
        if is_train(transmit) { Some(EIO) } else { (alone == 3).then_some(EAGAIN) }
    };
    let mut bench = Bench::new(Fake::new(rule), None);
    bench.push_many(V4, 6);
    bench.flush();
    assert_eq!(bench.sender.retry_at(), Some(bench.now + RETRY_PAUSE));
    assert_eq!(numbers(bench.v4()), [0, 1]);

    bench.flush();
    assert_eq!(bench.v4().calls, 4, "nothing is tried twice in a turn");

    bench.turn_after(RETRY_PAUSE);
    assert_eq!(numbers(bench.v4()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(bench.counters.traffic.gso_routes_disabled, 1);
    assert_eq!(bench.sender.retry_at(), None);
    assert_eq!(bench.dropped(), 0);
}

#[test]
fn one_full_family_does_not_stop_the_other() {
    let mut bench = Bench::new(Fake::new(|_| Some(EAGAIN)), Some(Fake::good()));
    bench.push_many(V4, 4);
    bench.push_many(V6, 4);
    bench.push_many(V4_OTHER, 4);
    bench.flush();
    assert_eq!(bench.v6().sent.len(), 4);
    assert_eq!(bench.v4().calls, 1);
    assert_eq!(bench.queue.batches(), 2, "both wait in the queue");
}

#[test]
fn a_moment_without_room_loses_nothing() {
    for errno in [EAGAIN, ENOBUFS] {
        let mut bench = Bench::new(Fake::scripted(vec![Some(errno); 20]), None);
        bench.push_many(V4, 2);
        bench.flush();
        // However often a busy loop tries meanwhile.
        for _ in 0..19 {
            bench.turn_after(PATIENCE / 20);
        }
        bench.turn_after(NO_TIME);
        assert_eq!(numbers(bench.v4()), [0, 1]);
        assert_eq!(bench.dropped(), 0);
    }
}

#[test]
fn a_full_socket_holds_nobody_up_for_longer_than_a_moment() {
    let mut bench = Bench::new(Fake::new(|_| Some(EAGAIN)), None);
    bench.push_many(V4, 4);
    bench.push_many(V4_OTHER, 4);
    bench.flush();
    bench.turn_after(PATIENCE);
    assert_eq!(bench.counters.drops.udp_send_full, 8, "counted for each datagram");
    assert!(bench.queue.is_empty() && bench.sender.retry_at().is_none());

    bench.turn_after(RETRY_PAUSE);
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.counters.drops.udp_send_full, 12, "what comes later does not wait again");

    bench.sender.v4.socket = Fake::good();
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(bench.v4().sent.len(), 4, "and leaves as soon as there is room");
    assert_eq!(bench.queue.free_buffers(), QueueConfig::DEFAULT.buffers);
}

#[test]
fn after_a_while_a_full_socket_is_waited_for_again() {
    let mut bench = Bench::new(Fake::new(|_| Some(EAGAIN)), None);
    bench.push_many(V4, 1);
    bench.flush();
    bench.turn_after(PATIENCE);
    assert_eq!(bench.counters.drops.udp_send_full, 1);
    bench.turn_after(RENEWAL);
    bench.push_many(V4, 1);
    bench.flush();
    assert_eq!(bench.counters.drops.udp_send_full, 1);
    assert!(bench.sender.retry_at().is_some());
}

#[test]
fn in_a_small_buffer_a_stuck_route_loses_its_own_datagrams_and_no_others() {
    let mut bench = Bench::new(Fake::small(10_000, V4), None);
    let mut stuck = 0;
    for turn in 0..200 {
        bench.push_many(V4, 10);
        bench.push_many(V4_OTHER, 1);
        stuck += 10;
        bench.turn_after(Duration::from_millis(1));
        assert!(bench.queue.bytes() <= 4 * 1_000, "turn {turn}: what is stuck does not pile up");
    }
    let arrived = numbers(bench.v4()).into_iter().filter(|number| number % 11 == 10).count();
    assert_eq!(arrived, 200, "of the others each leaves in its turn");
    let lost = bench.counters.drops.udp_send_full;
    assert_eq!(bench.dropped(), lost);
    assert!(lost > stuck * 8 / 10 && lost <= stuck, "{lost} of {stuck}");
}

#[test]
fn a_route_whose_share_is_full_waits_without_stopping_others() {
    let mut bench = Bench::new(Fake::small(10_000, V4), None);
    bench.push_many(V4, 100);
    bench.push_many(V4_OTHER, 3);
    bench.flush();
    let other = numbers(bench.v4()).into_iter().filter(|number| *number >= 100).count();
    assert_eq!(other, 3);
    assert!(bench.queue.bytes() > 0 && bench.dropped() == 0);

    bench.sender.v4.socket.stuck = None;
    bench.sender.v4.socket.buffer = Some(SendBuffer { used: 0, size: 10_000 });
    bench.turn_after(RETRY_PAUSE);
    let sent = numbers(bench.v4());
    assert_eq!(
        sent.iter().filter(|number| **number < 100).count(),
        100,
        "all of it leaves once there is room"
    );
    assert!(sent.iter().filter(|number| **number < 100).is_sorted(), "in order");
    assert_eq!(bench.dropped(), 0);
}

#[test]
fn an_interrupted_call_is_repeated() {
    let mut bench = Bench::new(Fake::scripted(vec![Some(EINTR), Some(EINTR), None]), None);
    bench.push_many(V4, 3);
    bench.flush();
    assert_eq!(numbers(bench.v4()), [0, 1, 2]);
    assert_eq!(bench.counters.traffic.gso_fallbacks, 0);
}

#[test]
fn a_pinned_source_that_is_gone_is_given_up_and_reported() {
    for errno in [EINVAL, ENETUNREACH, EADDRNOTAVAIL] {
        let mut bench = Bench::new(Fake::new(move |transmit| transmit.src_ip.map(|_| errno)), None);
        let to = Destination { local: Some(PIN), ..Destination::new(V4) };
        for _ in 0..4 {
            bench.push(to, 100);
        }
        bench.flush();
        assert_eq!(numbers(bench.v4()), [0, 1, 2, 3]);
        assert_eq!(bench.v4().calls, 2, "the train with the pin, and the train without");
        assert_eq!(bench.forgotten, [to]);
        assert_eq!(bench.counters.traffic.gso_routes_disabled, 0);
        assert_eq!(bench.dropped(), 0);
    }
}

#[test]
fn a_peer_out_of_reach_keeps_its_pin() {
    let mut bench = Bench::new(Fake::new(|_| Some(ENETUNREACH)), None);
    bench.push(Destination { local: Some(PIN), ..Destination::new(V4) }, 100);
    bench.flush();
    assert_eq!(bench.v4().calls, 2);
    assert!(bench.forgotten.is_empty());
    assert_eq!(bench.counters.drops.udp_refused, 1);
}

#[test]
fn a_pin_that_is_fine_survives_a_route_without_gso() {
    let mut bench = Bench::new(Fake::new(|transmit| is_train(transmit).then_some(EINVAL)), None);
    let to = Destination { local: Some(PIN), ..Destination::new(V4) };
    for _ in 0..4 {
        bench.push(to, 100);
    }
    bench.flush();
    assert!(bench.v4().sent.iter().all(|sent| sent.from == Some(PIN)));
    assert!(bench.forgotten.is_empty());
    assert_eq!(bench.counters.traffic.gso_routes_disabled, 1);
}

#[test]
fn without_a_v6_socket_v6_datagrams_are_counted() {
    let mut bench = Bench::new(Fake::good(), None);
    bench.push_many(V6, 3);
    bench.push_many(V4, 1);
    bench.flush();
    assert_eq!(bench.counters.drops.udp_no_socket, 3);
    assert_eq!(bench.v4().sent.len(), 1);
    assert_eq!(bench.queue.free_buffers(), QueueConfig::DEFAULT.buffers);
}

#[test]
fn new_sockets_take_over_what_waited_for_the_old() {
    let mut bench = Bench::new(Fake::scripted(vec![Some(EIO), None, Some(EAGAIN)]), None);
    bench.push_many(V4, 4);
    bench.flush();
    assert_eq!(numbers(bench.v4()), [0]);
    bench.sender.replace_sockets(Fake::good(), Some(Fake::good()));
    bench.push_many(V6, 1);
    bench.flush();
    assert_eq!(numbers(bench.v4()), [1, 2, 3]);
    assert_eq!(bench.v6().sent.len(), 1);
}

#[test]
fn losing_ipv6_with_the_new_sockets_loses_no_count() {
    let mut bench = Bench::new(Fake::good(), Some(Fake::new(|_| Some(EAGAIN))));
    bench.push_many(V6, 3);
    bench.flush();
    bench.sender.replace_sockets(Fake::good(), None);
    bench.flush();
    assert_eq!(bench.counters.drops.udp_no_socket, 3);
    assert_eq!(bench.queue.free_buffers(), QueueConfig::DEFAULT.buffers);
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Push { to: usize, len: usize },
    Flush,
    Turn,
    Later,
}

fn destinations() -> [Destination; 4] {
    [
        Destination::new(V4),
        Destination { local: Some(PIN), ..Destination::new(V4_OTHER) },
        Destination::new(V6),
        Destination { ecn: Ecn::Ce, ..Destination::new(V6) },
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..4usize, prop_oneof![3 => Just(100usize), 1 => 4..200usize])
            .prop_map(|(to, len)| Step::Push { to, len }),
        2 => Just(Step::Flush),
        1 => Just(Step::Turn),
        1 => Just(Step::Later),
    ];
    prop::collection::vec(step, 1..200)
}

fn errors() -> impl Strategy<Value = Vec<Option<i32>>> {
    let errno = prop::sample::select(vec![EIO, EINVAL, EMSGSIZE, ENOBUFS, EAGAIN, EINTR, EPERM, ENETUNREACH]);
    prop::collection::vec(prop::option::weighted(0.5, errno), 0..200)
}

proptest! {
    /// Whatever call fails with whatever error: what is lost is what a plain send refused and what waited in vain,
    /// nothing is doubled, and every destination sees its datagrams in the order they were queued.
    #[test]
    fn errors_at_any_call_lose_no_more_than_a_plain_sender_would(
        steps in steps(),
        v4_errors in errors(),
        v6_errors in errors(),
    ) {
        let mut bench = Bench::new(Fake::scripted(v4_errors), Some(Fake::scripted(v6_errors)));
        let mut pushed: HashMap<Destination, Vec<u32>> = HashMap::new();
        for step in steps {
            match step {
                Step::Push { to, len } => {
                    let to = destinations()[to];
                    let number = bench.push(to, len);
                    pushed.entry(to).or_default().push(number);
                }
                Step::Flush => bench.flush(),
                Step::Turn => bench.turn_after(RETRY_PAUSE),
                Step::Later => bench.now += Duration::from_millis(700),
            }
            if bench.queue.free_buffers() == 0 {
                bench.turn_after(RETRY_PAUSE);
            }
        }
        // A script has an end, so this one has: each turn uses up an error or sends something.
        for _ in 0..1_000 {
            bench.turn_after(RETRY_PAUSE);
        }
        prop_assert!(bench.queue.is_empty() && bench.sender.retry_at().is_none());
        prop_assert_eq!(bench.queue.free_buffers(), QueueConfig::DEFAULT.buffers);

        let fakes = [bench.v4(), bench.v6()];
        let arrived: Vec<u32> = fakes.iter().flat_map(|fake| numbers(fake)).collect();
        let unique: HashSet<u32> = arrived.iter().copied().collect();
        prop_assert_eq!(unique.len(), arrived.len(), "nothing is doubled");

        let refused: HashSet<u32> =
            fakes.iter().flat_map(|fake| fake.refused.iter().map(|bytes| number(bytes))).collect();
        let lost: HashSet<u32> = (0..bench.next).filter(|number| !unique.contains(number)).collect();
        // What was refused with its pinned source may have waited in vain without.
        let waited = lost.difference(&refused).count() as u64;
        prop_assert!(waited <= bench.counters.drops.udp_send_full, "only what was refused plainly is lost, or waited");
        prop_assert_eq!(bench.dropped(), lost.len() as u64, "and all of it is counted");

        for queued in pushed.values() {
            let mine: HashSet<u32> = queued.iter().copied().collect();
            let seen: Vec<u32> = arrived.iter().copied().filter(|number| mine.contains(number)).collect();
            prop_assert!(seen.is_sorted(), "order per destination: {seen:?}");
        }
        let sent: u64 = bench.counters.traffic.udp_datagrams_sent;
        prop_assert_eq!(sent, arrived.len() as u64);
    }
}
