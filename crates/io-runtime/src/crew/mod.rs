//! Helper threads beside one owner, and one ring of jobs between them, in order.
//!
//! ```text
//!         push ─►┌─────────────────────────────────────┐
//! owner          │ … next unstarted   │ under way │ done │ ─► take, in the order of pushing
//!                └────────▲────────────────────────────┘
//!                  claimed by whoever is free: helpers, and the owner itself
//! ```
//!
//! The owner pushes jobs and takes them back finished, in the same order, whoever did them. It helps: with no helpers at all
//! it does every job itself, by the same calls. It never waits in here for a helper; when all that is left is under way it
//! may sleep, and is told when a job is done ([`Watch::has_done`]).
//!
//! Helpers look for work for a moment before they sleep, and are woken only for more than one job: waking costs both sides
//! more than a short job is worth. docs/threads.md has the reasons and the numbers.

mod helper;
mod ring;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{fmt, io, time::Duration};

use self::{
    helper::{Shared, look},
    sync::{Arc, thread},
};
use crate::Error;

/// What a helper may do: something that needs nobody else and takes its time.
pub(crate) trait Job: Send {
    /// Does it. Called once, by any thread.
    fn run(&mut self);
}

/// Told by each helper, on its own thread, how it fares.
pub(crate) trait Watch: Send + 'static {
    /// It was started.
    fn begins(&mut self) {}

    /// It has done a job. The owner may be asleep, waiting for that.
    fn has_done(&mut self);

    /// It has slept.
    fn wakes(&mut self) {}
}

/// Helpers at most ([`Crew::Helpers`](crate::Crew::Helpers)): more than the loop can feed.
pub const MAX_HELPERS: usize = 16;

/// The owner's end of the ring, and its helpers. They end when it is dropped.
pub(crate) struct Crew<J> {
    shared: Arc<Shared<J>>,
    /// The position of the oldest job, and of the next one to come.
    head: usize,
    tail: usize,
    helpers: Vec<thread::JoinHandle<()>>,
}

impl<J: Job + 'static> Crew<J> {
    /// So many helpers, [`MAX_HELPERS`] at most, and a ring with room for so many jobs.
    ///
    /// # Errors
    /// A thread cannot be started. Those that were are ended.
    pub(crate) fn start<W: Watch>(
        helpers: usize,
        capacity: usize,
        mut watch: impl FnMut() -> W,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(capacity));
        let mut crew = Self { shared, head: 0, tail: 0, helpers: Vec::new() };
        for number in 0..helpers.min(MAX_HELPERS) {
            let (shared, watch) = (Arc::clone(&crew.shared), watch());
            let thread = thread::Builder::new().name(format!("crew-{}", number + 1));
            crew.helpers.push(thread.spawn(move || shared.work(number, watch))?);
        }
        Ok(crew)
    }

    pub(crate) fn helpers(&self) -> usize {
        self.helpers.len()
    }

    /// How many jobs helpers have done so far.
    pub(crate) fn helped(&self) -> u64 {
        self.shared.helped()
    }

    /// There is room for another job.
    pub(crate) fn has_room(&self) -> bool {
        self.tail - self.head < self.shared.ring.capacity()
    }

    /// No job is in the ring, done or not.
    pub(crate) fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// Puts a job behind all others, for whoever is free; there has to be room. Wakes a helper if there is more than
    /// one that nobody has begun.
    pub(crate) fn push(&mut self, job: J) {
        debug_assert!(self.has_room(), "a job would take the place of another");
        self.shared.ring.publish(self.tail, job);
        self.tail += 1;
        if !self.helpers.is_empty() {
            self.shared.wake_one_if_worth_it(&self.helpers);
        }
    }

    /// Does a job at once, and puts it behind all others: for one that is too short to change hands.
    pub(crate) fn push_done(&mut self, mut job: J) {
        debug_assert!(self.has_room(), "a job would take the place of another");
        job.run();
        self.shared.ring.publish_done(self.tail, job);
        self.tail += 1;
    }

    /// Takes out the oldest job, if it is done.
    pub(crate) fn take(&mut self) -> Option<J> {
        if self.is_empty() {
            return None;
        }
        let job = self.shared.ring.take(self.head)?;
        self.head += 1;
        Some(job)
    }

    /// To be called now and then: a job whose helper has panicked is never done.
    ///
    /// # Errors
    /// [`Error::Panicked`], if one has.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.shared.panic().map_or(Ok(()), |panic| Err(Error::Panicked(panic)))
    }

    /// Jobs that nobody has begun.
    pub(crate) fn unstarted(&self) -> usize {
        self.shared.ring.unstarted()
    }

    /// Does the oldest job that nobody has begun. False if there is none.
    pub(crate) fn help(&mut self) -> bool {
        let claimed = self.shared.ring.claim();
        if let Some(position) = claimed {
            self.shared.ring.run(position);
        }
        claimed.is_some()
    }

    /// Looks for so long whether the oldest job is done. True if there is [news](Self::has_news).
    pub(crate) fn look(&self, patience: Duration) -> bool {
        look(patience, || self.has_news())
    }

    /// [`take`](Self::take) has something to give, or [`check`](Self::check) to tell.
    pub(crate) fn has_news(&self) -> bool {
        (!self.is_empty() && self.shared.ring.is_done(self.head)) || self.shared.panic().is_some()
    }
}

impl<J> Drop for Crew<J> {
    fn drop(&mut self) {
        self.shared.end(&self.helpers);
        for helper in self.helpers.drain(..) {
            let _ = helper.join(); // its panics are caught, and told by `check`
        }
    }
}

impl<J> fmt::Debug for Crew<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = self.tail - self.head;
        f.debug_struct("Crew")
            .field("helpers", &self.helpers.len())
            .field("jobs", &jobs)
            .finish_non_exhaustive()
    }
}
