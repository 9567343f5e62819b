//! The one clock. The core and the leaves take `now` as an argument; this is where it comes from.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::OnceLock,
    time::{Duration, Instant},
};

use nix::{
    libc::time_t,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
};

/// One moment on both clocks: those of the process are counted from it.
struct Base {
    instant: Instant,
    /// By `CLOCK_BOOTTIME`.
    since_boot: Duration,
}

static BASE: OnceLock<Option<Base>> = OnceLock::new();

/// The time, which goes on while the machine sleeps (`CLOCK_BOOTTIME`): peers' keys age meanwhile. [`Instant::now`],
/// which stops, is not to be compared with it. The data plane calls it once per tick and passes the reading down.
///
/// Costs what `Instant::now` costs: both clocks are read without a system call (vDSO).
pub fn now() -> Instant {
    let elapsed = BASE.get_or_init(base).as_ref().and_then(|base| {
        let elapsed = since_boot()?.checked_sub(base.since_boot)?;
        base.instant.checked_add(elapsed)
    });
    elapsed.unwrap_or_else(monotonic)
}

fn base() -> Option<Base> {
    since_boot().map(|since_boot| Base { instant: monotonic(), since_boot })
}

/// `None` on a kernel before Linux 2.6.39.
fn since_boot() -> Option<Duration> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(time.into())
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn monotonic() -> Instant {
    Instant::now()
}

/// Becomes readable, edge-triggered, when the machine has slept: a wait's time limit (epoll's as everyone's) stands
/// still meanwhile, so deadlines would be met late by as much as was left of it. Nobody reads it.
///
/// It is a timer that never ends, but is cancelled when the wall clock jumps against the monotonic one: by a sleep, or
/// by being set, which wakes the loop for nothing. It costs one system call in all. A timer on `CLOCK_BOOTTIME` would
/// cost one per deadline.
#[derive(Debug)]
pub(crate) struct SleepWatch(TimerFd);

impl SleepWatch {
    pub(crate) fn new() -> io::Result<Self> {
        let timer =
            TimerFd::new(TimerClock::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(Expiration::OneShot(TimeSpec::new(time_t::MAX, 0)), flags)?;
        Ok(Self(timer))
    }
}

impl AsFd for SleepWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn it_goes_as_the_clock_that_counts_sleep_does() {
        let reading = || (since_boot().unwrap(), now(), since_boot().unwrap());
        let mut before = reading();
        for _ in 0..1000 {
            let after = reading();
            let elapsed = after.1.checked_duration_since(before.1).expect("never back");
            assert!((after.0 - before.2..=after.2 - before.0).contains(&elapsed));
            before = after;
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_cancels_the_sleep_watch() {
        let watch = SleepWatch::new().unwrap();
        let fd = watch.as_fd().as_raw_fd();
        let timer = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        // CLOCK_REALTIME; TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET; and running
        for line in ["clockid: 0", "settime flags: 03"] {
            assert!(timer.lines().any(|it| it == line), "{timer}");
        }
        assert!(!timer.contains("it_value: (0, 0)"), "{timer}");
    }
}
