//! Whether the loop has to wait for a processor longer than it should. Knows no clock and no kernel.

use std::time::{Duration, Instant};

use super::sys::Policy;

/// The waiting is judged this often.
const WINDOW: Duration = Duration::from_millis(100);

/// And over no fewer turns on a processor than this, or one unlucky packet would decide.
const TURNS: u64 = 8;

/// Mean wait for a processor that is none of a busy neighbour's doing. Without one it stays under 0.3 ms, however
/// much traffic there is; beside one, a batch thread waits for the next tick: 2 to 4 ms at 250 Hz.
const TOLERATED: Duration = Duration::from_millis(1);

/// The first pause, which doubles with every window found bad after few good ones.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// So many windows without a busy neighbour, and it is forgotten.
const GOOD_WINDOWS: u32 = 100;

/// How long a thread has waited for a processor since it began, and how often it got one
/// (`/proc/PID/schedstat`; Documentation/scheduler/sched-stats.rst of the kernel).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) time: Duration,
    pub(super) turns: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Judge {
    policy: Policy,
    due: Instant,
    /// When the window began.
    before: Waits,
    pause: Duration,
    good_windows: u32,
}

impl Judge {
    /// For a batch thread.
    pub(super) fn new(before: Waits, now: Instant) -> Self {
        Self { policy: Policy::Batch, due: now + WINDOW, before, pause: Duration::ZERO, good_windows: 0 }
    }

    /// What [`judge`](Self::judge) said last.
    pub(super) const fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether it is time to call [`judge`](Self::judge).
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// The policy for what comes.
    pub(super) fn judge(&mut self, waits: Waits, now: Instant) -> Policy {
        self.due = now + WINDOW;
        let turns = waits.turns.saturating_sub(self.before.turns);
        match self.policy {
            Policy::Other => {
                self.policy = Policy::Batch;
                self.before = waits;
            }
            Policy::Batch if turns < TURNS => {}
            Policy::Batch => {
                let waited = waits.time.saturating_sub(self.before.time);
                self.before = waits;
                if waited.as_nanos() > TOLERATED.as_nanos() * u128::from(turns) {
                    self.rest(now);
                } else {
                    self.good_windows = self.good_windows.saturating_add(1);
                }
            }
        }
        self.policy
    }

    fn rest(&mut self, now: Instant) {
        let longer = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.pause = if self.good_windows >= GOOD_WINDOWS { FIRST_PAUSE } else { longer };
        self.good_windows = 0;
        self.due = now + self.pause;
        self.policy = Policy::Other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITTLE: Duration = Duration::from_micros(300);
    const MUCH: Duration = Duration::from_micros(1_700);

    struct Thread {
        judge: Judge,
        waits: Waits,
        now: Instant,
    }

    impl Thread {
        fn new() -> Self {
            #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
            let now = Instant::now();
            Self { judge: Judge::new(Waits::default(), now), waits: Waits::default(), now }
        }

        /// Time passes, in which it got a processor so often and waited so long for each.
        fn live(&mut self, time: Duration, turns: u64, wait: Duration) -> Policy {
            self.now += time;
            self.waits.turns += turns;
            self.waits.time += wait * turns as u32;
            if self.judge.is_due(self.now) {
                self.judge.judge(self.waits, self.now);
            }
            self.judge.policy()
        }

        /// How long it rests from now on, when it is woken every 10 ms and waits so long.
        fn rest_of(&mut self, wait: Duration) -> Duration {
            let mut rested = Duration::ZERO;
            for _ in 0..100_000 {
                if self.live(Duration::from_millis(10), 1, wait) == Policy::Other {
                    rested += Duration::from_millis(10);
                } else if rested > Duration::ZERO {
                    return rested;
                }
            }
            panic!("it never rested, or for ever");
        }
    }

    #[test]
    fn a_thread_that_waits_little_stays_a_batch_thread_however_busy_it_is() {
        let mut thread = Thread::new();
        for turns in (0..10_000).step_by(7) {
            assert_eq!(thread.live(WINDOW, turns, LITTLE), Policy::Batch);
        }
    }

    #[test]
    fn a_thread_that_waits_long_rests_at_the_end_of_the_window() {
        let mut thread = Thread::new();
        assert_eq!(thread.live(WINDOW / 2, 50, MUCH), Policy::Batch);
        assert_eq!(thread.live(WINDOW / 2, 50, MUCH), Policy::Other);
    }

    #[test]
    fn a_few_unlucky_turns_decide_only_together() {
        let mut thread = Thread::new();
        for _ in 1..TURNS {
            assert_eq!(thread.live(Duration::from_secs(1), 1, MUCH), Policy::Batch);
        }
        assert_eq!(thread.live(Duration::from_secs(1), 1, MUCH), Policy::Other);
    }

    #[test]
    fn what_was_waited_before_does_not_count_again() {
        let mut thread = Thread::new();
        assert_eq!(thread.live(WINDOW, 100, MUCH), Policy::Other);
        assert_eq!(thread.live(FIRST_PAUSE, 100, MUCH), Policy::Batch);
        assert_eq!(thread.live(WINDOW, 100, LITTLE), Policy::Batch);
        assert_eq!(thread.live(WINDOW, 100, LITTLE), Policy::Batch);
    }

    #[test]
    fn pauses_grow_while_the_neighbour_stays_and_shrink_when_it_was_away() {
        let mut thread = Thread::new();
        let pauses: Vec<_> = (0..7).map(|_| thread.rest_of(MUCH).as_secs()).collect();
        assert_eq!(pauses, [4, 8, 16, 32, 64, 64, 64]);
        for _ in 0..GOOD_WINDOWS + 1 {
            assert_eq!(thread.live(WINDOW, 10, LITTLE), Policy::Batch);
        }
        assert_eq!(thread.rest_of(MUCH), FIRST_PAUSE);
    }
}
