//! What wakes the loop, besides the TUN and commands: sockets that have something, full sockets that take
//! something again, and deadlines.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;

use crate::{
    ready::{Readable, Writable},
    udp::{Blocked, Family, Sender, Sockets, UdpSocket},
};

/// The sources that may have something: they said so, and were not drained since. Asking any other would
/// cost a system call for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) tun: bool,
    v4: bool,
    v6: bool,
}

impl Ready {
    /// Nothing is known yet.
    pub(crate) const ALL: Self = Self { tun: true, v4: true, v6: true };

    pub(crate) const fn socket(&mut self, family: Family) -> &mut bool {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// What the loop sleeps on, besides the TUN.
pub(crate) struct Wakers {
    v4: Lane,
    v6: Option<Lane>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// One socket's registrations.
struct Lane {
    readable: Readable,
    /// Only while the socket is full.
    writable: Option<Writable>,
}

impl Wakers {
    pub(crate) fn new(sockets: &Sockets) -> io::Result<Self> {
        let lane = |socket: &UdpSocket| {
            Ok::<_, io::Error>(Lane { readable: Readable::new(socket)?, writable: None })
        };
        Ok(Self { v4: lane(&sockets.v4)?, v6: sockets.v6.as_ref().map(lane).transpose()?, timer: None })
    }

    fn lane_mut(&mut self, family: Family) -> Option<&mut Lane> {
        match family {
            Family::V4 => Some(&mut self.v4),
            Family::V6 => self.v6.as_mut(),
        }
    }

    /// Starts waiting for writability where a socket is full.
    pub(crate) fn watch_blocked(&mut self, sender: &mut Sender<UdpSocket>, now: Instant) {
        for family in [Family::V4, Family::V6] {
            let Some(lane) = self.lane_mut(family) else { continue };
            let full = sender.blocked(family) == Some(Blocked::Full);
            if !full || lane.writable.is_some() {
                continue;
            }
            lane.writable = sender.socket(family).and_then(|socket| Writable::new(socket).ok());
            if lane.writable.is_none() {
                sender.retry_later(family, now); // out of descriptors
            }
        }
    }

    /// The timer stays registered while the deadline stays the same.
    pub(crate) fn set_timer(&mut self, deadline: Option<Instant>) {
        let deadline = deadline.map(tokio::time::Instant::from_std);
        match (&mut self.timer, deadline) {
            (Some(timer), Some(deadline)) if timer.deadline() == deadline && !timer.is_elapsed() => {}
            (Some(timer), Some(deadline)) => timer.as_mut().reset(deadline),
            (timer, deadline) => {
                *timer = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
            }
        }
    }

    pub(crate) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        datagrams: bool,
        sender: &mut Sender<UdpSocket>,
        sources: &mut Ready,
    ) -> Poll<()> {
        let mut ready = false;
        for family in [Family::V4, Family::V6] {
            let Some(lane) = self.lane_mut(family) else { continue };
            if datagrams && lane.readable.poll(cx).is_ready() {
                *sources.socket(family) = true;
                ready = true;
            }
            if lane.writable.as_ref().is_some_and(|writable| writable.poll(cx).is_ready()) {
                lane.writable = None;
                sender.unblock(family);
                ready = true;
            }
        }
        if let Some(timer) = &mut self.timer {
            ready |= timer.as_mut().poll(cx).is_ready();
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }
}
