//! What a helper does: work, look for work, sleep.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    Job, Watch,
    ring::Ring,
    sync::{
        AtomicBool, AtomicU64, Mutex,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence, lock, thread,
    },
};
use crate::{clock, runtime::panic_message};

/// A helper is woken when so many jobs wait to be begun. One the owner does itself.
const WORTH_WAKING: usize = 2;

/// What the owner and its helpers share.
pub(super) struct Shared<J> {
    pub(super) ring: Ring<J>,
    /// The helpers that sleep, or are about to: a bit for each.
    asleep: AtomicU64,
    ended: AtomicBool,
    /// Jobs that helpers have done.
    helped: AtomicU64,
    panicked: AtomicBool,
    /// What the first panic said.
    panic: Mutex<Option<std::sync::Arc<str>>>,
}

impl<J: Job> Shared<J> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            ring: Ring::new(capacity),
            asleep: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            helped: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// A helper's life.
    pub(super) fn work(&self, number: usize, mut watch: impl Watch) {
        let life = AssertUnwindSafe(|| self.work_until_the_end(number, &mut watch));
        if let Err(panic) = catch_unwind(life) {
            lock(&self.panic).get_or_insert(panic_message(&*panic));
            self.panicked.store(true, Release);
            watch.has_done(); // or not: the owner is to hear of it
        }
    }

    fn work_until_the_end(&self, number: usize, watch: &mut impl Watch) {
        watch.begins();
        let mut patience = Patience::default();
        while !self.ended.load(Relaxed) {
            if let Some(claimed) = self.ring.claim() {
                self.helped.fetch_add(1, Relaxed); // before the owner can have it
                self.ring.run(claimed);
                watch.has_done();
            } else if !patience.finds(|| self.ring.unstarted() > 0 || self.ended.load(Relaxed)) {
                self.sleep(number);
                watch.wakes();
            }
        }
    }

    /// The helper says that it sleeps and then looks whether there is work; the owner publishes work and then looks who
    /// sleeps. With a full fence between the two steps on both sides, at least one sees the other.
    fn sleep(&self, number: usize) {
        let me = 1 << number;
        self.asleep.fetch_or(me, Relaxed);
        fence(SeqCst);
        if self.ring.unstarted() > 0 || self.ended.load(Relaxed) {
            self.asleep.fetch_and(!me, Relaxed);
            return; // woken all the same: then the next sleep is over before it begins
        }
        while self.asleep.load(Acquire) & me != 0 {
            thread::park();
        }
    }

    /// To be called after a job was published.
    pub(super) fn wake_one_if_worth_it(&self, helpers: &[thread::JoinHandle<()>]) {
        fence(SeqCst);
        let asleep = self.asleep.load(Relaxed);
        if asleep == 0 || self.ring.unstarted() < WORTH_WAKING {
            return;
        }
        let number = asleep.trailing_zeros();
        if self.asleep.fetch_and(!(1 << number), Release) & (1 << number) != 0
            && let Some(helper) = helpers.get(number as usize)
        {
            helper.thread().unpark();
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn sleepers(&self) -> u32 {
        self.asleep.load(Acquire).count_ones()
    }

    pub(super) fn helped(&self) -> u64 {
        self.helped.load(Relaxed)
    }

    /// What a panic of a helper said.
    pub(super) fn panic(&self) -> Option<std::sync::Arc<str>> {
        if !self.panicked.load(Acquire) {
            return None;
        }
        lock(&self.panic).clone()
    }
}

impl<J> Shared<J> {
    /// Has the helpers end, after the job that each of them is at.
    pub(super) fn end(&self, helpers: &[thread::JoinHandle<()>]) {
        self.ended.store(true, Relaxed);
        fence(SeqCst);
        self.asleep.swap(0, Release);
        for helper in helpers {
            helper.thread().unpark();
        }
    }
}

/// How long a helper looks for work before it sleeps: longer while that finds some, shorter while it does not.
///
/// Being woken costs some ten microseconds and a system call of the owner's. Who looks for longer than that in vain has
/// wasted more than there was to gain; and the processor may be somebody else's that has work.
struct Patience(Duration);

impl Patience {
    const LEAST: Duration = Duration::from_micros(2);
    const MOST: Duration = Duration::from_micros(20);

    /// Looks until there is work, or patience is at an end.
    fn finds(&mut self, there_is_work: impl Fn() -> bool) -> bool {
        let is_there = look(self.0, there_is_work);
        self.0 = if is_there { (self.0 * 2).min(Self::MOST) } else { (self.0 / 2).max(Self::LEAST) };
        is_there
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self(Self::MOST)
    }
}

/// Looks for so long whether something is so, without sleeping.
pub(super) fn look(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    /// Between two readings of the clock.
    const PAUSES: usize = 16;
    if cfg!(loom) {
        return false; // which tries every moment anyway
    }
    let end = clock::now() + patience;
    loop {
        if is_so() {
            return true;
        }
        if clock::now() >= end {
            return false;
        }
        (0..PAUSES).for_each(|_| std::hint::spin_loop());
    }
}
