//! Sending finished batches, and the failure rules.
//!
//! * A GSO send that fails is repeated as plain datagrams. If all of those go through, GSO was the
//!   problem: it rests on that route and is probed later. If any fails too, the route is the problem.
//! * A plain datagram that fails is dropped and counted, that one alone; and so is a train with an error that has
//!   nothing to do with GSO, such as a route or a firewall's.
//! * A full socket's batches wait for a moment, then they are given up and counted; the other socket goes on.
//!   Where the send buffer is [small](super::shares), only those wait whose share of it is full.
//! * With a pinned source address, EINVAL and "unreachable" are first taken as that address having gone: the
//!   same is sent once without it.

mod flight;

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use gso_queue::{Batch, Destination, GsoQueue, Work};

use self::flight::{InFlight, NoRoom, Troubles};
use crate::{
    IoCounters,
    udp::{
        gso_routes::GsoRoutes,
        shares::Shares,
        socket::{DatagramSocket, Family},
    },
};

/// A loop with nothing else to do tries a full socket again after this time. (A busy one does so every turn.)
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// How long a batch waits for room. A gigabit link takes four trains in this time. Who needs longer has a queue
/// that only grows; and meanwhile the TUN may be held back, and everyone with it.
const PATIENCE: Duration = Duration::from_millis(2);

/// A wait that was in vain counts for so long: until then, what finds no room is given up at once.
const RENEWAL: Duration = Duration::from_millis(100);

/// Destinations at most whose waits are remembered: more than a queue has batches.
const MAX_WAITS: usize = 256;

/// Sends batches over one socket for each address family.
#[derive(Debug)]
pub(crate) struct Sender<S> {
    v4: Lane<S>,
    v6: Option<Lane<S>>,
    rules: Rules,
    /// Something waits, and is to be tried again then.
    retry_at: Option<Instant>,
}

/// What is the same for both sockets.
#[derive(Debug)]
struct Rules {
    /// False: every datagram leaves alone.
    gso: bool,
    max_segments: usize,
    routes: GsoRoutes,
    troubles: Troubles,
}

/// One socket, and who waits for it.
#[derive(Debug)]
struct Lane<S> {
    socket: S,
    /// Of its send buffer.
    shares: Shares,
    /// It took nothing, whoever it was for.
    full: Option<Wait>,
    /// It has no room for these alone.
    held: Vec<(SocketAddr, Wait)>,
}

/// Something found no room.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    /// A batch waits in the queue for the next try.
    is_on: bool,
}

/// What sending needs from its caller.
pub(crate) struct Context<'a, F> {
    pub(crate) now: Instant,
    pub(crate) counters: &'a mut IoCounters,
    /// Told when the kernel refuses a destination's pinned source.
    pub(crate) forget_source: F,
}

impl<S: DatagramSocket> Sender<S> {
    pub(crate) fn new(v4: S, v6: Option<S>, gso: bool, max_segments: usize) -> Self {
        Self {
            v4: Lane::new(v4),
            v6: v6.map(Lane::new),
            rules: Rules { gso, max_segments, routes: GsoRoutes::default(), troubles: Troubles::default() },
            retry_at: None,
        }
    }

    /// Puts other sockets in place. What waited for the old ones leaves through the new ones.
    pub(crate) fn replace_sockets(&mut self, v4: S, v6: Option<S>) {
        self.v4 = Lane::new(v4);
        self.v6 = v6.map(Lane::new);
        self.retry_at = None;
    }

    pub(crate) fn socket(&self, family: Family) -> Option<&S> {
        match family {
            Family::V4 => Some(&self.v4.socket),
            Family::V6 => self.v6.as_ref().map(|lane| &lane.socket),
        }
    }

    /// Why it is no use to go on, once.
    pub(crate) fn take_end(&mut self) -> Option<io::Error> {
        self.rules.troubles.end.take()
    }

    /// When what waits for room is to be tried again; `None` if nothing does.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Has the next [`resend`](Self::resend) try what waits.
    pub(crate) fn retry(&mut self) {
        if self.retry_at.take().is_some() {
            self.v4.retry();
            self.v6.iter_mut().for_each(Lane::retry);
        }
    }

    /// Sends what was put back into the queue, but for what has to wait for room still. To be called before anything
    /// that was queued later is sent.
    pub(crate) fn resend<W: Work>(
        &mut self,
        queue: &mut GsoQueue<W>,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) {
        while let Some(batch) = queue.pop_finished_where(|to| self.is_open(to.remote)) {
            self.send(batch, queue, cx);
        }
    }

    /// Sends a batch, or puts back what has to wait for room.
    pub(crate) fn send<W: Work>(
        &mut self,
        batch: Batch<W>,
        queue: &mut GsoQueue<W>,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) {
        let to = batch.destination().remote;
        if !self.is_open(to) {
            return queue.restore(batch);
        }
        let lane = match Family::of(&to) {
            Family::V4 => Some(&mut self.v4),
            Family::V6 => self.v6.as_mut(),
        };
        let Some(lane) = lane else {
            cx.counters.drops.udp_no_socket += batch.segments_left() as u64;
            return queue.recycle(batch);
        };
        if let Some(waits) = lane.send(batch, &mut self.rules, cx, queue) {
            self.retry_at.get_or_insert(waits);
        }
    }

    /// True if nothing that goes there waits.
    fn is_open(&self, to: SocketAddr) -> bool {
        match Family::of(&to) {
            Family::V4 => self.v4.is_open(to),
            Family::V6 => self.v6.as_ref().is_none_or(|lane| lane.is_open(to)),
        }
    }
}

impl<S: DatagramSocket> Lane<S> {
    fn new(socket: S) -> Self {
        Self { socket, shares: Shares::default(), full: None, held: Vec::new() }
    }

    /// True if nothing that goes there waits.
    fn is_open(&self, to: SocketAddr) -> bool {
        let is_full = self.full.is_some_and(|wait| wait.is_on);
        !is_full && !self.held.iter().any(|(held, wait)| wait.is_on && *held == to)
    }

    fn retry(&mut self) {
        let waits = self.full.iter_mut().chain(self.held.iter_mut().map(|(_, wait)| wait));
        waits.for_each(|wait| wait.is_on = false);
    }

    /// Sends the batch, or puts what is left of it back, or gives that up. When to try again, if it is to wait.
    fn send<W: Work>(
        &mut self,
        batch: Batch<W>,
        rules: &mut Rules,
        cx: &mut Context<'_, impl FnMut(Destination)>,
        queue: &mut GsoQueue<W>,
    ) -> Option<Instant> {
        let to = batch.destination().remote;
        let mut flight = InFlight::new(batch, rules, cx);
        let sent = flight.send(self, rules, cx);
        let Err(no_room) = sent else {
            self.held.retain(|(held, _)| *held != to);
            queue.recycle(flight.batch);
            return None;
        };
        let wait = match no_room {
            NoRoom::ForAnyone => self.full.get_or_insert_with(|| Wait::since(cx.now)),
            NoRoom::ForThis => self.wait_of(to, cx.now),
        };
        if wait.is_in_vain(cx.now) {
            cx.counters.drops.udp_send_full += flight.batch.segments_left() as u64;
            queue.recycle(flight.batch);
            return None;
        }
        wait.is_on = true;
        cx.counters.traffic.udp_send_blocked += 1;
        queue.restore(flight.batch);
        Some(cx.now + RETRY_PAUSE)
    }

    fn wait_of(&mut self, to: SocketAddr, now: Instant) -> &mut Wait {
        let known = self.held.iter().position(|(held, _)| *held == to);
        let at = known.unwrap_or_else(|| {
            if self.held.len() >= MAX_WAITS
                && let Some(old) = self.held.iter().position(|(_, wait)| !wait.is_on)
            {
                self.held.swap_remove(old);
            }
            self.held.push((to, Wait::since(now)));
            self.held.len() - 1
        });
        &mut self.held[at].1
    }
}

impl Wait {
    const fn since(now: Instant) -> Self {
        Self { since: now, is_on: false }
    }

    fn is_in_vain(&mut self, now: Instant) -> bool {
        if self.since + RENEWAL <= now {
            self.since = now;
        }
        self.since + PATIENCE <= now
    }
}

#[cfg(test)]
mod tests;
