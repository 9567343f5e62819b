//! Sending one batch, and what its errors mean.

use std::{io, net::SocketAddr};

use gso_queue::{Batch, Destination, Ecn};
use quinn_udp::{EcnCodepoint, Transmit};

use super::{Context, Lane, Rules};
use crate::{
    IoCounters,
    udp::{gso_routes::Choice, socket::DatagramSocket},
};

/// A batch that is being sent.
#[derive(Debug)]
pub(super) struct InFlight<W> {
    pub(super) batch: Batch<W>,
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
pub(super) enum NoRoom {
    /// The socket takes nothing now.
    ForAnyone,
    /// Its destination's share of the send buffer is full.
    ForThis,
}

impl<W> InFlight<W> {
    pub(super) fn new<F>(batch: Batch<W>, rules: &Rules, cx: &mut Context<'_, F>) -> Self {
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
    pub(super) fn send<S: DatagramSocket>(
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
pub(super) struct Troubles {
    /// The kernel was seen to forbid a send.
    is_told: bool,
    /// There is no such system call.
    pub(super) end: Option<io::Error>,
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
