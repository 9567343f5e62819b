//! Wall-clock time for instants of the data plane's clock. Both go on while the machine sleeps.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Turns readings of the data plane's clock into wall-clock time, always the same for the same reading:
/// scripts compare handshake times to see whether there was a new one.
#[derive(Debug)]
pub(crate) struct WallClock(Mutex<Anchor>);

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    instant: Instant,
    time: Duration,
}

impl WallClock {
    /// A wall clock that is off by more than this was set, and is followed.
    const TOLERANCE: Duration = Duration::from_millis(500);

    /// A clock that agrees with the system's now.
    pub(crate) fn start() -> Self {
        Self::new(io_runtime::clock::now(), since_epoch())
    }

    /// A clock that was `time` after the epoch at `instant`.
    pub(crate) const fn new(instant: Instant, time: Duration) -> Self {
        Self(Mutex::new(Anchor { instant, time }))
    }

    /// Follows the system's clock if somebody has set it.
    pub(crate) fn follow(&self) {
        self.adjust(io_runtime::clock::now(), since_epoch());
    }

    fn adjust(&self, instant: Instant, time: Duration) {
        if self.time_of(instant).abs_diff(time) > Self::TOLERANCE {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Anchor { instant, time };
        }
    }

    /// The time of an instant since the epoch; zero before it.
    pub(crate) fn time_of(&self, instant: Instant) -> Duration {
        let anchor = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match instant.checked_duration_since(anchor.instant) {
            Some(later) => anchor.time + later,
            None => anchor.time.saturating_sub(anchor.instant.duration_since(instant)),
        }
    }
}

/// The wall clock, as the time since the Unix epoch; zero before it.
#[expect(clippy::disallowed_methods, reason = "people and protocols tell handshakes in wall-clock time")]
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_instant_is_always_the_same_time_until_the_wall_clock_is_set() {
        let start = io_runtime::clock::now();
        let seconds = Duration::from_secs;
        let clock = WallClock::new(start, seconds(1_000));
        assert_eq!(clock.time_of(start + seconds(5)), seconds(1_005));

        let drifted = seconds(1_010) + Duration::from_millis(20);
        clock.adjust(start + seconds(10), drifted);
        assert_eq!(clock.time_of(start + seconds(5)), seconds(1_005));

        clock.adjust(start + seconds(20), seconds(90_020));
        assert_eq!(clock.time_of(start + seconds(5)), seconds(90_005));
        clock.adjust(start + seconds(30), seconds(530));
        assert_eq!(clock.time_of(start + seconds(5)), seconds(505), "set back: as long ago as it was");
    }

    #[test]
    fn a_sleep_passes_on_both_clocks_and_moves_nothing() {
        let start = io_runtime::clock::now();
        let clock = WallClock::new(start, Duration::from_secs(1_000));
        let asleep = Duration::from_secs(400);
        clock.adjust(start + asleep, Duration::from_secs(1_000) + asleep);
        assert_eq!(clock.time_of(start), Duration::from_secs(1_000));
    }

    #[test]
    fn a_time_before_the_epoch_is_zero() {
        let start = io_runtime::clock::now() + Duration::from_secs(100);
        let clock = WallClock::new(start, Duration::from_secs(5));
        assert_eq!(clock.time_of(start - Duration::from_secs(50)), Duration::ZERO);
    }
}
