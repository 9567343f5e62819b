//! Which protocols are merged into super-packets, and when one that the kernel refused is tried again.

use std::time::{Duration, Instant};

use tun_device::{CoalesceConfig, CoalesceCounters, Coalescer, SuperPackets};

use crate::rest::Rest;

/// A refusal that comes this soon after a trial that went well is the same trouble again: its pauses go on
/// growing, and nothing new is said.
const SAME_TROUBLE: Duration = Duration::from_secs(300);

/// What a device's coalescers are to merge. As for GSO on a route, a refusal is said once and rests that
/// protocol alone; it is tried again after 1 s, 2 s, … 5 min.
#[derive(Debug)]
pub(super) struct Merging {
    tcp: Protocol,
    udp: Protocol,
}

#[derive(Debug)]
struct Protocol {
    wanted: bool,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Merged. `Some` if it rested before.
    On(Option<Rest>),
    Resting(Rest),
    /// Merged again after a pause; no super-packet was written yet.
    OnTrial(Rest),
}

impl Merging {
    pub(super) fn new(config: &CoalesceConfig) -> Self {
        let protocol = |wanted| Protocol { wanted, state: State::On(None) };
        Self { tcp: protocol(config.tso), udp: protocol(config.uso) }
    }

    /// Learns from what a coalescer has done between these two states of its counters. True for TCP, and for
    /// UDP, if that is a refusal that should be told.
    #[must_use]
    pub(super) fn learn(
        &mut self,
        before: &CoalesceCounters,
        after: &CoalesceCounters,
        now: Instant,
    ) -> [bool; 2] {
        [self.tcp.learn(before.tcp, after.tcp, now), self.udp.learn(before.udp, after.udp, now)]
    }

    /// True if a pause is over: time to [`try_again`](Self::try_again).
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.tcp.is_due(now) || self.udp.is_due(now)
    }

    /// Ends the pauses that are over.
    pub(super) fn try_again(&mut self, now: Instant) {
        self.tcp.try_again(now);
        self.udp.try_again(now);
    }

    pub(super) const fn apply_to(&self, coalescer: &mut Coalescer) {
        coalescer.set_merging(self.tcp.merges(), self.udp.merges());
    }

    /// Whether TCP and whether UDP rests.
    pub(super) const fn resting(&self) -> (bool, bool) {
        (self.tcp.rests(), self.udp.rests())
    }
}

impl Protocol {
    /// True if a refusal is news.
    fn learn(&mut self, before: SuperPackets, after: SuperPackets, now: Instant) -> bool {
        let was_refused = after.refused > before.refused;
        let was_written = after.written > before.written;
        let (state, is_new) = match self.state {
            State::On(rested) if was_refused => {
                let same = rested.filter(|rest| now.saturating_duration_since(rest.until()) < SAME_TROUBLE);
                (State::Resting(Rest::after(same, now)), same.is_none())
            }
            State::OnTrial(rest) if was_refused => (State::Resting(Rest::after(Some(rest), now)), false),
            State::OnTrial(rest) if was_written => (State::On(Some(rest)), false),
            // What is refused or written during a rest was merged before it.
            same => (same, false),
        };
        self.state = state;
        is_new
    }

    fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Resting(rest) if rest.is_over(now))
    }

    fn try_again(&mut self, now: Instant) {
        if let State::Resting(rest) = self.state
            && rest.is_over(now)
        {
            self.state = State::OnTrial(rest);
        }
    }

    const fn merges(&self) -> bool {
        self.wanted && !self.rests()
    }

    const fn rests(&self) -> bool {
        matches!(self.state, State::Resting(_))
    }
}
