//! One direction of an emulated link, without I/O or clock: packets and `now` in, packets due out.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

/// What a direction does to packets. By default: nothing, at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// How long every packet takes.
    pub delay: Duration,
    /// Up to this much more, at random for each packet; packets may overtake each other by it.
    pub jitter: Duration,
    /// The share of packets lost, 0 to 1.
    pub loss: f64,
    /// The share of packets that later ones may overtake, 0 to 1.
    pub reorder: f64,
    /// How much longer an overtaken packet takes.
    pub held_back: Duration,
    /// Bits per second; `None` is without limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for their turn at that rate; what comes then is lost.
    pub queue: usize,
    /// The same seed loses and holds back the same packets of the same sequence.
    pub seed: u64,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            held_back: Duration::from_millis(1),
            rate: None,
            queue: 4 << 20,
            seed: 1,
        }
    }
}

/// What happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    /// Handed over at the far end.
    pub delivered: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Held back on purpose.
    pub held_back: u64,
    /// Lost because the queue for the rate, or the memory for packets under way, was full.
    pub overflowed: u64,
}

/// However long the delay: what is under way at once fits into this, bytes. 20 ms at 10 Gbit/s are 25 MB.
const MOST_UNDER_WAY: usize = 64 << 20;

/// One direction.
#[derive(Debug)]
pub(super) struct Path {
    rules: Impairment,
    random: Random,
    under_way: BinaryHeap<Reverse<Packet>>,
    bytes_under_way: usize,
    /// When the link will have sent all that waits for its rate.
    link_free: Option<Instant>,
    /// Numbers packets, so that those due at the same time leave in order.
    next_number: u64,
    pub(super) counters: PathCounters,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    number: u64,
    bytes: Vec<u8>,
}

impl Path {
    pub(super) fn new(rules: Impairment) -> Self {
        Self {
            rules,
            random: Random(rules.seed),
            under_way: BinaryHeap::new(),
            bytes_under_way: 0,
            link_free: None,
            next_number: 0,
            counters: PathCounters::default(),
        }
    }

    /// A packet enters.
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant) {
        // Drawn for every packet, whatever happens to it: so the seed alone decides.
        let (loses, holds, wobble) = (self.random.unit(), self.random.unit(), self.random.unit());
        if loses < self.rules.loss {
            self.counters.lost += 1;
            return;
        }
        if self.bytes_under_way + bytes.len() > MOST_UNDER_WAY {
            self.counters.overflowed += 1;
            return;
        }
        let Some(sent) = self.send(bytes.len(), now) else {
            self.counters.overflowed += 1;
            return;
        };
        let mut due = sent + self.rules.delay + self.rules.jitter.mul_f64(wobble);
        if holds < self.rules.reorder {
            self.counters.held_back += 1;
            due += self.rules.held_back;
        }
        self.bytes_under_way += bytes.len();
        self.under_way.push(Reverse(Packet { due, number: self.next_number, bytes: bytes.to_vec() }));
        self.next_number += 1;
    }

    /// When the next packet is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(packet)| packet.due)
    }

    /// The next packet that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next_due().filter(|due| *due <= now)?;
        let Reverse(packet) = self.under_way.pop()?;
        self.bytes_under_way -= packet.bytes.len();
        self.counters.delivered += 1;
        Some(packet.bytes)
    }

    /// When the packet has left at the link's rate; `None` if too much waits already.
    fn send(&mut self, len: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.rules.rate else { return Some(now) };
        let time_for = |bytes: usize| Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        let starts = self.link_free.map_or(now, |free| free.max(now));
        if starts - now > time_for(self.rules.queue) {
            return None;
        }
        let sent = starts + time_for(len);
        self.link_free = Some(sent);
        Some(sent)
    }
}

/// SplitMix64: short, and good enough for dice.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// From 0 to just below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    /// Sends packets numbered by their first two bytes, 1 µs apart, and gives those that arrive, in order.
    fn through(rules: Impairment, packets: u16) -> (Vec<u16>, PathCounters) {
        let start = clock::now();
        let mut path = Path::new(rules);
        for number in 0..packets {
            path.push(&number.to_be_bytes(), start + Duration::from_micros(number.into()));
        }
        let later = start + Duration::from_secs(60);
        let arrived = std::iter::from_fn(|| path.pop_due(later));
        let numbers = arrived.map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])).collect();
        (numbers, path.counters)
    }

    #[test]
    fn delay_alone_keeps_order_and_never_delivers_early() {
        let start = clock::now();
        let mut path = Path::new(Impairment { delay: 10 * MS, ..Impairment::default() });
        path.push(b"first", start);
        path.push(b"second", start);
        assert_eq!(path.next_due(), Some(start + 10 * MS));
        assert_eq!(path.pop_due(start + 9 * MS), None);
        assert_eq!(path.pop_due(start + 10 * MS).unwrap(), b"first");
        assert_eq!(path.pop_due(start + 10 * MS).unwrap(), b"second");
        assert_eq!(path.pop_due(start + 10 * MS), None);
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_drops_the_newest() {
        let start = clock::now();
        // 1,000 bytes take 1 ms.
        let rules = Impairment { rate: Some(8_000_000), queue: 2_000, ..Impairment::default() };
        let mut path = Path::new(rules);
        for _ in 0..5 {
            path.push(&[0; 1000], start);
        }
        assert_eq!(path.counters.overflowed, 2, "one is being sent and two wait");
        for number in 1..=3 {
            assert!(path.pop_due(start + MS * number - Duration::from_micros(1)).is_none());
            assert!(path.pop_due(start + MS * number).is_some());
        }
        path.push(&[0; 1000], start + 10 * MS);
        assert_eq!(path.next_due(), Some(start + 11 * MS), "an idle link saves nothing up");
    }

    #[test]
    fn the_seed_decides_what_is_lost_and_what_is_overtaken() {
        let rules = Impairment { loss: 0.1, reorder: 0.1, ..Impairment::default() };
        let (arrived, counters) = through(rules, 1_000);
        assert_eq!(arrived.len() as u64, counters.delivered);
        assert_eq!(counters.delivered + counters.lost, 1_000);
        assert!(
            (50..200).contains(&counters.lost) && (50..200).contains(&counters.held_back),
            "{counters:?}"
        );
        assert!(!arrived.is_sorted());
        assert_eq!(through(rules, 1_000), (arrived.clone(), counters));
        assert_ne!(through(Impairment { seed: 2, ..rules }, 1_000).0, arrived);
    }

    #[test]
    fn without_loss_or_reordering_everything_arrives_in_order() {
        let (arrived, counters) = through(Impairment { delay: MS, ..Impairment::default() }, 1_000);
        assert_eq!(arrived, (0..1_000).collect::<Vec<_>>());
        assert_eq!(counters, PathCounters { delivered: 1_000, ..PathCounters::default() });
    }

    #[test]
    fn memory_is_bounded_however_long_the_delay() {
        let start = clock::now();
        let mut path = Path::new(Impairment { delay: Duration::from_secs(3600), ..Impairment::default() });
        let packet = vec![0; 1 << 20];
        for _ in 0..100 {
            path.push(&packet, start);
        }
        assert_eq!(path.counters.overflowed, 36);
        assert_eq!(path.bytes_under_way, MOST_UNDER_WAY);
    }
}
