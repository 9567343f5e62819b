//! The rate ladder: the highest offered rate that still loses next to nothing, found in few steps.

use anyhow::Result;

/// A rung holds while less than this share is lost.
pub(crate) const TOLERATED_LOSS: f64 = 0.01;

/// The search ends when the rate that held and the one that did not are this close.
const FINEST: f64 = 1.05;
/// However odd the answers, the search ends: 14 doublings up and 5 halvings of the gap are more than enough.
const MOST_RUNGS: usize = 24;
/// One unlucky moment on a shared machine should not end a climb: a rung gets a second chance.
const CHANCES: usize = 2;
/// A sender this far below the offered rate is itself the limit.
const KEPT_UP: f64 = 0.95;

/// How to search. Rates are in any unit, per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ladder {
    /// Where the climb starts.
    pub(crate) start: f64,
    /// Descending below this finds nothing worth reporting.
    pub(crate) lowest: f64,
    /// Each rung of the climb against the one before.
    pub(crate) climb: f64,
}

/// What became of one offered rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rung {
    /// The rate asked of the sender.
    pub(crate) offered: f64,
    /// The rate that it kept.
    pub(crate) sent: f64,
    /// The rate that arrived.
    pub(crate) delivered: f64,
    /// The share of what was sent that did not arrive.
    pub(crate) loss: f64,
}

impl Rung {
    fn holds(&self) -> bool {
        self.loss < TOLERATED_LOSS
    }

    fn sender_kept_up(&self) -> bool {
        self.sent >= self.offered * KEPT_UP
    }
}

impl Ladder {
    /// Datagrams: every implementation carries that many.
    pub(crate) const DATAGRAMS: Self = Self { start: 25_000.0, lowest: 100.0, climb: 2.0 };

    /// Climbs until a rate is lost, then halves the gap until it is small. `attempt` offers a rate for a while, and may
    /// tell more of it. Gives the best rung that held; `None` if not even the lowest did.
    ///
    /// # Errors
    /// Those of `attempt`.
    pub(crate) fn highest_rate<T>(
        &self,
        mut attempt: impl FnMut(f64) -> Result<(Rung, T)>,
    ) -> Result<Option<(Rung, T)>> {
        let (mut best, mut held, mut lost): (Option<(Rung, T)>, Option<f64>, Option<f64>) =
            (None, None, None);
        let mut most_sent = 0.0;
        for _ in 0..MOST_RUNGS {
            let Some(rate) = self.next_rate(held, lost) else { break };
            let (rung, more) = with_second_chance(rate, &mut attempt)?;
            if !rung.holds() {
                lost = Some(rate);
                continue;
            }
            held = Some(rate);
            if best.as_ref().is_none_or(|(best, _)| rung.delivered > best.delivered) {
                best = Some((rung, more));
            }
            if !rung.sender_kept_up() && rung.sent < most_sent * FINEST {
                break; // more cannot be offered
            }
            most_sent = rung.sent.max(most_sent);
        }
        Ok(best)
    }

    fn next_rate(&self, held: Option<f64>, lost: Option<f64>) -> Option<f64> {
        match (held, lost) {
            (None, None) => Some(self.start),
            (Some(held), None) => Some(held * self.climb),
            (None, Some(lost)) => Some(lost / self.climb).filter(|rate| *rate >= self.lowest),
            (Some(held), Some(lost)) => Some((held * lost).sqrt()).filter(|_| lost / held > FINEST),
        }
    }
}

fn with_second_chance<T>(rate: f64, attempt: &mut impl FnMut(f64) -> Result<(Rung, T)>) -> Result<(Rung, T)> {
    let mut outcome = attempt(rate)?;
    for _ in 1..CHANCES {
        if outcome.0.holds() && outcome.0.sender_kept_up() {
            break;
        }
        outcome = attempt(rate)?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries up to `capacity`; the sender manages up to `limit`.
    fn path(capacity: f64, limit: f64) -> impl FnMut(f64) -> Result<(Rung, ())> {
        move |offered| {
            let sent = offered.min(limit);
            let delivered = sent.min(capacity);
            Ok((Rung { offered, sent, delivered, loss: 1.0 - delivered / sent }, ()))
        }
    }

    #[test]
    fn any_capacity_is_found_to_five_percent_in_a_bounded_number_of_rungs() {
        for capacity in [700.0, 12_345.0, 25_000.0, 99_999.0, 400_000.0, 3_000_000.0] {
            let mut attempts = 0;
            let mut path = path(capacity, f64::INFINITY);
            let found = Ladder::DATAGRAMS.highest_rate(|rate| {
                attempts += 1;
                path(rate)
            });
            let found = found.unwrap().unwrap().0.delivered;
            assert!(found <= capacity && found > capacity / (FINEST * 1.01), "{found} of {capacity}");
            assert!(attempts <= MOST_RUNGS * CHANCES, "{attempts}");
        }
    }

    #[test]
    fn a_sender_at_its_limit_ends_the_climb() {
        let mut offers = Vec::new();
        let mut path = path(f64::INFINITY, 90_000.0);
        let found = Ladder::DATAGRAMS.highest_rate(|rate| {
            offers.push(rate);
            path(rate)
        });
        assert_eq!(found.unwrap().unwrap().0.delivered, 90_000.0);
        assert_eq!(offers, [25_000.0, 50_000.0, 100_000.0, 100_000.0, 200_000.0, 200_000.0]);
    }

    #[test]
    fn one_unlucky_moment_does_not_end_the_climb() {
        let mut attempts = 0;
        let mut path = path(200_000.0, f64::INFINITY);
        let found = Ladder::DATAGRAMS.highest_rate(|rate| {
            attempts += 1;
            let (rung, ()) = path(rate)?;
            Ok((if attempts == 2 { Rung { loss: 0.5, ..rung } } else { rung }, ()))
        });
        assert!(found.unwrap().unwrap().0.delivered > 190_000.0);
    }

    #[test]
    fn a_sender_that_pauses_now_and_then_does_not_end_the_climb() {
        let (mut attempts, mut path) = (0, path(200_000.0, f64::INFINITY));
        let found = Ladder::DATAGRAMS.highest_rate(|rate| {
            attempts += 1;
            // What the sender leaves out is not lost.
            let kept = if rate < 150_000.0 { rate * 0.8 } else { rate };
            Ok((Rung { offered: rate, ..path(kept)?.0 }, attempts))
        });
        let (rung, attempt) = found.unwrap().unwrap();
        assert!(rung.delivered > 190_000.0);
        assert!(attempt > 6, "what is told of the best rung is of that attempt");
    }

    #[test]
    fn a_climb_that_starts_high_descends() {
        let ladder = Ladder { start: 400_000.0, lowest: 100.0, climb: 1.2 };
        let found = ladder.highest_rate(path(250_000.0, f64::INFINITY)).unwrap().unwrap().0.delivered;
        assert!(found > 250_000.0 / (FINEST * 1.01) && found <= 250_000.0, "{found}");
    }

    #[test]
    fn a_dead_path_is_given_up() {
        let mut attempts = 0;
        let found = Ladder::DATAGRAMS.highest_rate(|offered| {
            attempts += 1;
            Ok((Rung { offered, sent: offered, delivered: 0.0, loss: 1.0 }, ()))
        });
        assert_eq!(found.unwrap(), None);
        assert!(attempts < 20, "{attempts}");
    }
}
