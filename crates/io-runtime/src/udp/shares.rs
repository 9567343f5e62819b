//! Who fills a small send buffer, so that nobody fills all of it.
//!
//! A socket's send buffer is charged with every packet until its device has taken it, whichever route it
//! waits on, and the kernel tells only the sum. A buffer of [`SEND_BUFFER`](super::SEND_BUFFER) bytes is
//! never full, and nobody asks. A smaller one is shared out: a route that is slow or dead may hold up to
//! half of it together with all others that are, and the rest is for those whose packets leave at once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Who holds something for longer is slow. The packets of a route that is not leave a device's queue within
/// a few milliseconds, at 100 Mbit/s, too.
const SLOW: Duration = Duration::from_millis(10);

/// After this time a share is no longer taken to be its destination's, so that a guess that was wrong does not
/// starve a slow route while another is busy. Dead ones add little in the three seconds until the kernel drops
/// what waits for a neighbour that does not answer.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// Destinations remembered at most. What others hold counts as slow.
const MAX_ENTRIES: usize = 256;

/// A send buffer as the kernel has it, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SendBuffer {
    /// Charged for what waits in queues.
    pub(crate) used: usize,
    /// Sends are taken while less than this is used.
    pub(crate) size: usize,
}

/// What each destination holds of a send buffer, as far as that can be told.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    buffer: SendBuffer,
    /// By age.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    to: SocketAddr,
    bytes: usize,
    /// Since when it was never seen to hold nothing.
    since: Instant,
}

impl Entry {
    fn is_slow(&self, now: Instant) -> bool {
        self.since + SLOW <= now
    }
}

impl Shares {
    /// Follows what the kernel has taken off the buffer.
    ///
    /// From whose share is a guess. Packets for a route that is fast were the last to come and are the first to
    /// go, so the newest share shrinks first.
    pub(crate) fn observe(&mut self, buffer: SendBuffer, now: Instant) {
        self.buffer = buffer;
        self.entries.retain(|entry| now < entry.since + FORGOTTEN);
        let held: usize = self.entries.iter().map(|entry| entry.bytes).sum();
        let mut gone = held.saturating_sub(buffer.used);
        while let Some(newest) = self.entries.last_mut()
            && gone > 0
        {
            let taken = newest.bytes.min(gone);
            newest.bytes -= taken;
            gone -= taken;
            if newest.bytes == 0 {
                self.entries.pop();
            }
        }
    }

    /// Charges what a send has added. [`observe`](Self::observe) comes before the send, this after it.
    pub(crate) fn charge(&mut self, to: SocketAddr, after: SendBuffer, now: Instant) {
        let added = after.used.saturating_sub(self.buffer.used);
        self.buffer = after;
        if added == 0 {
            return;
        }
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.to == to) {
            entry.bytes += added;
        } else if self.entries.len() < MAX_ENTRIES {
            self.entries.push(Entry { to, bytes: added, since: now });
        }
    }

    /// How many datagrams of `len` bytes may go to `to` now, of a train as long as it likes.
    pub(crate) fn room(&self, to: SocketAddr, len: usize, now: Instant) -> usize {
        let SendBuffer { used, size } = self.buffer;
        let free = size.saturating_sub(used);
        let fast: usize = self.entries.iter().filter(|e| !e.is_slow(now)).map(|e| e.bytes).sum();
        match self.entries.iter().find(|entry| entry.to == to) {
            // Nothing of it waits: one at least.
            None => (free / 2 / len).max(usize::from(free > 0)),
            Some(entry) if entry.is_slow(now) => {
                let slow = used.saturating_sub(fast);
                (size / 2).saturating_sub(slow) / len
            }
            // No more than what it leaves to the others.
            Some(entry) => free.saturating_sub(entry.bytes) / 2 / len,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SIZE: usize = 400_000;
    const TRAIN: usize = 60_000;
    const LEN: usize = 1_500;

    fn peer(number: u8) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, number), 1).into()
    }

    /// A kernel with routes that take nothing, and one that takes what it is told to.
    struct Kernel {
        shares: Shares,
        used: usize,
        now: Instant,
    }

    impl Kernel {
        fn new() -> Self {
            Self { shares: Shares::default(), used: 0, now: crate::clock::now() }
        }

        fn buffer(&self) -> SendBuffer {
            SendBuffer { used: self.used, size: SIZE }
        }

        /// Offers a train. Gives how much of it there is room for.
        fn send(&mut self, to: SocketAddr, bytes: usize) -> usize {
            self.shares.observe(self.buffer(), self.now);
            let taken = (self.shares.room(to, LEN, self.now) * LEN).min(bytes);
            self.used += taken;
            self.shares.charge(to, self.buffer(), self.now);
            taken
        }

        fn later(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn one_stuck_route_gets_half_and_others_go_on() {
        let mut kernel = Kernel::new();
        for _ in 0..100 {
            kernel.send(peer(1), TRAIN);
            kernel.later(Duration::from_millis(1));
        }
        assert!((SIZE / 3..=SIZE / 2).contains(&kernel.used), "{}", kernel.used);
        for _ in 0..100 {
            assert_eq!(kernel.send(peer(2), TRAIN), TRAIN);
            kernel.used -= TRAIN;
            kernel.later(Duration::from_millis(1));
            assert_eq!(kernel.send(peer(1), TRAIN), 0);
        }
    }

    #[test]
    fn many_stuck_routes_leave_room() {
        let mut kernel = Kernel::new();
        // As long as a neighbour may be silent before the kernel drops what waits for it.
        for _ in 0..3_000 / 36 {
            for number in 10..46 {
                kernel.send(peer(number), LEN);
                kernel.later(Duration::from_millis(1));
            }
        }
        assert!(kernel.used < SIZE * 4 / 5, "{}", kernel.used);
        assert!(kernel.send(peer(1), TRAIN) > TRAIN / 2);
    }

    #[test]
    fn of_two_slow_routes_neither_starves() {
        let mut kernel = Kernel::new();
        let mut taken = [0, 0];
        for _ in 0..10_000 {
            for (number, sum) in (1..).zip(&mut taken) {
                *sum += kernel.send(peer(number), TRAIN);
            }
            kernel.used = kernel.used.saturating_sub(2 * LEN);
            kernel.later(Duration::from_millis(1));
        }
        assert!(taken.iter().all(|sum| *sum > 2_000 * LEN), "{taken:?}");
    }

    #[test]
    fn a_slow_route_is_not_taken_for_a_dead_one() {
        let mut kernel = Kernel::new();
        for _ in 0..20 {
            kernel.send(peer(1), TRAIN);
            kernel.later(Duration::from_millis(1));
        }
        let dead = kernel.used;
        let mut taken = 0;
        for _ in 0..2_000 {
            kernel.send(peer(1), TRAIN);
            taken += kernel.send(peer(2), TRAIN);
            kernel.used = kernel.used.saturating_sub(2 * LEN).max(dead);
            kernel.later(Duration::from_millis(1));
        }
        assert!(taken > 2_000 * LEN, "{taken} of 4,000 datagrams that the route takes");
    }

    #[test]
    fn what_drains_is_forgotten() {
        let mut kernel = Kernel::new();
        kernel.send(peer(1), TRAIN);
        kernel.later(SLOW);
        kernel.used = 0;
        kernel.shares.observe(kernel.buffer(), kernel.now);
        assert!(kernel.shares.entries.is_empty());
        assert_eq!(kernel.shares.room(peer(1), LEN, kernel.now), SIZE / 2 / LEN);
    }

    #[test]
    fn a_full_buffer_has_room_for_nobody() {
        let mut shares = Shares::default();
        let now = crate::clock::now();
        shares.observe(SendBuffer { used: SIZE, size: SIZE }, now);
        assert_eq!(shares.room(peer(1), LEN, now), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut shares = Shares::default();
        let now = crate::clock::now();
        for port in 1..=3 * MAX_ENTRIES {
            let to = (Ipv4Addr::LOCALHOST, port as u16).into();
            shares.charge(to, SendBuffer { used: port, size: SIZE }, now);
        }
        assert_eq!(shares.entries.len(), MAX_ENTRIES);
    }
}
