//! What the loop shares with its helpers: batches to be finished and trains to be opened, in the order in which they will
//! leave, or have come.
//!
//! All of them pass through the crew's ring, whoever finishes it; without helpers that is the loop, by the same steps. One ring
//! for all destinations: what was handed over first leaves first.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use encrypt::Identity;
use gso_queue::{DEFAULT_BUFFER_BYTES, Destination, GsoQueue, Unfinished};
use tunnel_core::{Sealing, Tunnel};

use crate::{
    Error, Feature, IoCounters,
    alarm::{Alarm, Arrival},
    clock,
    crew::{Crew, Job, Watch},
    scheduling::Scheduling,
    udp::{self, Received, Receiver, Sender, Train, UdpSocket},
};

/// Outgoing datagrams, with what is left to do to them.
pub(super) type Queue = GsoQueue<Sealing>;

/// A batch of them.
type Batch = Unfinished<Sealing>;

/// Jobs in the ring at most: some four for each of as many helpers as the loop can feed, and less than the queue has buffers.
const JOBS: usize = 16;

/// What they hold together, bytes.
const _: () = assert!(JOBS * DEFAULT_BUFFER_BYTES <= 1 << 20);

/// What is shorter takes less time than it takes to change hands. Bytes.
const SHORT: usize = 8 << 10;

/// The last jobs may be under way when the loop has nothing else to do. One of them lasts some 30 microseconds, and so does
/// going to sleep and being woken.
const PATIENCE: Duration = Duration::from_micros(20);

/// What a helper may do.
enum Task {
    Finish(Batch),
    Open(Received),
}

impl Job for Task {
    fn run(&mut self) {
        match self {
            Self::Finish(batch) => {
                #[cfg(test)]
                fail_for_a_test(batch);
                batch.work();
            }
            Self::Open(received) => received.open(),
        }
    }
}

#[cfg(test)]
fn fail_for_a_test(batch: &Batch) {
    let is_helper = std::thread::current().name().is_some_and(|name| name.starts_with("crew-"));
    assert!(!is_helper || batch.destination().remote.port() != super::tests::BAD_PORT, "a bad batch");
}

/// The crew, and what becomes of its jobs.
pub(super) struct Works {
    crew: Crew<Task>,
    /// What was received and is opened, in order of arrival.
    opened: VecDeque<Received>,
}

/// What sending needs.
pub(super) struct Outlet<'a, I: Identity> {
    pub(super) queue: &'a mut Queue,
    /// While the interface is up.
    pub(super) sender: &'a mut Option<Sender<UdpSocket>>,
    pub(super) tunnel: &'a mut Tunnel<I>,
    pub(super) counters: &'a mut IoCounters,
    pub(super) now: Instant,
}

impl Works {
    /// So many helpers, which ring the alarm when the loop sleeps.
    pub(super) fn start(helpers: usize, alarm: &Arc<Alarm>, sched_batch: bool) -> io::Result<Self> {
        let helper = || Helper {
            alarm: Arc::clone(alarm),
            sched_batch,
            scheduling: Scheduling::Off(Feature::Disabled),
        };
        Ok(Self { crew: Crew::start(helpers, JOBS, helper)?, opened: VecDeque::with_capacity(JOBS) })
    }

    /// How many jobs may be left to the helpers, if there is other work for the loop.
    pub(super) fn helpers(&self) -> usize {
        self.crew.helpers()
    }

    /// How many jobs they have done so far.
    pub(super) fn helped(&self) -> u64 {
        self.crew.helped()
    }

    /// Nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.crew.is_empty()
    }

    /// There is something to be had from a helper, or to be heard of it.
    pub(super) fn has_news(&self) -> bool {
        self.crew.has_news()
    }

    /// # Errors
    /// A helper has panicked.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.crew.check()
    }

    /// While more is being queued: hands over what can grow no more, and sends what is done.
    pub(super) fn advance<I: Identity>(&mut self, out: &mut Outlet<'_, I>) {
        self.send_done(out);
        while self.crew.has_room()
            && let Some(batch) = out.queue.pop_closed()
        {
            self.hand_over_batch(batch);
        }
    }

    /// Finishes and sends all that is queued, but for what has to wait for room, for what helpers are at, and for `left`
    /// jobs that they are to begin.
    pub(super) fn flush<I: Identity>(&mut self, left: usize, out: &mut Outlet<'_, I>) {
        out.resend();
        loop {
            self.send_done(out);
            while self.crew.has_room()
                && let Some(batch) = out.queue.pop_unfinished()
            {
                self.hand_over_batch(batch);
            }
            let helps = self.crew.unstarted() > left && self.crew.help();
            if !helps && !self.crew.has_news() {
                return;
            }
            if self.crew.check().is_err() {
                return;
            }
        }
    }

    /// [`flush`](Self::flush), and waits a moment for what helpers are at.
    pub(super) fn settle<I: Identity>(&mut self, out: &mut Outlet<'_, I>) {
        self.flush(0, out);
        while !self.crew.is_empty() && self.crew.look(PATIENCE) && self.check().is_ok() {
            self.flush(0, out);
        }
    }

    /// [`flush`](Self::flush), and waits for what helpers are at, until the queue has room for another batch and, if `all`
    /// is to leave, until it has.
    pub(super) fn flush_and_wait<I: Identity>(&mut self, all: bool, out: &mut Outlet<'_, I>) {
        self.flush(0, out);
        while !self.crew.is_empty() && (all || out.queue.free_buffers() == 0) && self.check().is_ok() {
            if !self.crew.look(PATIENCE) {
                std::thread::yield_now(); // to the helper, whose processor we may have
            }
            self.flush(0, out);
        }
    }

    /// Has all opened that was received, but for what helpers are at, and for `left` jobs that they are to begin.
    pub(super) fn open<I: Identity>(
        &mut self,
        receiver: &mut Receiver,
        left: usize,
        out: &mut Outlet<'_, I>,
    ) {
        while let Some(mut received) = receiver.next() {
            for Train { bytes, stride, opening, .. } in received.trains() {
                out.tunnel.prepare(bytes, stride, out.now, opening);
            }
            while !self.crew.has_room() && self.check().is_ok() {
                self.flush(0, out);
                self.crew.look(PATIENCE);
            }
            if !self.crew.has_room() {
                return; // for good: a helper has panicked, and the loop is about to end
            }
            let is_short = received.len() < SHORT;
            self.hand_over(Task::Open(received), is_short);
        }
        self.flush(left, out);
    }

    /// What was received first, opened.
    pub(super) fn opened(&mut self) -> Option<&mut Received> {
        self.opened.front_mut()
    }

    /// It is used up.
    pub(super) fn give_back(&mut self, receiver: &mut Receiver) {
        if let Some(received) = self.opened.pop_front() {
            receiver.give_back(received);
        }
    }

    fn send_done<I: Identity>(&mut self, out: &mut Outlet<'_, I>) {
        while let Some(task) = self.crew.take() {
            match task {
                Task::Finish(batch) => out.send(batch),
                Task::Open(received) => self.opened.push_back(received),
            }
        }
    }

    fn hand_over_batch(&mut self, batch: Batch) {
        let is_short = batch.unsent_len() < SHORT;
        self.hand_over(Task::Finish(batch), is_short);
    }

    fn hand_over(&mut self, task: Task, is_short: bool) {
        if is_short { self.crew.push_done(task) } else { self.crew.push(task) }
    }
}

impl<I: Identity> Outlet<'_, I> {
    /// Sends what was put back, where there is room now.
    fn resend(&mut self) {
        let (queue, sender, mut cx) = self.parts();
        if let Some(sender) = sender {
            return sender.resend(queue, &mut cx);
        }
        while let Some(batch) = queue.pop() {
            cx.counters.drops.udp_no_socket += batch.segments_left() as u64;
            queue.recycle(batch);
        }
    }

    fn send(&mut self, batch: Batch) {
        let (queue, sender, mut cx) = self.parts();
        if let Some(sender) = sender {
            return sender.send(batch.finish(), queue, &mut cx);
        }
        cx.counters.drops.udp_no_socket += batch.segments_left() as u64;
        queue.recycle(batch);
    }

    fn parts(
        &mut self,
    ) -> (&mut Queue, &mut Option<Sender<UdpSocket>>, udp::Context<'_, impl FnMut(Destination)>) {
        let Self { queue, sender, tunnel, counters, now } = self;
        let cx = udp::Context { now: *now, counters, forget_source: |to| tunnel.forget_source(to) };
        (queue, sender, cx)
    }
}

/// What a helper does beside its jobs.
struct Helper {
    alarm: Arc<Alarm>,
    sched_batch: bool,
    scheduling: Scheduling,
}

impl Watch for Helper {
    fn begins(&mut self) {
        self.scheduling = Scheduling::start(self.sched_batch, clock::now());
    }

    fn has_done(&mut self) {
        self.alarm.hand_over(Arrival::Jobs);
    }

    fn wakes(&mut self) {
        self.scheduling.review(clock::now());
    }
}
