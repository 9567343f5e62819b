#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::{
    any::Any,
    env,
    num::NonZero,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

/// Which seeds a test runs for.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// What the names of its environment variables begin with.
    pub variable: &'static str,
    /// How many there are unless `…_SEEDS` says otherwise: what a developer waits for.
    pub default: u64,
    /// The command that runs the test.
    pub test: &'static str,
}

/// The first seed that failed, and what its panic said.
type Failure = Option<(u64, String)>;

impl Seeds {
    /// Runs `case` for each seed, on every core. How many there were.
    ///
    /// # Panics
    /// If a case does: with the command that replays it. Or if a variable is no number.
    pub fn run(&self, case: impl Fn(u64) + Sync) -> u64 {
        let number = |name: String, default| match env::var(&name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
            Err(_) => default,
        };
        let first = number(self.first_seed(), 0);
        let seeds = first..first + number(self.count(), self.default);
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        if let Some((seed, reason)) = first_failure(seeds.clone(), cores, &case) {
            panic!("seed {seed} failed: {reason}\nto replay it: {}", self.replay(seed));
        }
        seeds.end - seeds.start
    }

    fn first_seed(&self) -> String {
        format!("{}_FIRST_SEED", self.variable)
    }

    fn count(&self) -> String {
        format!("{}_SEEDS", self.variable)
    }

    fn replay(&self, seed: u64) -> String {
        format!("{}={seed} {}=1 {}", self.first_seed(), self.count(), self.test)
    }
}

/// Threads take the seeds in order, so that those before the first failure have all been tried.
fn first_failure(seeds: Range<u64>, threads: usize, case: &(impl Fn(u64) + Sync)) -> Failure {
    let next = AtomicU64::new(seeds.start);
    let failure: Mutex<Failure> = Mutex::new(None);
    let failure_so_far = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while let seed = next.fetch_add(1, Relaxed)
            && seeds.contains(&seed)
            && failure_so_far().is_none()
        {
            let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(seed))) else { continue };
            let mut first = failure_so_far();
            if first.as_ref().is_none_or(|(failed, _)| seed < *failed) {
                *first = Some((seed, reason(&*panic)));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SEEDS: Seeds = Seeds { variable: "VOLLEY_UNUSED", default: 50, test: "cargo test -p seeds" };

    #[test]
    fn each_seed_runs_once() {
        let ran = Mutex::new(Vec::new());
        assert_eq!(SEEDS.run(|seed| ran.lock().unwrap().push(seed)), 50);
        let ran = ran.into_inner().unwrap();
        assert_eq!(ran.len(), 50);
        assert_eq!(ran.into_iter().collect::<BTreeSet<_>>(), (0..50).collect());
    }

    #[test]
    fn a_failure_tells_the_first_seed_that_fails_its_reason_and_how_to_replay_it() {
        let panic = catch_unwind(|| SEEDS.run(|seed| assert!(seed < 7, "{seed} is no good"))).unwrap_err();
        assert_eq!(
            reason(&*panic),
            "seed 7 failed: 7 is no good\n\
             to replay it: VOLLEY_UNUSED_FIRST_SEED=7 VOLLEY_UNUSED_SEEDS=1 cargo test -p seeds"
        );
    }

    #[test]
    fn nothing_more_is_begun_after_a_failure() {
        let ran = AtomicU64::new(0);
        let case = |_: u64| {
            ran.fetch_add(1, Relaxed);
            panic!("at once");
        };
        assert_eq!(first_failure(0..1_000_000, 1, &case), Some((0, "at once".to_owned())));
        assert_eq!(ran.into_inner(), 1);
    }
}
