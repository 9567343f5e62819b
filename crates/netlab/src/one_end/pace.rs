//! A rate kept by a thread that sleeps in between.

use std::{thread, time::Duration};

/// After a stall, no more is made up for at once than what was due in this time, and a train: two trains fill the
/// receive buffer of a socket that nobody asked to be larger, and what is lost then is no daemon's fault.
const ARREARS: Duration = Duration::from_micros(500);
const ROOM: f64 = 45.0;
/// Sleeping for less costs more than it is worth, and what is due after so long finds room in any queue.
const SHORTEST: Duration = Duration::from_micros(200);

/// How many packets are due. What cannot be made up for is forgotten: the load was lower then, and says so.
#[derive(Debug)]
pub(super) struct Pace {
    /// Packets per second.
    rate: f64,
    sent: f64,
    forgotten: f64,
}

impl Pace {
    /// The first train is due at once.
    pub(super) const fn new(rate: f64) -> Self {
        Self { rate, sent: 0.0, forgotten: -ROOM }
    }

    /// Whether the next `packets` are due, this long after the start.
    pub(super) fn is_due(&mut self, packets: usize, elapsed: Duration) -> bool {
        let arrears = elapsed.as_secs_f64() * self.rate - self.sent - self.forgotten;
        let most = self.rate * ARREARS.as_secs_f64() + ROOM;
        self.forgotten += (arrears - most).max(0.0);
        arrears >= packets as f64
    }

    pub(super) fn sent(&mut self, packets: usize) {
        self.sent += packets as f64;
    }

    /// Sleeps until about then.
    pub(super) fn wait_for(&self, packets: usize, elapsed: Duration) {
        let due = (self.sent + self.forgotten + packets as f64) / self.rate;
        thread::sleep(Duration::from_secs_f64(due).saturating_sub(elapsed).max(SHORTEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent when time passes in steps.
    fn sent(rate: f64, train: usize, steps: &[Duration]) -> Vec<usize> {
        let mut pace = Pace::new(rate);
        let mut elapsed = Duration::ZERO;
        let mut step = |step: &Duration| {
            elapsed += *step;
            let mut trains = 0;
            while pace.is_due(train, elapsed) {
                pace.sent(train);
                trains += 1;
            }
            trains
        };
        steps.iter().map(&mut step).collect()
    }

    #[test]
    fn the_rate_is_kept_however_time_is_cut() {
        for step in [7, 100, 500] {
            let steps = vec![Duration::from_micros(step); 1_000_000 / step as usize];
            let packets: usize = sent(100_000.0, 45, &steps).iter().sum::<usize>() * 45;
            assert!((99_950..=100_045).contains(&packets), "{packets}");
        }
    }

    #[test]
    fn a_stall_is_made_up_for_only_in_part() {
        let step = Duration::from_micros(250);
        let stall = [step, Duration::from_secs(1), step];
        assert_eq!(sent(910_000.0, 45, &stall), [6, 11, 5]);
        assert_eq!(sent(9_000.0, 45, &stall), [1, 1, 0]);
    }
}
