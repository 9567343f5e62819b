//! The timestamps in initiations (§5.1), which boringtun takes from the wall clock once per state and then counts on.

use std::time::{Duration, Instant, SystemTime};

/// Wall clocks are set by more than this, if they are; whatever is less needs no new timestamps.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The moment a state began, on both clocks.
pub(super) struct Stamps {
    instant: Instant,
    time: SystemTime,
}

impl Stamps {
    #[expect(clippy::disallowed_methods, reason = "as boringtun does, which cannot take ours")]
    pub(super) fn begin() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }

    /// True when the wall clock was set forward since: a peer may have seen later timestamps of ours than the state
    /// makes, from before a restart on a machine that started with a wrong clock, and would refuse them for ever. (Or
    /// the machine has slept; then a new state does no harm.)
    ///
    /// Nothing is to be done about a clock that was set back: the state counts on, and the peer refuses nothing.
    pub(super) fn are_behind(&self) -> bool {
        let now = Self::begin();
        let elapsed = now.instant.saturating_duration_since(self.instant);
        let ahead = now.time.duration_since(self.time).unwrap_or_default();
        ahead > elapsed + TOLERANCE
    }

    /// As if the state had begun with a clock that was so much behind.
    #[cfg(test)]
    pub(super) fn put_back(&mut self, by: Duration) {
        self.time -= by;
    }
}
