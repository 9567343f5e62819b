//! Order, completeness and liveness with helpers that stall at random, from seeds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::*;

/// With none, one and several helpers.
const HELPERS: [usize; 3] = [0, 1, 3];
const CAPACITY: usize = 8;
/// A sleeper that is not woken for so long is never woken.
const LIMIT: Duration = Duration::from_secs(20);

/// xorshift64*: reproducible, and good enough to stall by.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// A job that knows its number, counts how often it is done, and stalls.
#[derive(Debug)]
struct Counted {
    number: usize,
    runs: usize,
    stall: u64,
    /// By a helper.
    helped: bool,
}

impl Counted {
    fn new(number: usize, stall: u64) -> Self {
        Self { number, runs: 0, stall, helped: false }
    }
}

impl Job for Counted {
    fn run(&mut self) {
        self.runs += 1;
        self.helped = is_helper();
        match self.stall {
            0..4 => {}
            4..16 => (0..self.stall * 100).for_each(|_| std::hint::spin_loop()),
            16..19 => thread::yield_now(),
            _ if self.helped => thread::sleep(Duration::from_micros(300)),
            _ => {}
        }
    }
}

fn is_helper() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("crew-"))
}

/// Rings whenever a job is done.
struct Bell(mpsc::Sender<()>);

impl Watch for Bell {
    fn has_done(&mut self) {
        let _ = self.0.send(());
    }
}

fn crew<J: Job + 'static>(helpers: usize) -> (Crew<J>, mpsc::Receiver<()>) {
    let (ring, bell) = mpsc::channel();
    (Crew::start(helpers, CAPACITY, || Bell(ring.clone())).unwrap(), bell)
}

/// Sleeps until the oldest job is done.
fn sleep_until_news<J: Job + 'static>(crew: &Crew<J>, bell: &mpsc::Receiver<()>) {
    while !crew.has_news() {
        bell.recv_timeout(LIMIT).expect("a job was lost, or nobody told that it is done");
    }
}

/// An owner that pushes, helps, takes and sleeps at random. How many jobs helpers did.
fn run(helpers: usize, seed: u64, jobs: usize) -> usize {
    let (mut crew, bell) = crew::<Counted>(helpers);
    let mut random = Random(seed);
    let (mut pushed, mut taken, mut helped) = (0, 0, 0);
    while taken < jobs {
        match random.below(8) {
            0..4 if pushed < jobs && crew.has_room() => {
                let job = Counted::new(pushed, random.below(20));
                match random.below(4) {
                    0 => crew.push_done(job),
                    _ => crew.push(job),
                }
                pushed += 1;
            }
            4 => drop(crew.help()),
            5 => {
                while crew.help() {}
                if !crew.is_empty() {
                    sleep_until_news(&crew, &bell);
                }
            }
            _ => {}
        }
        while random.below(3) > 0
            && let Some(job) = crew.take()
        {
            assert_eq!((job.number, job.runs), (taken, 1), "seed {seed}, {helpers} helpers");
            helped += usize::from(job.helped);
            taken += 1;
        }
    }
    assert!(crew.is_empty() && crew.take().is_none() && crew.check().is_ok());
    helped
}

#[test]
fn jobs_come_back_in_order_each_done_once_whoever_stalls() {
    for helpers in HELPERS {
        let helped: usize = (1..=6).map(|seed| run(helpers, seed * 0x9e37, 4_000)).sum();
        assert_eq!(helped > 0, helpers > 0, "{helpers} helpers did {helped}");
    }
}

#[test]
fn without_helpers_the_owner_does_all_by_the_same_calls() {
    let (mut crew, _bell) = crew::<Counted>(0);
    for number in 0..CAPACITY {
        crew.push(Counted::new(number, 0));
    }
    assert!(!crew.has_room() && !crew.has_news());
    assert!(crew.take().is_none(), "nobody has begun");
    while crew.help() {}
    let done = std::iter::from_fn(|| crew.take());
    assert!(done.map(|job| (job.number, job.runs)).eq((0..CAPACITY).map(|number| (number, 1))));
}

#[test]
fn a_lone_job_wakes_nobody_and_two_do() {
    let (mut crew, bell) = crew::<Counted>(1);
    let rung = |limit| bell.recv_timeout(limit).is_ok();
    // However long it takes, a helper falls asleep when there is nothing to do.
    while crew.shared.sleepers() == 0 {
        thread::yield_now();
    }
    crew.push(Counted::new(0, 0));
    assert_eq!(crew.shared.sleepers(), 1);
    assert!(crew.help() && !crew.help());
    assert!(crew.take().is_some_and(|job| !job.helped));

    crew.push(Counted::new(1, 0));
    crew.push(Counted::new(2, 0));
    assert!(rung(LIMIT) && rung(LIMIT), "and it does both if the owner is busy");
    assert!((1..3).all(|_| crew.take().is_some_and(|job| job.helped)));
}

#[test]
fn a_job_done_before_it_is_pushed_hops_over_to_nobody() {
    let (mut crew, _bell) = crew::<Counted>(3);
    for number in 0..1_000 {
        crew.push_done(Counted::new(number, 0));
        assert!(crew.has_news());
        assert!(crew.take().is_some_and(|job| job.runs == 1 && !job.helped));
    }
}

/// Panics in a helper's hands.
struct Bad;

impl Job for Bad {
    fn run(&mut self) {
        assert!(!is_helper(), "a bad job");
    }
}

#[test]
fn a_helper_that_panics_is_an_error_of_the_owners_next_call_and_nothing_hangs() {
    for helpers in [1, 3] {
        let (mut crew, bell) = crew(helpers);
        for _ in 0..4 {
            crew.push(Bad);
        }
        sleep_until_news(&crew, &bell);
        let error = crew.check().unwrap_err();
        assert!(matches!(&error, Error::Panicked(what) if &**what == "a bad job"), "{error:?}");
        assert!(crew.check().is_err() && crew.take().is_none(), "and of every later one");
        drop(crew);
    }
}

/// Counts those that are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Job for Alive {
    fn run(&mut self) {}
}

/// Alive as long as its helper is.
impl Watch for Alive {
    fn has_done(&mut self) {}
}

#[test]
fn a_crew_that_is_dropped_leaves_no_thread_and_no_job_behind() {
    for helpers in HELPERS {
        let (threads, jobs) = (Arc::default(), Arc::default());
        let mut crew = Crew::start(helpers, CAPACITY, || Alive::new(&threads)).unwrap();
        assert_eq!(crew.helpers(), helpers);
        for _ in 0..CAPACITY {
            crew.push(Alive::new(&jobs));
        }
        drop(crew);
        assert_eq!((threads.load(SeqCst), jobs.load(SeqCst)), (0, 0));
    }
}
