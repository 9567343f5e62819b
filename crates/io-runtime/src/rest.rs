//! How long a fast path rests that failed, before it is tried again.

use std::time::{Duration, Instant};

/// First pause before a fast path is tried again.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. A trial costs one failed system call, so hours would save nothing; and a laptop that
/// comes back to its fast network should notice within minutes.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// One pause; each is twice as long as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    length: Duration,
    until: Instant,
}

impl Rest {
    /// The first pause, or the one after `before`.
    pub(crate) fn after(before: Option<Self>, now: Instant) -> Self {
        let length = before.map_or(FIRST_PAUSE, |rest| (rest.length * 2).min(LONGEST_PAUSE));
        Self { length, until: now + length }
    }

    pub(crate) fn until(self) -> Instant {
        self.until
    }

    pub(crate) fn is_over(self, now: Instant) -> bool {
        self.until <= now
    }
}
