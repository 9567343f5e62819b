//! Waking the loop from other threads: a system call if it sleeps, and nothing if it does not.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering, fence},
    },
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};

/// What other threads hand over that the loop may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Frames that were read.
    Frames,
    /// Room for packets to write.
    Room,
    /// Jobs that a helper has done.
    Jobs,
}

impl Arrival {
    const fn bit(self) -> u8 {
        match self {
            Self::Frames => 1,
            Self::Room => 2,
            Self::Jobs => 4,
        }
    }
}

/// Set while the loop sleeps, or is about to.
const ASLEEP: u8 = 8;

/// Shared by the loop and everyone who may wake it.
///
/// Whoever hands something over does so first and then looks whether the loop sleeps; the loop says that it is about
/// to sleep and then looks whether something was handed over. With a full fence between the two steps on both sides,
/// at least one sees the other.
#[derive(Debug)]
pub(crate) struct Alarm {
    fd: EventFd,
    state: AtomicU8,
    /// A handle has asked for something, or is gone.
    asked: AtomicBool,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // A bell that may not ring is better noticed now.
        fd.write(1)?;
        fd.read()?;
        Ok(Self { fd, state: AtomicU8::new(0), asked: AtomicBool::new(false) })
    }

    /// To be called after a request was put in its queue.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.ring(ASLEEP);
    }

    /// To be called after something was put in a channel.
    pub(crate) fn hand_over(&self, arrival: Arrival) {
        self.ring(arrival.bit());
    }

    fn ring(&self, reason: u8) {
        fence(Ordering::SeqCst);
        let is_wanted = self.state.load(Ordering::Relaxed) & reason != 0;
        // The first one to ring is enough.
        if is_wanted && self.state.swap(0, Ordering::Relaxed) != 0 {
            match self.fd.write(1) {
                Ok(_) | Err(Errno::EAGAIN) => {} // a counter that is full rings as well
                Err(errno) => tracing::error!("cannot wake the data plane: {}", io::Error::from(errno)),
            }
        }
    }

    /// The loop is about to sleep until something is asked or one of `arrivals` comes. What was handed over before
    /// rings nothing: look for that after this call.
    pub(crate) fn arm(&self, arrivals: impl IntoIterator<Item = Arrival>) {
        let state = arrivals.into_iter().fold(ASLEEP, |state, arrival| state | arrival.bit());
        self.state.store(state, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The loop is awake.
    pub(crate) fn disarm(&self) {
        self.state.store(0, Ordering::Relaxed);
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// True once after each [`ask`](Self::ask), or after several.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::SeqCst)
    }
}

/// Becomes readable, edge-triggered, whenever the loop is to wake. Nobody reads it.
impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Wakes the loop for one reason. It rings, too, when it goes away: whoever had it has ended, and the loop is to notice.
/// Keep it behind the channels that its reason is about, so that they are gone by then.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    alarm: Arc<Alarm>,
    /// `None`: a request.
    arrival: Option<Arrival>,
}

impl Bell {
    pub(crate) fn for_requests(alarm: Arc<Alarm>) -> Self {
        Self { alarm, arrival: None }
    }

    pub(crate) fn for_arrivals(alarm: Arc<Alarm>, arrival: Arrival) -> Self {
        Self { alarm, arrival: Some(arrival) }
    }

    /// To be called after something was put in a channel.
    pub(crate) fn ring(&self) {
        match self.arrival {
            None => self.alarm.ask(),
            Some(arrival) => self.alarm.hand_over(arrival),
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_rung(alarm: &Alarm) -> bool {
        alarm.fd.read().is_ok()
    }

    #[test]
    fn a_loop_that_is_awake_is_not_rung() {
        let alarm = Alarm::new().unwrap();
        alarm.hand_over(Arrival::Frames);
        alarm.ask();
        assert!(!has_rung(&alarm));
        assert!(alarm.take_asked(), "but it learns that it was asked");
        assert!(!alarm.take_asked(), "once");
    }

    #[test]
    fn a_bell_rings_for_its_reason_and_when_it_goes_away() {
        let alarm = Arc::new(Alarm::new().unwrap());
        let request = Bell::for_requests(Arc::clone(&alarm));
        let frames = Bell::for_arrivals(Arc::clone(&alarm), Arrival::Frames);
        alarm.arm([Arrival::Room]);
        frames.ring();
        assert!(!has_rung(&alarm) && !alarm.was_asked());
        alarm.arm([Arrival::Frames]);
        drop(frames);
        assert!(has_rung(&alarm) && !alarm.was_asked());
        alarm.arm([]);
        drop(request);
        assert!(has_rung(&alarm) && alarm.take_asked());
    }

    #[test]
    fn it_rings_once_and_only_for_what_the_loop_waits_for() {
        let alarm = Alarm::new().unwrap();
        alarm.arm([Arrival::Frames]);
        alarm.hand_over(Arrival::Room);
        assert!(!has_rung(&alarm));
        alarm.hand_over(Arrival::Frames);
        assert!(has_rung(&alarm));
        alarm.hand_over(Arrival::Frames);
        alarm.ask();
        assert!(!has_rung(&alarm));
        alarm.arm([]);
        alarm.hand_over(Arrival::Frames);
        assert!(!has_rung(&alarm));
        alarm.ask();
        assert!(has_rung(&alarm));
        alarm.arm([Arrival::Frames]);
        alarm.disarm();
        alarm.hand_over(Arrival::Frames);
        assert!(!has_rung(&alarm));
    }
}
