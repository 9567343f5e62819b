//! What all peers of a tunnel share: bounds, counters, deadlines, and what a full sink left behind.

use std::time::{Duration, Instant};

use encrypt::{PeerIndex, padded_len};
use gso_queue::{DatagramSink, Destination};

use crate::{
    Counters, Sealing, SinkFull, TunnelConfig,
    control::{self, ControlMessage, ControlQueue},
    deadlines::Deadlines,
    handshakes::Budget,
    routing_loop::Endpoints,
    waiting::WaitingBudget,
};

/// How long [`Tunnel::poll_timeout`](crate::Tunnel::poll_timeout) waits before it offers work to a sink that
/// was full: long enough not to spin on a blocked socket, short beside any of WireGuard's timers.
const SINK_RETRY: Duration = Duration::from_millis(1);

pub(crate) struct Shared {
    pub(crate) mtu: usize,
    pub(crate) counters: Counters,
    pub(crate) deadlines: Deadlines,
    pub(crate) waiting: WaitingBudget,
    pub(crate) control: ControlQueue,
    pub(crate) endpoints: Endpoints,
    /// What handshakes and timers may cost in this turn.
    pub(crate) budget: Budget,
    /// Deadlines that had passed were left for the next turn.
    pub(crate) timers_wait: bool,
    /// Where packets are padded, when they must be.
    pub(crate) scratch: Vec<u8>,
    /// The sink was full: not worth trying before this.
    hold_until: Option<Instant>,
}

impl Shared {
    pub(crate) fn new(config: &TunnelConfig) -> Self {
        Self {
            mtu: config.mtu,
            counters: Counters::default(),
            deadlines: Deadlines::default(),
            waiting: WaitingBudget {
                max_packets: config.waiting_packets,
                max_bytes: config.waiting_bytes,
                max_bytes_total: config.waiting_bytes_total,
                used_bytes: 0,
            },
            control: ControlQueue::default(),
            endpoints: Endpoints::default(),
            budget: Budget::default(),
            timers_wait: false,
            scratch: Vec::new(),
            hold_until: None,
        }
    }

    /// Sends a message that a session has written, or keeps it for later.
    ///
    /// # Errors
    /// The sink is full; the message was kept, or dropped and counted. Either way it is dealt with.
    pub(crate) fn send_control<S: DatagramSink<Sealing>>(
        &mut self,
        peer: PeerIndex,
        to: Destination,
        message: &[u8],
        now: Instant,
        sink: &mut S,
    ) -> Result<(), SinkFull> {
        let sent = if self.control.is_empty() { control::append(to, message, sink) } else { Err(SinkFull) };
        if sent.is_err() {
            self.hold(now);
            let kept = ControlMessage::new(peer, to, message).is_some_and(|m| self.control.push(m));
            self.counters.drops.tx_control_full += u64::from(!kept);
        }
        sent
    }

    /// Leaves the sink alone for a moment.
    pub(crate) fn hold(&mut self, now: Instant) {
        self.hold_until = Some(now + SINK_RETRY);
    }

    /// Whether the sink was full, and is to be left alone.
    pub(crate) const fn is_held(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Tries the sink again.
    pub(crate) fn release(&mut self) {
        self.hold_until = None;
    }

    /// When there is something to do next. `handshakes_wait`: in the next turn.
    pub(crate) fn next_deadline(&self, handshakes_wait: bool) -> Option<Instant> {
        let next_turn = self.budget.next_turn();
        let kept = if self.control.is_empty() { None } else { self.hold_until };
        let timers = self.deadlines.next();
        // Those that have passed wait for the budget, if there is none left.
        let timers = if self.budget.left() > 0 { timers } else { timers.max(timers.and(next_turn)) };
        let handshakes = next_turn.filter(|_| handshakes_wait);
        let next = [timers, kept, handshakes].into_iter().flatten().min()?;
        Some(self.hold_until.map_or(next, |hold| next.max(hold)))
    }
}

/// `packet` with the zeros that go behind it before it is sealed; copied to `scratch` only if there are any.
pub(crate) fn padded<'a>(packet: &'a [u8], mtu: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let len = padded_len(packet.len(), mtu);
    if len == packet.len() {
        return packet;
    }
    scratch.clear();
    scratch.extend_from_slice(packet);
    scratch.resize(len, 0);
    scratch
}
