//! Emptying the queue into the sockets, and the failure rules.
//!
//! * A GSO send that fails is repeated as plain datagrams. If all of those go through, GSO was the
//!   problem: it rests on that route and is probed later. If any fails too, the route is the problem.
//! * A plain datagram that fails is dropped and counted, that one alone.
//! * A full socket keeps its batch, and how far it was sent; the other socket goes on.
//! * With a pinned source address, EINVAL and "unreachable" are first taken as that address having gone: the
//!   same is sent once without it.

use std::{
    io,
    time::{Duration, Instant},
};

use gso_queue::{Batch, Destination, Ecn, GsoQueue};
use quinn_udp::{EcnCodepoint, Transmit};

use crate::{
    IoCounters,
    udp::{
        gso_routes::{Choice, GsoRoutes},
        socket::{DatagramSocket, Family},
    },
};

/// Pause after ENOBUFS. The kernel is short of memory, not the socket of room, so the socket stays
/// writable and waiting for that alone would spin.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// Sends batches over one socket for each address family.
#[derive(Debug)]
pub(crate) struct Sender<S> {
    v4: Lane<S>,
    v6: Option<Lane<S>>,
    rules: Rules,
}

/// What is the same for both sockets.
#[derive(Debug)]
struct Rules {
    /// False: every datagram leaves alone.
    gso: bool,
    max_segments: usize,
    routes: GsoRoutes,
}

/// One socket and the batch it is in the middle of.
#[derive(Debug)]
struct Lane<S> {
    socket: S,
    current: Option<InFlight>,
    blocked: Option<Blocked>,
}

/// Why a socket takes nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Its send buffer is full: wait until it is writable.
    Full,
    /// The kernel has no memory: try again then.
    Until(Instant),
}

#[derive(Debug)]
struct InFlight {
    batch: Batch,
    mode: Mode,
    /// The kernel refused the pinned source, and took the same without it.
    unpinned: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Gso { probe: bool },
    Plain { trial: Option<Trial> },
}

/// The plain repetition of a GSO send whose error may mean that GSO does not work here.
#[derive(Clone, Copy, Debug)]
struct Trial {
    refused: bool,
}

/// What a flush needs from its caller.
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
            rules: Rules { gso, max_segments, routes: GsoRoutes::default() },
        }
    }

    /// Puts other sockets in place. What waited for the old ones leaves through the new ones.
    pub(crate) fn replace_sockets(&mut self, v4: S, v6: Option<S>, queue: &mut GsoQueue) {
        let lanes = [Some(&mut self.v4), self.v6.as_mut()];
        for flight in lanes.into_iter().flatten().filter_map(|lane| lane.current.take()) {
            queue.restore(flight.batch);
        }
        self.v4 = Lane::new(v4);
        self.v6 = v6.map(Lane::new);
    }

    pub(crate) fn socket(&self, family: Family) -> Option<&S> {
        self.lane(family).map(|lane| &lane.socket)
    }

    /// Why this socket takes nothing, if it does not.
    pub(crate) fn blocked(&self, family: Family) -> Option<Blocked> {
        self.lane(family).and_then(|lane| lane.blocked)
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked(Family::V4).is_some() || self.blocked(Family::V6).is_some()
    }

    /// The socket was full and may take more: the next flush tries it.
    pub(crate) fn unblock(&mut self, family: Family) {
        if let Some(lane) = self.lane_mut(family)
            && lane.blocked == Some(Blocked::Full)
        {
            lane.blocked = None;
        }
    }

    /// Nobody will tell when the full socket takes more: try again in a moment.
    pub(crate) fn retry_later(&mut self, family: Family, now: Instant) {
        if let Some(lane) = self.lane_mut(family) {
            lane.blocked = Some(Blocked::Until(now + RETRY_PAUSE));
        }
    }

    /// Sends all that is queued, but for what has to wait for a blocked socket.
    pub(crate) fn flush(&mut self, queue: &mut GsoQueue, mut cx: Context<'_, impl FnMut(Destination)>) {
        let Self { v4, v6, rules } = self;
        v4.resume(queue, rules, &mut cx);
        if let Some(v6) = v6 {
            v6.resume(queue, rules, &mut cx);
        }
        while let Some(batch) = queue.pop_where(|to| match Family::of(&to.remote) {
            Family::V4 => v4.is_open(),
            Family::V6 => v6.as_ref().is_none_or(Lane::is_open),
        }) {
            let lane = match Family::of(&batch.destination().remote) {
                Family::V4 => Some(&mut *v4),
                Family::V6 => v6.as_mut(),
            };
            let Some(lane) = lane else {
                cx.counters.drops.udp_no_socket += batch.segments_left() as u64;
                queue.recycle(batch);
                continue;
            };
            let flight = InFlight::new(batch, rules, cx.now);
            if let Mode::Gso { probe: true } = flight.mode {
                cx.counters.traffic.gso_probes += 1;
            }
            lane.current = Some(flight);
            lane.resume(queue, rules, &mut cx);
        }
    }

    fn lane(&self, family: Family) -> Option<&Lane<S>> {
        match family {
            Family::V4 => Some(&self.v4),
            Family::V6 => self.v6.as_ref(),
        }
    }

    fn lane_mut(&mut self, family: Family) -> Option<&mut Lane<S>> {
        match family {
            Family::V4 => Some(&mut self.v4),
            Family::V6 => self.v6.as_mut(),
        }
    }
}

impl<S: DatagramSocket> Lane<S> {
    const fn new(socket: S) -> Self {
        Self { socket, current: None, blocked: None }
    }

    const fn is_open(&self) -> bool {
        self.blocked.is_none()
    }

    /// Goes on with the batch in flight, if there is one, until it is done or the socket blocks.
    fn resume(
        &mut self,
        queue: &mut GsoQueue,
        rules: &mut Rules,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) {
        if let Some(Blocked::Until(then)) = self.blocked
            && then <= cx.now
        {
            self.blocked = None;
        }
        if self.blocked.is_some() {
            return;
        }
        let Some(mut flight) = self.current.take() else { return };
        self.blocked = flight.send(&mut self.socket, rules, cx);
        if self.blocked.is_some() {
            cx.counters.traffic.udp_send_blocked += 1;
            self.current = Some(flight);
            return;
        }
        queue.recycle(flight.batch);
    }
}

impl InFlight {
    fn new(batch: Batch, rules: &Rules, now: Instant) -> Self {
        let choice = match rules.gso && batch.is_gso() {
            true => rules.routes.choose(batch.destination().remote.ip(), now),
            false => Choice::Plain,
        };
        let mode = match choice {
            Choice::Gso => Mode::Gso { probe: false },
            Choice::Probe => Mode::Gso { probe: true },
            Choice::Plain => Mode::Plain { trial: None },
        };
        Self { batch, mode, unpinned: false }
    }

    /// Sends what is left. `Some` if the socket blocks before the end.
    fn send<S: DatagramSocket>(
        &mut self,
        socket: &mut S,
        rules: &mut Rules,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) -> Option<Blocked> {
        let remote = self.batch.destination().remote.ip();
        while !self.batch.is_done() {
            let at_once = match self.mode {
                Mode::Gso { .. } => rules.max_segments,
                Mode::Plain { .. } => 1,
            };
            let bytes = self.batch.unsent_prefix(at_once).len();
            let segments = bytes.div_ceil(self.batch.segment_len());
            match self.attempt(at_once, socket, cx) {
                Ok(()) => {
                    cx.counters.traffic.udp_datagrams_sent += segments as u64;
                    cx.counters.traffic.udp_bytes_sent += bytes as u64;
                    cx.counters.send_batches.record(segments);
                    self.batch.advance(segments);
                    if let Mode::Gso { probe: true } = self.mode {
                        rules.routes.worked(remote);
                    }
                }
                Err(error) => match Failure::of(&error) {
                    Failure::Full => return Some(Blocked::Full),
                    Failure::NoBuffers => return Some(Blocked::Until(cx.now + RETRY_PAUSE)),
                    failure if segments > 1 => self.fall_back(failure, &error, cx),
                    failure => self.drop_one(failure, &error, cx),
                },
            }
        }
        if let Mode::Plain { trial: Some(Trial { refused: false }) } = self.mode
            && rules.routes.failed(remote, cx.now)
        {
            cx.counters.traffic.gso_routes_disabled += 1;
            tracing::info!(%remote, "GSO fails on this route while plain sends work; resting it there");
        }
        None
    }

    /// One send; a second one without the pinned source if that may be what is wrong.
    fn attempt<S: DatagramSocket>(
        &mut self,
        at_once: usize,
        socket: &mut S,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) -> io::Result<()> {
        let to = self.batch.destination();
        let contents = self.batch.unsent_prefix(at_once);
        let is_train = contents.len() > self.batch.segment_len();
        let mut transmit = Transmit {
            destination: to.remote,
            ecn: ecn_codepoint(to.ecn),
            contents,
            segment_size: is_train.then_some(self.batch.segment_len()),
            src_ip: to.local.filter(|_| !self.unpinned),
        };
        let result = send_uninterrupted(socket, &transmit, cx.counters);
        let pin_may_be_gone =
            transmit.src_ip.is_some() && result.as_ref().is_err_and(|error| Failure::of(error).may_be_pin());
        if !pin_may_be_gone {
            return result;
        }
        transmit.src_ip = None;
        send_uninterrupted(socket, &transmit, cx.counters)?;
        self.unpinned = true;
        cx.counters.traffic.sources_unpinned += 1;
        (cx.forget_source)(to);
        Ok(())
    }

    /// The train did not leave: its datagrams go one by one from here.
    fn fall_back(
        &mut self,
        failure: Failure,
        error: &io::Error,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) {
        cx.counters.traffic.gso_fallbacks += 1;
        tracing::trace!(%error, batch = ?self.batch, "a GSO send failed");
        let trial = failure.may_be_gso().then_some(Trial { refused: false });
        self.mode = Mode::Plain { trial };
    }

    /// A plain datagram did not leave.
    fn drop_one(
        &mut self,
        failure: Failure,
        error: &io::Error,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) {
        match failure {
            Failure::TooBig => cx.counters.drops.udp_too_big += 1,
            _ => cx.counters.drops.udp_refused += 1,
        }
        tracing::trace!(%error, batch = ?self.batch, "a datagram was refused");
        self.batch.advance(1);
        if let Mode::Plain { trial: Some(trial) } = &mut self.mode {
            trial.refused = true;
        }
    }
}

/// What a failed send means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// EAGAIN.
    Full,
    /// ENOBUFS.
    NoBuffers,
    /// EMSGSIZE.
    TooBig,
    /// EINVAL.
    Invalid,
    /// EIO: the route's device cannot checksum a train.
    Io,
    /// ENETUNREACH, EADDRNOTAVAIL: no route, or none from the pinned source.
    Unreachable,
    /// A firewall, a dead device.
    Other,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        use nix::libc::{EADDRNOTAVAIL, EINVAL, EIO, EMSGSIZE, ENETUNREACH, ENOBUFS};
        match error.raw_os_error() {
            Some(ENOBUFS) => Self::NoBuffers,
            Some(EMSGSIZE) => Self::TooBig,
            Some(EINVAL) => Self::Invalid,
            Some(EIO) => Self::Io,
            Some(ENETUNREACH | EADDRNOTAVAIL) => Self::Unreachable,
            _ if error.kind() == io::ErrorKind::WouldBlock => Self::Full,
            _ => Self::Other,
        }
    }

    /// True for what a kernel answers when the pinned source is no longer an address of ours: EINVAL over
    /// IPv6 and in older kernels, ENETUNREACH over IPv4 in newer ones (seen on 6.18).
    const fn may_be_pin(self) -> bool {
        matches!(self, Self::Invalid | Self::Unreachable)
    }

    /// True for what a kernel answers when a route cannot take a train.
    const fn may_be_gso(self) -> bool {
        matches!(self, Self::TooBig | Self::Invalid | Self::Io)
    }
}

fn send_uninterrupted<S: DatagramSocket>(
    socket: &mut S,
    transmit: &Transmit<'_>,
    counters: &mut IoCounters,
) -> io::Result<()> {
    loop {
        counters.traffic.udp_send_calls += 1;
        match socket.try_send(transmit) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

const fn ecn_codepoint(ecn: Ecn) -> Option<EcnCodepoint> {
    match ecn {
        Ecn::NotEct => None,
        Ecn::Ect1 => Some(EcnCodepoint::Ect1),
        Ecn::Ect0 => Some(EcnCodepoint::Ect0),
        Ecn::Ce => Some(EcnCodepoint::Ce),
    }
}

#[cfg(test)]
mod tests;
