//! The ring: jobs by their positions, which count from 0 and never start anew.
//!
//! The owner alone publishes and takes; anybody claims. Whoever has claimed a position has its job alone until it says
//! that it is done, so the mutex around a job is never waited for: it is there because the compiler cannot know.

use super::{
    Job,
    sync::{
        AtomicUsize, Mutex,
        Ordering::{Acquire, Relaxed, Release},
        lock,
    },
};

pub(super) struct Ring<J> {
    /// The job at a position is in the slot of that number modulo the capacity.
    slots: Box<[Slot<J>]>,
    /// Everything before this position is claimed, done, or both.
    next: AtomicUsize,
    /// Everything before this position is published.
    tail: AtomicUsize,
}

struct Slot<J> {
    /// One more than the last position that was done here: it only grows.
    done: AtomicUsize,
    job: Mutex<Option<J>>,
}

impl<J: Job> Ring<J> {
    pub(super) fn new(capacity: usize) -> Self {
        let slot = |_| Slot { done: AtomicUsize::new(0), job: Mutex::new(None) };
        let slots = (0..capacity.max(1)).map(slot).collect();
        Self { slots, next: AtomicUsize::new(0), tail: AtomicUsize::new(0) }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Puts a job at the position behind all others, for anybody to claim. What was in its slot has to be taken.
    pub(super) fn publish(&self, position: usize, job: J) {
        *lock(&self.slot(position).job) = Some(job);
        self.tail.store(position + 1, Release);
    }

    /// [`publish`](Self::publish) for a job that is done already.
    pub(super) fn publish_done(&self, position: usize, job: J) {
        let slot = self.slot(position);
        *lock(&slot.job) = Some(job);
        slot.done.store(position + 1, Release);
        self.tail.store(position + 1, Release);
        // If it is the only one, nobody needs to step over it. If not, whoever claims it does.
        let _ = self.next.compare_exchange(position, position + 1, Relaxed, Relaxed);
    }

    /// The job at this position, if it is done.
    pub(super) fn take(&self, position: usize) -> Option<J> {
        if !self.is_done(position) {
            return None;
        }
        // Done, so to be claimed by nobody: else `next` might stay behind.
        if self.next.load(Relaxed) <= position {
            self.next.fetch_max(position + 1, Relaxed);
        }
        lock(&self.slot(position).job).take()
    }

    /// The next position that nobody has begun: now the caller has.
    pub(super) fn claim(&self) -> Option<usize> {
        let mut next = self.next.load(Relaxed);
        while next < self.tail.load(Acquire) {
            match self.next.compare_exchange_weak(next, next + 1, Relaxed, Relaxed) {
                Ok(claimed) if !self.is_done(claimed) => return Some(claimed),
                Ok(done) => next = done + 1,
                Err(other) => next = other,
            }
        }
        None
    }

    /// Does the job at a position that the caller has claimed.
    pub(super) fn run(&self, claimed: usize) {
        let slot = self.slot(claimed);
        if let Some(job) = &mut *lock(&slot.job) {
            job.run();
        }
        slot.done.store(claimed + 1, Release);
    }

    /// Its job, or a later one in the same slot, is done: the position is not to be claimed.
    pub(super) fn is_done(&self, position: usize) -> bool {
        self.slot(position).done.load(Acquire) > position
    }

    /// How many were begun: no estimate.
    #[cfg(all(test, loom))]
    pub(super) fn begun(&self) -> usize {
        self.next.fetch_add(0, Relaxed)
    }

    /// How many are published that nobody has begun: an estimate, since others begin some meanwhile.
    pub(super) fn unstarted(&self) -> usize {
        let next = self.next.load(Relaxed);
        self.tail.load(Relaxed).saturating_sub(next)
    }

    fn slot(&self, position: usize) -> &Slot<J> {
        &self.slots[position % self.slots.len()]
    }
}
