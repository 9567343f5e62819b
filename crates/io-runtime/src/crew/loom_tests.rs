//! `RUSTFLAGS="--cfg loom" cargo test -p io-runtime --lib --release loom`: every order in which the owner and helpers can meet.

use loom::{
    model::Builder,
    sync::{Condvar, Mutex, atomic::AtomicUsize},
};

use super::{
    helper::Shared,
    sync::{Arc, Ordering::Relaxed, lock, thread},
    *,
};

/// Counts how often it is done.
struct Counted(usize, Arc<AtomicUsize>);

impl Job for Counted {
    fn run(&mut self) {
        self.1.fetch_add(1 << (8 * self.0), Relaxed);
    }
}

struct Silent;

impl Watch for Silent {
    fn has_done(&mut self) {}
}

/// So many preemptions suffice for any of the mistakes that we could think of.
fn every_order(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// Pushes three jobs, the second of them done, through a ring for two, helped by so many.
fn three_jobs(helpers: usize) {
    let runs = Arc::new(AtomicUsize::new(0));
    let mut crew = Crew::start(helpers, 2, || Silent).unwrap();
    let mut taken = 0;
    for number in 0..3 {
        while !crew.has_room() {
            take(&mut crew, &mut taken);
        }
        let job = Counted(number, Arc::clone(&runs));
        match number {
            1 => crew.push_done(job),
            _ => crew.push(job),
        }
    }
    while taken < 3 {
        take(&mut crew, &mut taken);
    }
    assert_eq!(runs.load(Relaxed), 0x01_01_01, "each once");
}

fn take(crew: &mut Crew<Counted>, taken: &mut usize) {
    match crew.take() {
        Some(job) => {
            assert_eq!(job.0, *taken, "in order");
            *taken += 1;
        }
        None if crew.help() => {}
        None => thread::yield_now(),
    }
}

#[test]
fn loom_one_helper_keeps_the_order_and_does_nothing_twice() {
    every_order(|| three_jobs(1));
}

#[test]
fn loom_two_claim_what_is_there_once_each() {
    every_order(|| {
        let shared = Arc::new(Shared::new(2));
        let runs = Arc::new(AtomicUsize::new(0));
        for number in 0..2 {
            shared.ring.publish(number, Counted(number, Arc::clone(&runs)));
        }
        let helpers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                while let Some(claimed) = shared.ring.claim() {
                    shared.ring.run(claimed);
                }
            })
        });
        helpers.into_iter().for_each(|helper| helper.join().unwrap());
        assert_eq!(runs.load(Relaxed), 0x01_01);
        assert!((0..2).all(|number| shared.ring.take(number).is_some_and(|job| job.0 == number)));
    });
}

/// Where two jobs wait, the owner sleeps and leaves both to the helper: had that slept through them, nobody would go on.
#[test]
fn loom_no_wake_up_is_lost() {
    every_order(|| {
        let runs = Arc::new(AtomicUsize::new(0));
        let bell = Bell::default();
        let mut crew = Crew::start(1, 2, || bell.clone()).unwrap();
        for number in 0..2 {
            crew.push(Counted(number, Arc::clone(&runs)));
        }
        let are_left_to_the_helper = crew.shared.ring.begun() == 0;
        for _ in 0..2 {
            let mut heard = bell.times();
            while !crew.has_news() {
                if are_left_to_the_helper || !crew.help() {
                    bell.sleep_until_it_has_rung_more_than(heard);
                }
                heard = bell.times();
            }
            assert!(crew.take().is_some());
        }
    });
}

/// How often it has rung. (Loom's `park` may forget an `unpark` when a mutex is released in between.)
#[derive(Clone, Default)]
struct Bell(Arc<(Mutex<usize>, Condvar)>);

impl Bell {
    fn times(&self) -> usize {
        *lock(&self.0.0)
    }

    fn sleep_until_it_has_rung_more_than(&self, times: usize) {
        let (rung, changed) = &*self.0;
        let mut rung = lock(rung);
        while *rung <= times {
            rung = changed.wait(rung).unwrap();
        }
    }
}

impl Watch for Bell {
    fn has_done(&mut self) {
        let (rung, changed) = &*self.0;
        *lock(rung) += 1;
        changed.notify_one();
    }
}
