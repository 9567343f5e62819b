//! How the kernel schedules the loop's thread: as a batch thread, unless that keeps packets waiting.
//!
//! What wakes the loop mostly sleeps a moment later: an application that has just written a packet, or the other end of
//! a tunnel in the same machine. An ordinary thread may take the processor from it at once, and finds one packet. A
//! `SCHED_BATCH` thread (sched(7)) lets it finish, and finds all that it wrote; and a waker that has gone to sleep leaves
//! the processor, so that whoever the loop wakes next need not be started on one that sleeps. docs/threads.md has the
//! numbers.
//!
//! Where a program keeps the processor and never sleeps, a batch thread waits for the next timer tick, 4 ms at 250 Hz.
//! The kernel counts how long each thread waits; [`judge`] looks at that and makes the thread an ordinary one for a while.

mod judge;
mod sys;

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use self::{
    judge::{Judge, Waits},
    sys::Policy,
};
use crate::Feature;

/// Whether batch scheduling is in use on one thread.
#[derive(Debug)]
pub(crate) enum Scheduling {
    Batch(Batch),
    /// And why.
    Off(Feature),
}

/// What watches over it.
#[derive(Debug)]
pub(crate) struct Batch {
    schedstat: File,
    judge: Judge,
}

impl Scheduling {
    /// For the calling thread, which alone may use it.
    pub(crate) fn start(wanted: bool, now: Instant) -> Self {
        let started = if wanted { Batch::start(now) } else { Err(Feature::Disabled) };
        started.map_or_else(Self::Off, Self::Batch)
    }

    pub(crate) fn feature(&self) -> Feature {
        match self {
            Self::Off(why) => *why,
            Self::Batch(batch) if batch.judge.policy() == Policy::Other => Feature::Yielding,
            Self::Batch(_) => Feature::On,
        }
    }

    /// To be called whenever the loop has slept. Costs a comparison, and every 100 ms a system call.
    pub(crate) fn review(&mut self, now: Instant) {
        if let Self::Batch(batch) = self
            && batch.judge.is_due(now)
            && let Err(error) = batch.review(now)
        {
            tracing::debug!(%error, "batch scheduling is off");
            let _ = sys::set_policy(Policy::Other);
            *self = Self::Off(Feature::Refused);
        }
    }
}

impl Batch {
    fn start(now: Instant) -> Result<Self, Feature> {
        let unsupported = |error: io::Error| {
            tracing::debug!(%error, "no batch scheduling");
            Feature::Unsupported
        };
        // Without it nobody would notice a busy neighbour.
        let schedstat = File::open("/proc/thread-self/schedstat").map_err(unsupported)?;
        let judge = Judge::new(waits(&schedstat).map_err(unsupported)?, now);
        match sys::policy().map_err(unsupported)? {
            Some(Policy::Other | Policy::Batch) => {}
            None => return Err(Feature::Overruled),
        }
        sys::set_policy(Policy::Batch).map_err(|_| Feature::Refused)?;
        Ok(Self { schedstat, judge })
    }

    #[cold]
    fn review(&mut self, now: Instant) -> io::Result<()> {
        let before = self.judge.policy();
        let policy = self.judge.judge(waits(&self.schedstat)?, now);
        if policy != before {
            tracing::debug!(?policy, "scheduling");
            sys::set_policy(policy)?;
        }
        Ok(())
    }
}

/// Reads the three numbers of a schedstat: nanoseconds on a processor, nanoseconds waiting for one, turns.
fn waits(schedstat: &File) -> io::Result<Waits> {
    let mut text = [0; 3 * 21]; // a u64 has 20 digits at most
    let len = schedstat.read_at(&mut text, 0)?;
    parse(&text[..len]).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn parse(text: &[u8]) -> Option<Waits> {
    let mut numbers = str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse::<u64>);
    let (Ok(_running), Ok(waiting), Ok(turns)) = (numbers.next()?, numbers.next()?, numbers.next()?) else {
        return None;
    };
    Some(Waits { time: Duration::from_nanos(waiting), turns })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::clock;

    #[test]
    fn the_thread_that_starts_it_is_a_batch_thread_and_no_other() {
        let ours = thread::spawn(|| {
            let scheduling = Scheduling::start(true, clock::now());
            assert_eq!(scheduling.feature(), Feature::On);
            sys::policy().unwrap()
        });
        assert_eq!(ours.join().unwrap(), Some(Policy::Batch));
        assert_eq!(sys::policy().unwrap(), Some(Policy::Other));
    }

    #[test]
    fn switched_off_it_changes_nothing() {
        let mut scheduling = Scheduling::start(false, clock::now());
        scheduling.review(clock::now() + Duration::from_secs(100));
        assert_eq!(scheduling.feature(), Feature::Disabled);
        assert_eq!(sys::policy().unwrap(), Some(Policy::Other));
    }

    #[test]
    fn the_policy_follows_the_judgement() {
        let followed = thread::spawn(|| {
            let now = clock::now();
            let mut scheduling = Scheduling::start(true, now);
            let Scheduling::Batch(batch) = &mut scheduling else { panic!("{scheduling:?}") };
            // Nine turns, each after a wait of a second.
            batch.judge = Judge::new(Waits::default(), now);
            batch.judge.judge(Waits { time: Duration::from_secs(9), turns: 9 }, now);
            sys::set_policy(Policy::Other).unwrap();
            assert_eq!(scheduling.feature(), Feature::Yielding);
            scheduling.review(now + Duration::from_secs(9));
            (scheduling.feature(), sys::policy().unwrap())
        });
        assert_eq!(followed.join().unwrap(), (Feature::On, Some(Policy::Batch)));
    }

    #[test]
    fn schedstat_is_read_and_nonsense_is_not() {
        let time = Duration::from_nanos(22);
        assert_eq!(parse(b"11 22 33\n"), Some(Waits { time, turns: 33 }));
        for nonsense in [&b""[..], b"1 2", b"1 x 3", b"\xff 2 3", b"1 -2 3"] {
            assert_eq!(parse(nonsense), None);
        }
        let own = waits(&File::open("/proc/thread-self/schedstat").unwrap()).unwrap();
        assert!(own.turns > 0);
    }
}
