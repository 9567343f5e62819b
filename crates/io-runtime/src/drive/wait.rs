//! When the loop sleeps, and what it wakes for.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use encrypt::Identity;

use super::{DataPlane, Source};
use crate::{
    Error,
    alarm::{Alarm, Arrival},
    clock,
    poller::Poller,
    tun::TunPort,
    udp::Sender,
};

/// Sleeping is not worth it for less than this. Handshakes that wait for the next turn's budget are due in a microsecond.
const AT_ONCE: Duration = Duration::from_micros(10);

/// Knows every descriptor that the loop sleeps on, but for sockets.
pub(super) fn poller(alarm: &Alarm, tun: &impl TunPort) -> io::Result<Poller> {
    let poller = Poller::new(alarm.as_fd())?;
    if let Some(source) = tun.source() {
        poller.add_tun(source)?;
    }
    Ok(poller)
}

impl<I: Identity, P: TunPort> DataPlane<I, P> {
    /// Sleeps until a source may have something that has somewhere to go, a deadline has passed, a full socket is to be
    /// tried again or somebody asks for something.
    pub(super) fn wait(&mut self, now: Instant, egress: Source, ingress: Source) -> Result<(), Error> {
        if egress == Source::Down && self.sender.is_some() {
            return Ok(()); // not any longer
        }
        let deadline = self.next_deadline();
        if deadline.is_some_and(|deadline| deadline <= now + AT_ONCE) {
            return self.look(now); // packets first: they may have come meanwhile
        }
        let (takes_frames, wants_room) = (egress == Source::Drained, ingress == Source::Held);
        let wants_jobs = !self.works.is_empty();
        let arrivals = [
            takes_frames.then_some(Arrival::Frames),
            wants_room.then_some(Arrival::Room),
            wants_jobs.then_some(Arrival::Jobs),
        ];
        let arrivals = arrivals.into_iter().flatten();
        // A thread that ends rings for frames, and is to be heard though the interface is down.
        let end = self.sender.is_none().then_some(Arrival::Frames);
        let mut time = deadline.map(|deadline| deadline.saturating_duration_since(now));
        while time != Some(Duration::ZERO) {
            self.alarm.arm(arrivals.clone().chain(end));
            let is_there = self.alarm.was_asked()
                || self.tun.has_ended()
                || arrivals.clone().any(|arrival| self.tun.has_arrived(arrival))
                || self.works.has_news();
            let woken = self.poll(if is_there { Some(Duration::ZERO) } else { time })?;
            self.alarm.disarm();
            let has_frames = takes_frames && self.ready.tun;
            let has_datagrams = !wants_room && self.ready.any_socket();
            if is_there || woken || has_frames || has_datagrams || self.ready.tun_failed {
                break;
            }
            // What woke it has to wait, so go on sleeping.
            time = deadline.map(|deadline| deadline.saturating_duration_since(clock::now()));
        }
        self.looked = now;
        self.scheduling.review(now);
        self.counters.traffic.wakeups += 1;
        Ok(())
    }

    /// Learns which sources are ready, without sleeping. One system call for all of them.
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Error> {
        self.poll(Some(Duration::ZERO))?;
        self.looked = now;
        Ok(())
    }

    /// Asks the kernel, and the TUN's threads, who is ready. True if that is not all that there is to do.
    fn poll(&mut self, time: Option<Duration>) -> Result<bool, Error> {
        let woken = self.poller.wait(time, &mut self.ready).map_err(|error| Error::Wait(error.into()))?;
        self.ready.tun |= self.tun.has_arrived(Arrival::Frames);
        Ok(woken.alarm || woken.nothing)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let sender = self.sender.as_ref().and_then(Sender::retry_at);
        let (tun, tunnel) = (self.tun.retry_at(), self.tunnel.poll_timeout());
        let deadlines = [tunnel, tun, sender, self.receive_at, self.link.reopen_at];
        deadlines.into_iter().flatten().min()
    }
}
