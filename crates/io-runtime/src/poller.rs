//! Waiting for descriptors, in the way that costs least: one epoll instance, asked by the loop itself.
//!
//! Between a packet that wakes the loop and the read of it lies nothing but this module; on a machine that was idle
//! every cache line counts, and a general event loop has many.
//!
//! Registrations are edge-triggered, so a source stays marked in [`Ready`] until it is drained. They are for readability
//! alone: every datagram that the network card is done with makes a socket writable, and a full one says so only when
//! half of it has drained.

use std::{io, os::fd::BorrowedFd, time::Duration};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    clock::SleepWatch,
    udp::{Family, Sockets},
};

/// How the kernel names a source to us.
const TUN: u64 = 0;
const V4: u64 = 1;
const V6: u64 = 2;
const ALARM: u64 = 3;
const SLEEP: u64 = 4;
/// As many as there are sources.
const EVENTS: usize = 5;

/// The sources that may have something: they said so, and were not drained since. Asking any other would
/// cost a system call for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) tun: bool,
    /// The TUN device said that it has failed, or that its interface is gone.
    pub(crate) tun_failed: bool,
    v4: bool,
    v6: bool,
}

impl Ready {
    /// Nothing is known yet.
    pub(crate) const ALL: Self = Self { tun: true, tun_failed: false, v4: true, v6: true };

    pub(crate) const fn socket(&mut self, family: Family) -> &mut bool {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// There are new ones.
    pub(crate) const fn all_sockets(&mut self) {
        (self.v4, self.v6) = (true, true);
    }

    /// There are none.
    pub(crate) const fn no_sockets(&mut self) {
        (self.v4, self.v6) = (false, false);
    }

    pub(crate) const fn any_socket(&self) -> bool {
        self.v4 || self.v6
    }
}

/// What ended a wait, besides what [`Ready`] tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken {
    /// The alarm rang, or the machine has slept.
    pub(crate) alarm: bool,
    /// Nothing happened in all that time, or a signal came in between.
    pub(crate) nothing: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    /// `None` where there is no such thing: deadlines may then be late by one wait after a sleep, no more.
    _sleep: Option<SleepWatch>,
}

impl Poller {
    pub(crate) fn new(alarm: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(alarm, readable(ALARM))?;
        let sleep = SleepWatch::new().and_then(|sleep| {
            epoll.add(&sleep, readable(SLEEP))?;
            Ok(sleep)
        });
        let sleep =
            sleep.inspect_err(|error| tracing::debug!(%error, "the machine's sleep is not noticed at once"));
        Ok(Self { epoll, _sleep: sleep.ok() })
    }

    pub(crate) fn add_tun(&self, tun: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.add(tun, readable(TUN))?)
    }

    /// Sockets leave by being closed. Both are there or, if this fails, neither.
    pub(crate) fn add_sockets(&self, sockets: &Sockets) -> io::Result<()> {
        self.epoll.add(&sockets.v4, readable(V4))?;
        if let Some(v6) = &sockets.v6
            && let Err(error) = self.epoll.add(v6, readable(V6))
        {
            self.epoll.delete(&sockets.v4)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Sleeps until something happens, at most for `time` (rounded up to milliseconds; `None`: for ever), and marks
    /// what is ready.
    ///
    /// # Errors
    /// None that we know of; EINTR is [`Woken::nothing`].
    pub(crate) fn wait(&self, time: Option<Duration>, ready: &mut Ready) -> io::Result<Woken> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let happened = match self.epoll.wait(&mut events, timeout(time)) {
            Ok(happened) => happened,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut woken = Woken { nothing: happened == 0, ..Woken::default() };
        for event in &events[..happened] {
            let flags = event.events();
            let failed = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
            let is_readable = failed || flags.contains(EpollFlags::EPOLLIN);
            match event.data() {
                TUN => {
                    ready.tun |= is_readable;
                    ready.tun_failed |= failed;
                }
                V4 => ready.v4 |= is_readable,
                V6 => ready.v6 |= is_readable,
                _ => woken.alarm = true,
            }
        }
        Ok(woken)
    }
}

/// Errors and hang-ups come unasked. They are all that a deleted TUN interface ever says.
fn readable(token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token)
}

/// Rounded up: a loop that wakes before its deadline only sleeps again.
fn timeout(time: Option<Duration>) -> EpollTimeout {
    let Some(time) = time else { return EpollTimeout::NONE };
    let millis = time.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{Ipv4Addr, UdpSocket as StdSocket},
        os::{fd::AsFd as _, unix::net::UnixStream},
    };

    use super::*;
    use crate::{
        RuntimeConfig,
        alarm::{Alarm, Arrival},
    };

    const NOTHING: Ready = Ready { tun: false, tun_failed: false, v4: false, v6: false };
    const LIMIT: Option<Duration> = Some(Duration::from_secs(10));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn poller(alarm: &Alarm) -> Poller {
        Poller::new(alarm.as_fd()).unwrap()
    }

    #[test]
    fn what_comes_makes_it_ready_once_read_or_not() {
        let alarm = Alarm::new().unwrap();
        let poller = poller(&alarm);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        poller.add_tun(theirs.as_fd()).unwrap();
        for _ in 0..3 {
            ours.write_all(b"x").unwrap();
            let mut ready = NOTHING;
            poller.wait(LIMIT, &mut ready).unwrap();
            assert!(ready.tun && !ready.tun_failed && !ready.any_socket());
            let mut ready = NOTHING;
            assert!(poller.wait(NOW, &mut ready).unwrap().nothing);
            assert!(!ready.tun);
        }
    }

    #[test]
    fn a_hang_up_makes_it_ready_and_failed() {
        let alarm = Alarm::new().unwrap();
        let poller = poller(&alarm);
        let (ours, theirs) = UnixStream::pair().unwrap();
        poller.add_tun(theirs.as_fd()).unwrap();
        drop(ours);
        let mut ready = NOTHING;
        poller.wait(LIMIT, &mut ready).unwrap();
        assert!(ready.tun && ready.tun_failed);
    }

    #[test]
    fn the_alarm_rings_every_time_though_nobody_reads_it() {
        let alarm = Alarm::new().unwrap();
        let poller = poller(&alarm);
        for _ in 0..3 {
            alarm.arm([Arrival::Frames]);
            alarm.hand_over(Arrival::Frames);
            assert!(poller.wait(LIMIT, &mut NOTHING.clone()).unwrap().alarm);
            assert!(poller.wait(NOW, &mut NOTHING.clone()).unwrap().nothing);
        }
    }

    #[test]
    fn a_socket_is_ready_when_something_arrives_and_not_because_it_is_writable() {
        let alarm = Alarm::new().unwrap();
        let poller = poller(&alarm);
        let options = RuntimeConfig::default().socket_options();
        let sockets = Sockets::bind(0, 0, options).unwrap_or_else(|error| panic!("{error:?}"));
        poller.add_sockets(&sockets).unwrap();
        let mut ready = NOTHING;
        assert!(poller.wait(NOW, &mut ready).unwrap().nothing);
        assert!(!ready.any_socket());
        let sender = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"x", (Ipv4Addr::LOCALHOST, sockets.port)).unwrap();
        poller.wait(LIMIT, &mut ready).unwrap();
        assert!(*ready.socket(Family::V4) && !*ready.socket(Family::V6));
    }

    #[test]
    fn deadlines_are_never_met_early() {
        let millis = |time: Duration| timeout(Some(time)).as_millis();
        assert_eq!(millis(Duration::ZERO), Some(0));
        assert_eq!(millis(Duration::from_nanos(1)), Some(1));
        assert_eq!(millis(Duration::from_micros(1_001)), Some(2));
        assert_eq!(millis(Duration::MAX), EpollTimeout::MAX.as_millis());
        assert_eq!(timeout(None), EpollTimeout::NONE);
    }
}
