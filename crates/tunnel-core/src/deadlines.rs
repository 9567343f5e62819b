//! When each peer wants to be looked at: exactly one entry per peer that waits for something.
//!
//! An idle peer costs nothing per tick, and a data packet touches the set only when it moves its peer's
//! deadline forward in time.

use std::{collections::BTreeSet, time::Instant};

use encrypt::PeerIndex;

/// All peers' deadlines, soonest first.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(Instant, PeerIndex)>,
}

/// One peer's entry in [`Deadlines`], kept by the peer.
#[derive(Debug, Default)]
pub(crate) struct Scheduled(Option<Instant>);

impl Deadlines {
    /// The soonest deadline of any peer.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The peer whose deadline is soonest, if it has passed.
    pub(crate) fn due(&self, now: Instant) -> Option<PeerIndex> {
        self.by_time.first().filter(|(at, _)| *at <= now).map(|(_, peer)| *peer)
    }

    /// Replaces the peer's deadline.
    pub(crate) fn set(&mut self, peer: PeerIndex, scheduled: &mut Scheduled, at: Option<Instant>) {
        if scheduled.0 == at {
            return;
        }
        if let Some(before) = scheduled.0 {
            self.by_time.remove(&(before, peer));
        }
        if let Some(at) = at {
            self.by_time.insert((at, peer));
        }
        scheduled.0 = at;
    }

    /// Makes the peer's deadline `at`, unless it is sooner already: being looked at early is harmless, and
    /// most data packets only push timers back.
    pub(crate) fn bring_forward(&mut self, peer: PeerIndex, scheduled: &mut Scheduled, at: Option<Instant>) {
        let Some(at) = at else { return };
        if scheduled.0.is_none_or(|before| at < before) {
            self.set(peer, scheduled, Some(at));
        }
    }

    /// How many peers wait for something.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "one base instant, to which the test adds offsets")]
    fn there_is_one_entry_per_peer_however_often_it_moves() {
        let base = Instant::now();
        let at = |seconds| Some(base + Duration::from_secs(seconds));
        let mut deadlines = Deadlines::default();
        let (a, b) = (PeerIndex::new(1).unwrap(), PeerIndex::new(2).unwrap());
        let (mut a_entry, mut b_entry) = (Scheduled::default(), Scheduled::default());

        deadlines.set(a, &mut a_entry, at(10));
        deadlines.set(b, &mut b_entry, at(5));
        deadlines.bring_forward(a, &mut a_entry, at(20));
        assert_eq!(deadlines.next(), at(5));
        deadlines.bring_forward(a, &mut a_entry, at(3));
        assert_eq!(deadlines.next(), at(3));
        assert_eq!(deadlines.len(), 2);
        assert_eq!(deadlines.due(base + Duration::from_secs(2)), None);
        assert_eq!(deadlines.due(base + Duration::from_secs(3)), Some(a));
        deadlines.set(a, &mut a_entry, None);
        assert_eq!(deadlines.due(base + Duration::from_secs(9)), Some(b));
        deadlines.set(b, &mut b_entry, None);
        assert_eq!((deadlines.next(), deadlines.len()), (None, 0));
    }
}
