//! The seed's arrangement: one thread reads the device, one writes it, and bounded channels of pooled
//! buffers lie between them and the drive loop.
//!
//! ```text
//!             ── filled frame batches ──►            ── filled outlets ──►
//! TUN reader                              drive loop                        TUN writer
//!             ◄─────── empty ones ───────            ◄────── empty ones ───
//! ```
//!
//! A channel's item is a handle to a pooled buffer, and each pool is all there is of its kind: that bounds
//! the memory, and a channel with room for the whole pool never blocks its sender.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Instant,
};

use flume::{Receiver, Sender, TryRecvError};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tun_device::{CoalesceConfig, Coalescer, TunDevice};

use super::{
    Flushed, Merging, Outlet, RETRY_PAUSE, TunPort,
    frames::{BUFFER_BYTES, FrameBatch},
};
use crate::{
    Error, IoCounters, RuntimeConfig,
    alarm::{Alarm, Arrival, Bell},
    clock,
    runtime::panic_message,
    scheduling::Scheduling,
};

/// Frame batches in circulation. The loop works on one, so the reader is ahead by the others.
const FRAME_BATCHES: usize = 8;
/// The batching channel's bound, bytes.
const CHANNEL_BYTES: usize = 2 << 20;
const _: () = assert!(FRAME_BATCHES * BUFFER_BYTES <= CHANNEL_BYTES);

/// Outlets in circulation: the loop fills one, the writer writes one, and one waits for the writer. About
/// 2 MiB each, resident only as far as used.
const OUTLETS: usize = 3;

type Frames = Result<FrameBatch, Error>;

/// See the module.
pub(crate) struct Threads {
    filled: Receiver<Frames>,
    empty: Sender<FrameBatch>,
    /// The batch whose frames the loop is taking.
    current: Option<FrameBatch>,

    to_write: Sender<Outlet>,
    written: Receiver<Outlet>,
    outlet: Option<Outlet>,
    /// Outlets that have come back.
    spare: Vec<Outlet>,
    merging: Merging,
    /// Why the writer has ended.
    failure: Arc<OnceLock<Error>>,

    /// Last: its threads end only after the channels above are dropped.
    workers: Workers,
}

/// The threads. They end when `stop` is raised and the loop's ends of their channels are dropped.
struct Workers {
    stop: Arc<EventFd>,
    sched_batch: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Of the settings, `batch` bounds the frames in one item of the batching channel. What the threads hand over
    /// rings `alarm`.
    pub(crate) fn start<D: TunDevice + AsFd>(
        device: Arc<D>,
        coalesce: CoalesceConfig,
        config: &RuntimeConfig,
        alarm: &Arc<Alarm>,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (empty, to_fill) = flume::bounded(FRAME_BATCHES);
        // One more than batches: the reader's last word is an error.
        let (filling, filled) = flume::bounded(FRAME_BATCHES + 1);
        let (to_write, writing) = flume::bounded(OUTLETS);
        let (returning, written) = flume::bounded(OUTLETS);
        for _ in 0..FRAME_BATCHES {
            let _ = empty.try_send(FrameBatch::new(config.batch));
        }
        for _ in 1..OUTLETS {
            let _ = returning.try_send(Outlet::new(coalesce));
        }

        let mut workers =
            Workers { stop: Arc::clone(&stop), sched_batch: config.sched_batch, threads: Vec::new() };
        let bell = |arrival| Bell::for_arrivals(Arc::clone(alarm), arrival);
        let reader = Reader {
            device: Arc::clone(&device),
            stop: Arc::clone(&stop),
            to_fill,
            filling,
            bell: bell(Arrival::Frames),
        };
        workers.start("tun-read", move |scheduling| reader.run(scheduling))?;
        let failure = Arc::default();
        let writer = Writer {
            device,
            stop,
            writing,
            returning,
            failure: Arc::clone(&failure),
            bell: bell(Arrival::Room),
        };
        workers.start("tun-write", move |scheduling| writer.run(scheduling))?;
        Ok(Self {
            filled,
            empty,
            current: None,
            to_write,
            written,
            merging: Merging::new(&coalesce),
            failure,
            outlet: Some(Outlet::new(coalesce)),
            spare: Vec::with_capacity(OUTLETS),
            workers,
        })
    }

    /// Makes `current` a batch that still has frames.
    fn advance(&mut self, counters: &mut IoCounters) -> Result<bool, Error> {
        if self.current.as_ref().is_some_and(|batch| !batch.is_empty()) {
            return Ok(true);
        }
        if let Some(mut done) = self.current.take() {
            done.clear();
            let _ = self.empty.try_send(done);
        }
        let batch = match self.filled.try_recv() {
            Ok(filled) => filled?,
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => return Err(self.why_ended()),
        };
        batch.count(counters);
        self.current = Some(batch);
        Ok(true)
    }

    /// Makes `outlet` one that has come back, if there is none.
    fn take_outlet(&mut self, now: Instant, counters: &mut IoCounters) {
        if self.outlet.is_some() {
            return;
        }
        if self.spare.is_empty() {
            self.settle(now, counters);
        }
        self.outlet = self.spare.pop();
        self.apply_merging();
    }

    fn apply_merging(&mut self) {
        if let Some(outlet) = &mut self.outlet {
            self.merging.apply_to(&mut outlet.coalescer);
        }
    }

    fn send_outlet(&mut self) -> Result<(), Error> {
        let Some(outlet) = self.outlet.take() else { return Ok(()) };
        // The channel has room for all outlets, so this fails only if the writer has ended.
        self.to_write.try_send(outlet).map_err(|_| self.why_ended())
    }

    /// A thread has ended although nobody asked it to: it said why, or it panicked, which [`close`](Self::close)
    /// will tell.
    fn why_ended(&self) -> Error {
        let why = self.failure.get().cloned();
        why.or_else(|| self.filled.drain().find_map(Result::err)).unwrap_or(Error::DeviceGone)
    }
}

impl TunPort for Threads {
    fn next_frame(&mut self, counters: &mut IoCounters) -> Result<Option<&mut [u8]>, Error> {
        if !self.advance(counters)? {
            return Ok(None);
        }
        Ok(self.current.as_mut().and_then(FrameBatch::take))
    }

    fn output(&mut self, now: Instant, counters: &mut IoCounters) -> Result<Option<&mut Coalescer>, Error> {
        if self.outlet.as_ref().is_some_and(|outlet| outlet.coalescer.is_full()) {
            self.send_outlet()?;
        }
        self.take_outlet(now, counters);
        if self.merging.is_due(now) {
            self.settle(now, counters); // what was written before the pause must not end the trial
            self.merging.try_again(now);
            self.apply_merging();
        }
        Ok(self.outlet.as_mut().map(|outlet| &mut outlet.coalescer))
    }

    fn flush(&mut self, _: Instant, _: &mut IoCounters) -> Result<(), Error> {
        if self.outlet.as_ref().is_some_and(|outlet| !outlet.coalescer.is_empty()) {
            self.send_outlet()?;
        }
        Ok(())
    }

    fn settle(&mut self, now: Instant, counters: &mut IoCounters) {
        self.spare.extend(self.written.try_iter());
        for outlet in &mut self.spare {
            outlet.settle(&mut self.merging, now, counters);
        }
        self.apply_merging(); // a refusal concerns what is being filled, too
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn has_arrived(&self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::Frames => !self.filled.is_empty() || self.filled.is_disconnected(),
            Arrival::Room => !self.written.is_empty(),
            Arrival::Jobs => false,
        }
    }

    fn has_ended(&self) -> bool {
        self.filled.is_disconnected()
    }

    fn resting(&self) -> (bool, bool) {
        self.merging.resting()
    }

    fn retry_at(&self) -> Option<Instant> {
        None
    }

    fn close(self) -> Result<(), Error> {
        // Closing the channels ends whoever waits for one.
        let Self { filled, empty, to_write, written, mut workers, .. } = self;
        drop((filled, empty, to_write, written));
        workers.join()
    }
}

impl Workers {
    fn start(&mut self, name: &str, run: impl FnOnce(Scheduling) + Send + 'static) -> io::Result<()> {
        let sched_batch = self.sched_batch;
        let run = move || run(Scheduling::start(sched_batch, clock::now()));
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }

    fn join(&mut self) -> Result<(), Error> {
        let _ = self.stop.write(1);
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                result = Err(Error::Panicked(panic_message(&*panic)));
            }
        }
        result
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.join(); // nothing is left to join after `close`
    }
}

struct Reader<D> {
    device: Arc<D>,
    stop: Arc<EventFd>,
    to_fill: Receiver<FrameBatch>,
    filling: Sender<Frames>,
    bell: Bell,
}

impl<D: TunDevice + AsFd> Reader<D> {
    /// Ends when a channel is closed, `stop` is raised or the device fails.
    fn run(self, mut scheduling: Scheduling) {
        while let Ok(mut batch) = self.to_fill.recv() {
            let filled = match self.fill(&mut batch, &mut scheduling) {
                Ok(false) => return,
                Ok(true) => Ok(batch),
                Err(error) => Err(error),
            };
            let failed = filled.is_err();
            if self.filling.send(filled).is_err() || failed {
                return;
            }
            self.bell.ring();
        }
    }

    /// Reads at least one frame, and then all there are. False when it is time to stop.
    fn fill(&self, batch: &mut FrameBatch, scheduling: &mut Scheduling) -> Result<bool, Error> {
        let mut has_failed = false;
        loop {
            batch.fill(&*self.device)?;
            if !batch.is_empty() {
                return Ok(true);
            }
            if has_failed {
                return Err(Error::DeviceGone);
            }
            let woken = wait(&*self.device, PollFlags::POLLIN, &self.stop, PollTimeout::NONE);
            match woken.map_err(|error| Error::Device(error.into()))? {
                Woken::Device => {}
                Woken::Failure => has_failed = true,
                Woken::Stop => return Ok(false),
            }
            scheduling.review(clock::now());
        }
    }
}

struct Writer<D> {
    device: Arc<D>,
    stop: Arc<EventFd>,
    writing: Receiver<Outlet>,
    returning: Sender<Outlet>,
    failure: Arc<OnceLock<Error>>,
    bell: Bell,
}

impl<D: TunDevice + AsFd> Writer<D> {
    /// Ends when a channel is closed, `stop` is raised or the device is gone, which the reader reports, or when it may
    /// not be written to.
    fn run(self, mut scheduling: Scheduling) {
        while let Ok(mut outlet) = self.writing.recv() {
            scheduling.review(clock::now());
            loop {
                match outlet.flush(&*self.device) {
                    Flushed::All => break,
                    Flushed::Gone => return,
                    Flushed::Refused(error) => {
                        let _ = self.failure.set(Error::Device(error.into()));
                        return;
                    }
                    Flushed::Blocked => {
                        let pause = PollTimeout::try_from(RETRY_PAUSE).unwrap_or(PollTimeout::ZERO);
                        // A device that is writable and takes nothing must not make this spin, so its own
                        // readiness does not end the pause.
                        let nothing = PollFlags::empty();
                        if !matches!(wait(&*self.device, nothing, &self.stop, pause), Ok(Woken::Device)) {
                            return;
                        }
                    }
                }
            }
            if self.returning.send(outlet).is_err() {
                return;
            }
            self.bell.ring();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// Or nothing in all that time.
    Device,
    /// The device has failed, or its interface is gone.
    Failure,
    Stop,
}

/// Sleeps until the device is ready, or the time is over, or it is time to stop.
fn wait(device: &impl AsFd, events: PollFlags, stop: &EventFd, timeout: PollTimeout) -> io::Result<Woken> {
    let mut fds = [PollFd::new(device.as_fd(), events), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    if fds[1].any().unwrap_or(true) {
        return Ok(Woken::Stop);
    }
    let failure = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    let has_failed = fds[0].revents().is_none_or(|events| events.intersects(failure));
    Ok(if has_failed { Woken::Failure } else { Woken::Device })
}
