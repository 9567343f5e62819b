//! What handshakes may cost in one turn of the caller's loop, so that they never stop the packets.

use std::time::{Duration, Instant};

/// The most that handshakes and timers may take from one turn, in units of about a microsecond: one answer with what comes
/// before it, and a few cookies. It is what a packet that arrives meanwhile has to wait, and some thirty times what a turn
/// costs beside it.
const TURN: u64 = 300;

/// What is left to handshakes beside packets that could fill the whole turn: one part of this many parts of packets.
const SHARE: u64 = 6;

/// What a packet costs beside its bytes, as bytes: a lookup, a header, a tag.
const PER_PACKET: u64 = 512;

/// So many messages a turn are looked at when they come, whether they have a cookie: as many as one system call receives. A
/// flood that only pretends to have cookies costs no more than that, and nothing of what is left to others.
const CHECKS: u32 = 32;

/// A turn is another value of `now`, if only by this: for those whose clock stands still until the next deadline.
const NEXT_TURN: Duration = Duration::from_micros(1);

/// What receiving a handshake message and one hash over it cost, as bytes of packets.
const PER_MESSAGE: u64 = 2048;

/// Bytes of packets, sealed or opened and moved, that cost one unit.
const BYTES_PER_UNIT: u64 = 1024;

/// What a step of a handshake costs, in units of about a microsecond. What counts is how they compare to each other and to
/// packets: a machine half as fast is half as fast at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost(u32);

impl Cost {
    /// A cookie reply: three hashes, one short encryption, and a datagram to a destination of its own.
    pub(crate) const COOKIE_REPLY: Self = Self(9);
    /// Reading whose initiation it claims to be: one Diffie–Hellman.
    pub(crate) const CLAIM: Self = Self(50);
    /// The rest of an initiation, and the response to it: three to four.
    pub(crate) const ANSWER: Self = Self(150);
    /// A response to an initiation of ours: two, and the message that confirms it.
    pub(crate) const RESPONSE: Self = Self(110);
    /// An initiation of ours: one or two, and a key pair.
    pub(crate) const INITIATION: Self = Self(110);
    /// A keepalive, which is a datagram of its own.
    pub(crate) const KEEPALIVE: Self = Self(4);
    /// Looking at the timers of a peer.
    pub(crate) const TIMERS: Self = Self(1);
}

/// The budget of the turn that runs. A turn is all that happens at one value of `now`.
///
/// A step may begin while anything is left; what it takes too much is missing in the turns that follow.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    turn: Option<Instant>,
    left: i64,
    checks: u32,
    /// Whose turn it is to be first.
    timers_first: bool,
    /// Bytes of packets since the turn began, with what each costs beside them.
    packets: u64,
}

impl Budget {
    /// Has another turn begin if `now` is another than before. The more packets there were in the last one, the less is
    /// left to handshakes in this.
    #[inline]
    pub(crate) fn at(&mut self, now: Instant) {
        if self.turn != Some(now) {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Instant) {
        let packets = std::mem::take(&mut self.packets) / BYTES_PER_UNIT;
        let idle = TURN.saturating_sub(packets);
        let beside_packets = (packets / SHARE).min(TURN);
        let allowance = idle.max(beside_packets) as i64;
        self.left = self.left.min(0) + allowance;
        self.checks = CHECKS;
        self.turn = Some(now);
    }

    /// Takes note of packets that were sealed or opened in this turn.
    #[inline]
    pub(crate) fn carried(&mut self, packets: usize, bytes: usize) {
        self.packets += packets as u64 * PER_PACKET + bytes as u64;
    }

    /// Takes note of a handshake message that came.
    pub(crate) const fn came(&mut self) {
        self.packets += PER_MESSAGE;
    }

    /// What is left in this turn. A step may begin while it is more than nothing.
    pub(crate) const fn left(&self) -> i64 {
        self.left
    }

    /// Whether a step may begin at this time.
    pub(crate) fn is_left(&mut self, now: Instant) -> bool {
        self.at(now);
        self.left > 0
    }

    /// Whether another message may be looked at as it comes in this turn, if it has a cookie.
    pub(crate) const fn take_check(&mut self) -> bool {
        let may = self.checks > 0;
        self.checks -= may as u32;
        may
    }

    /// Whether timers have the first half of what is left, or handshakes: the other way round each time.
    pub(crate) const fn alternate(&mut self) -> bool {
        self.timers_first = !self.timers_first;
        self.timers_first
    }

    /// When the next turn may begin: what waits for the budget waits until then.
    pub(crate) fn next_turn(&self) -> Option<Instant> {
        self.turn.map(|turn| turn + NEXT_TURN)
    }

    /// Takes note of a step.
    pub(crate) fn spend(&mut self, cost: Cost) {
        self.left -= i64::from(cost.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "one base instant, to which the test adds offsets")]
    fn turns() -> impl Iterator<Item = Instant> {
        let base = Instant::now();
        (0..).map(move |n| base + Duration::from_micros(n * 100))
    }

    /// Spends as much as a turn allows; gives how often.
    fn exhaust(budget: &mut Budget, cost: Cost) -> u32 {
        let mut steps = 0;
        while budget.left() > 0 {
            budget.spend(cost);
            steps += 1;
        }
        steps
    }

    #[test]
    fn a_turn_is_one_value_of_now() {
        let (mut budget, mut turns) = (Budget::default(), turns());
        let now = turns.next().unwrap();
        assert_eq!(budget.left(), 0, "no turn has begun");
        assert!(budget.is_left(now));
        assert_eq!(exhaust(&mut budget, Cost::COOKIE_REPLY), 34);
        assert!(!budget.is_left(now), "asking again begins no other turn");
        assert!(budget.is_left(turns.next().unwrap()));
    }

    #[test]
    fn what_one_turn_took_too_much_the_next_ones_miss() {
        let (mut budget, turns) = (Budget::default(), turns());
        let spent: u32 = turns
            .take(1000)
            .map(|now| {
                budget.at(now);
                exhaust(&mut budget, Cost::ANSWER) * Cost::ANSWER.0
            })
            .sum();
        let allowed = 1000 * TURN as u32;
        assert!((allowed..allowed + Cost::ANSWER.0).contains(&spent), "{spent}");
    }

    #[test]
    fn what_is_not_spent_is_not_saved() {
        let (mut budget, turns) = (Budget::default(), turns());
        turns.take(1000).for_each(|now| budget.at(now));
        assert_eq!(exhaust(&mut budget, Cost::COOKIE_REPLY), 34);
    }

    #[test]
    fn packets_that_fill_the_turn_leave_a_sixth_of_what_they_cost() {
        let (mut budget, mut turns) = (Budget::default(), turns());
        for (frames, allowed) in [(0, 300), (1, 214), (4, 57), (6, 86), (24, 300)] {
            budget.at(turns.next().unwrap());
            for _ in 0..frames {
                budget.carried(45, 45 * 1452);
            }
            exhaust(&mut budget, Cost(1));
            budget.at(turns.next().unwrap());
            assert_eq!(exhaust(&mut budget, Cost(1)), allowed, "{frames} frames");
        }
    }
}
