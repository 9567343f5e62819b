//! A small seeded network: delay, jitter (which reorders), loss and duplication.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::world::Datagram;

pub(crate) struct Network {
    pub(crate) delay: Duration,
    /// Up to so much is added to each datagram's delay.
    pub(crate) jitter: Duration,
    /// Of 1000 datagrams, how many are lost.
    pub(crate) loss: u64,
    /// Of 1000 datagrams, how many arrive twice.
    pub(crate) duplication: u64,
    random: Random,
    serial: u64,
    in_flight: BTreeMap<(Instant, u64), Datagram>,
}

impl Network {
    /// Everything arrives at once, in order.
    pub(crate) fn perfect() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0,
            duplication: 0,
            random: Random(1),
            serial: 0,
            in_flight: BTreeMap::new(),
        }
    }

    /// A bad mobile link: 3 % lost, 1 % doubled, 20 to 60 ms of delay, so that most bursts are reordered.
    pub(crate) fn bad(seed: u64) -> Self {
        Self {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(40),
            loss: 30,
            duplication: 10,
            random: Random(seed),
            ..Self::perfect()
        }
    }

    pub(crate) fn send(&mut self, datagram: Datagram, now: Instant) {
        if self.random.below(1000) < self.loss {
            return;
        }
        let copies = if self.random.below(1000) < self.duplication { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = self.random.below(self.jitter.as_micros() as u64 + 1);
            let at = now + self.delay + Duration::from_micros(jitter);
            self.in_flight.insert((at, self.serial), datagram.clone());
            self.serial += 1;
        }
    }

    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn arrive(&mut self, now: Instant) -> Option<Datagram> {
        self.next_arrival().filter(|at| *at <= now)?;
        self.in_flight.pop_first().map(|(_, datagram)| datagram)
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}
