//! Emptying the queue into the sockets, and the failure rules.
//!
//! * A GSO send that fails is repeated as plain datagrams. If all of those go through, GSO was the
//!   problem: it rests on that route and is probed later. If any fails too, the route is the problem.
//! * A plain datagram that fails is dropped and counted, that one alone; and so is a train with an error that has
//!   nothing to do with GSO, such as a route or a firewall's.
//! * A full socket's batches wait for a moment, then they are given up and counted; the other socket goes on.
//!   Where the send buffer is [small](super::shares), only those wait whose share of it is full.
//! * With a pinned source address, EINVAL and "unreachable" are first taken as that address having gone: the
//!   same is sent once without it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use gso_queue::{Batch, Destination, Ecn, GsoQueue};
use quinn_udp::{EcnCodepoint, Transmit};

use crate::{
    IoCounters,
    udp::{
        gso_routes::{Choice, GsoRoutes},
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

/// A batch that is being sent.
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

/// Why a batch was not sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoRoom {
    /// The socket takes nothing now.
    ForAnyone,
    /// Its destination's share of the send buffer is full.
    ForThis,
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

    /// Has the next flush try what waits.
    pub(crate) fn retry(&mut self) {
        if self.retry_at.take().is_some() {
            self.v4.retry();
            self.v6.iter_mut().for_each(Lane::retry);
        }
    }

    /// Sends all that is queued, but for what has to wait for room.
    pub(crate) fn flush(&mut self, queue: &mut GsoQueue, mut cx: Context<'_, impl FnMut(Destination)>) {
        let Self { v4, v6, rules, retry_at } = self;
        while let Some(batch) = queue.pop_where(|to| match Family::of(&to.remote) {
            Family::V4 => v4.is_open(to.remote),
            Family::V6 => v6.as_ref().is_none_or(|lane| lane.is_open(to.remote)),
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
            if let Some(waits) = lane.send(batch, rules, &mut cx, queue) {
                retry_at.get_or_insert(waits);
            }
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
    fn send(
        &mut self,
        batch: Batch,
        rules: &mut Rules,
        cx: &mut Context<'_, impl FnMut(Destination)>,
        queue: &mut GsoQueue,
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

impl InFlight {
    fn new<F>(batch: Batch, rules: &Rules, cx: &mut Context<'_, F>) -> Self {
        let choice = match rules.gso && batch.is_gso() {
            true => rules.routes.choose(batch.destination().remote.ip(), cx.now),
            false => Choice::Plain,
        };
        let mode = match choice {
            Choice::Gso => Mode::Gso { probe: false },
            Choice::Probe => Mode::Gso { probe: true },
            Choice::Plain => Mode::Plain { trial: None },
        };
        cx.counters.traffic.gso_probes += u64::from(choice == Choice::Probe);
        Self { batch, mode, unpinned: false }
    }

    /// Sends what is left, as far as there is room.
    fn send<S: DatagramSocket>(
        &mut self,
        lane: &mut Lane<S>,
        rules: &mut Rules,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) -> Result<(), NoRoom> {
        let remote = self.batch.destination().remote;
        while !self.batch.is_done() {
            let at_once = match self.mode {
                Mode::Gso { .. } => rules.max_segments,
                Mode::Plain { .. } => 1,
            };
            let is_shared = lane.socket.small_send_buffer().map(|buffer| lane.shares.observe(buffer, cx.now));
            let at_once = match is_shared {
                None => at_once,
                Some(()) => at_once.min(lane.shares.room(remote, self.batch.segment_len(), cx.now)),
            };
            if at_once == 0 {
                return Err(NoRoom::ForThis);
            }
            let bytes = self.batch.unsent_prefix(at_once).len();
            let segments = bytes.div_ceil(self.batch.segment_len());
            match self.attempt(at_once, &mut lane.socket, cx) {
                Ok(()) => {
                    if is_shared.is_some()
                        && let Some(buffer) = lane.socket.small_send_buffer()
                    {
                        lane.shares.charge(remote, buffer, cx.now);
                    }
                    lane.full = None;
                    cx.counters.traffic.udp_datagrams_sent += segments as u64;
                    cx.counters.traffic.udp_bytes_sent += bytes as u64;
                    cx.counters.send_batches.record(segments);
                    self.batch.advance(segments);
                    if let Mode::Gso { probe: true } = self.mode {
                        rules.routes.worked(remote.ip());
                    }
                }
                Err(error) => match Failure::of(&error) {
                    Failure::Full => return Err(NoRoom::ForAnyone),
                    failure if segments > 1 && failure.may_be_gso() => self.fall_back(&error, cx),
                    failure => {
                        self.give_up(segments, failure, &error, cx);
                        rules.troubles.note(failure, error, remote);
                    }
                },
            }
        }
        if let Mode::Plain { trial: Some(Trial { refused: false }) } = self.mode
            && rules.routes.failed(remote.ip(), cx.now)
        {
            cx.counters.traffic.gso_routes_disabled += 1;
            let remote = remote.ip();
            tracing::info!(%remote, "GSO fails on this route while plain sends work; resting it there");
        }
        Ok(())
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
    fn fall_back(&mut self, error: &io::Error, cx: &mut Context<'_, impl FnMut(Destination)>) {
        cx.counters.traffic.gso_fallbacks += 1;
        tracing::trace!(%error, batch = ?self.batch, "a GSO send failed");
        self.mode = Mode::Plain { trial: Some(Trial { refused: false }) };
    }

    /// So many datagrams did not leave.
    fn give_up(
        &mut self,
        segments: usize,
        failure: Failure,
        error: &io::Error,
        cx: &mut Context<'_, impl FnMut(Destination)>,
    ) {
        let drops = &mut cx.counters.drops;
        *match failure {
            Failure::TooBig => &mut drops.udp_too_big,
            _ => &mut drops.udp_refused,
        } += segments as u64;
        tracing::trace!(%error, batch = ?self.batch, "a send was refused");
        self.batch.advance(segments);
        if let Mode::Plain { trial: Some(trial) } = &mut self.mode {
            trial.refused = true;
        }
    }
}

/// What people should know of sends that failed.
#[derive(Debug, Default)]
struct Troubles {
    /// The kernel was seen to forbid a send.
    is_told: bool,
    /// There is no such system call.
    end: Option<io::Error>,
}

impl Troubles {
    fn note(&mut self, failure: Failure, error: io::Error, to: SocketAddr) {
        match failure {
            Failure::NoSuchCall => self.end = Some(error),
            Failure::Forbidden if !self.is_told => {
                self.is_told = true;
                tracing::warn!(
                    "a firewall or a seccomp filter forbids sending to {to} ({error}); what is refused is counted, \
                     and not told again"
                );
            }
            _ => {}
        }
    }
}

/// What a failed send means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// EAGAIN: the send buffer is full. ENOBUFS: the kernel's memory is.
    Full,
    /// EMSGSIZE.
    TooBig,
    /// EINVAL.
    Invalid,
    /// EIO: the route's device cannot checksum a train.
    Io,
    /// ENETUNREACH, EADDRNOTAVAIL: no route, or none from the pinned source.
    Unreachable,
    /// EPERM: a firewall, or a filter of system calls.
    Forbidden,
    /// ENOSYS: a filter of system calls.
    NoSuchCall,
    /// A dead device, and what else may be.
    Other,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        use nix::libc::{EADDRNOTAVAIL, EINVAL, EIO, EMSGSIZE, ENETUNREACH, ENOBUFS, ENOSYS, EPERM};
        match error.raw_os_error() {
            Some(ENOBUFS) => Self::Full,
            Some(EMSGSIZE) => Self::TooBig,
            Some(EINVAL) => Self::Invalid,
            Some(EIO) => Self::Io,
            Some(ENETUNREACH | EADDRNOTAVAIL) => Self::Unreachable,
            Some(EPERM) => Self::Forbidden,
            Some(ENOSYS) => Self::NoSuchCall,
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
