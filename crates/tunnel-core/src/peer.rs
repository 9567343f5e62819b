//! One peer: its endpoint, its session, what waits for the session, and its timers.

use std::time::{Duration, Instant};

use encrypt::{
    DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, PeerIndex, PresharedKey, PublicKey, SealError,
    Session, SessionConfig, Stamps, TimerAction, padded_len,
};
use gso_queue::{AppendError, DatagramSink, Destination, Ecn, Slot};
use tracing::{debug, trace};

use crate::{
    Arrival, Packets, Sealing, Sent, SinkFull,
    deadlines::Scheduled,
    handshakes::Cost,
    inner::{self, Inner},
    persistent_keepalive::PersistentKeepalive,
    routing_loop::OwnDatagrams,
    shared::{Shared, padded},
    waiting::WaitingQueue,
};

/// How many due timers of one session run in one go. A session has fewer than this; a backend that always
/// finds one more must not hold up the loop.
const MAX_TIMER_ACTIONS: usize = 4;

/// The least time until a peer that was just looked at is looked at again, should its backend's deadline lie
/// in the past.
const MIN_WAIT: Duration = Duration::from_millis(1);

pub(crate) struct Peer<S> {
    pub(crate) index: PeerIndex,
    pub(crate) public_key: PublicKey,
    pub(crate) preshared_key: Option<PresharedKey>,
    /// Where to send to, from which local address. Its ECN bits are those of control messages: none.
    pub(crate) endpoint: Option<Destination>,
    pub(crate) keepalive: PersistentKeepalive,
    pub(crate) own_datagrams: OwnDatagrams,
    /// Made when first needed, so that ten thousand peers which never speak cost no Diffie-Hellman.
    pub(crate) session: Option<S>,
    /// Of the sessions before.
    stamps: Stamps,
    pub(crate) waiting: WaitingQueue,
    pub(crate) scheduled: Scheduled,
    /// A full sink or a spent budget interrupted this peer's timers or its waiting packets.
    undone: bool,
    /// Serial number, in order of creation.
    pub(crate) created: u64,
    /// When an initiation of the peer was answered last.
    pub(crate) answered: Option<Instant>,
    pub(crate) last_handshake: Option<Instant>,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
}

/// What became of a packet that should be sealed.
enum Sealed {
    Sent,
    /// The session is not live, or no longer.
    NeedsHandshake,
    /// No UDP datagram is that long.
    TooBig,
}

impl<S: Session> Peer<S> {
    pub(crate) fn new(index: PeerIndex, public_key: PublicKey, created: u64) -> Self {
        Self {
            index,
            public_key,
            preshared_key: None,
            endpoint: None,
            keepalive: PersistentKeepalive::default(),
            own_datagrams: OwnDatagrams::default(),
            session: None,
            stamps: Stamps::default(),
            waiting: WaitingQueue::default(),
            scheduled: Scheduled::default(),
            undone: false,
            created,
            answered: None,
            last_handshake: None,
            tx_bytes: 0,
            rx_bytes: 0,
        }
    }

    /// Seals the packets, or queues them and asks for a handshake. [`Sent::Unreachable`] leaves them where they are.
    ///
    /// # Errors
    /// The sink is full; the packet at hand was not consumed.
    pub(crate) fn send<K: DatagramSink<Sealing>>(
        &mut self,
        packets: &mut impl Packets,
        ecn: Ecn,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<Sent, SinkFull> {
        let Some(endpoint) = self.endpoint else {
            shared.counters.drops.tx_no_endpoint += 1;
            return Ok(Sent::Unreachable);
        };
        if self.is_live() {
            self.flush_waiting(identity, now, shared, sink)?;
            let to = Destination { ecn: inner::encapsulate_ecn(ecn), ..endpoint };
            let sealed = self.seal_all(packets, to, now, shared, sink);
            self.after_sealing(identity, now, shared, sink);
            sealed?;
            if packets.packet().is_none() {
                return Ok(Sent::Taken);
            }
        }
        if shared.budget.is_left(now) {
            self.ensure_session(identity, now);
            // After a pause (a laptop that slept), a handshake given up long ago must not take these packets along.
            self.run_session_timers(identity, now, shared, sink)?;
        }
        self.initiate(identity, now, shared, sink)?;
        if let Some(session) = &mut self.session {
            session.keep_trying(now);
        }
        while let Some(packet) = packets.packet() {
            match inner::trim(packet) {
                Some(packet) => {
                    shared.counters.drops.tx_waiting_full += self.waiting.push(packet, &mut shared.waiting);
                }
                None => shared.counters.drops.tx_malformed += 1,
            }
            packets.advance();
        }
        Ok(Sent::Taken)
    }

    /// Seals packets while there are any and the session is live.
    ///
    /// # Errors
    /// The sink is full; the packet at hand was not consumed.
    fn seal_all<K: DatagramSink<Sealing>>(
        &mut self,
        packets: &mut impl Packets,
        to: Destination,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        while let Some(packet) = packets.packet() {
            let Some(packet) = inner::trim(packet) else {
                shared.counters.drops.tx_malformed += 1;
                packets.advance();
                continue;
            };
            let plaintext = padded(packet, shared.mtu, &mut shared.scratch);
            match self.seal(plaintext, to, now, sink)? {
                Sealed::Sent => self.count_sent_packet(plaintext.len(), shared),
                Sealed::TooBig => shared.counters.drops.tx_too_big += 1,
                Sealed::NeedsHandshake => return Ok(()),
            }
            packets.advance();
        }
        Ok(())
    }

    /// What a datagram from this peer may have changed: packets that waited may go, and timers run.
    pub(crate) fn after_receiving<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) {
        let may_go = !self.waiting.is_empty() && self.is_live();
        if may_go && self.flush_waiting(identity, now, shared, sink).is_err() {
            self.leave_undone(now, shared);
        }
        self.bring_deadline_forward(shared);
    }

    /// Sends what the session has written: a handshake message or a keepalive.
    ///
    /// # Errors
    /// The sink is full; the message is kept for later, or dropped and counted.
    pub(crate) fn send_control<K: DatagramSink<Sealing>>(
        &mut self,
        message: &[u8],
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        let Some(to) = self.endpoint else {
            shared.counters.drops.tx_no_endpoint += 1;
            return Ok(());
        };
        self.keepalive.restart(now);
        self.own_datagrams.written(message);
        shared.send_control(self.index, to, message, now, sink)?;
        self.count_sent_bytes(message.len(), shared);
        Ok(())
    }

    /// Runs every timer that is due and finishes what a full sink interrupted.
    ///
    /// # Errors
    /// The sink is full; call again once it is not.
    pub(crate) fn handle_timeout<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        self.undone = false;
        let ran = self.run_timers(identity, now, shared, sink);
        if ran.is_err() {
            self.leave_undone(now, shared);
        }
        self.reschedule(now, shared);
        ran
    }

    fn run_timers<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        self.run_session_timers(identity, now, shared, sink)?;
        if self.keepalive.is_due(now) {
            self.ensure_session(identity, now);
            self.send_persistent_keepalive(identity, now, shared, sink)?;
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        if self.is_live() {
            return self.flush_waiting(identity, now, shared, sink);
        }
        self.ensure_session(identity, now);
        self.initiate(identity, now, shared, sink)
    }

    fn run_session_timers<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        for _ in 0..MAX_TIMER_ACTIONS {
            let Some(session) = &mut self.session else { return Ok(()) };
            if session.poll_timeout().is_none_or(|at| at > now) {
                return Ok(());
            }
            let mut out = [0; MAX_CONTROL_LEN];
            match session.handle_timeout(identity, &mut out, now) {
                TimerAction::Send { len, initiation } => {
                    shared.budget.spend(if initiation { Cost::INITIATION } else { Cost::KEEPALIVE });
                    let traffic = &mut shared.counters.traffic;
                    traffic.initiations_sent += u64::from(initiation);
                    traffic.keepalives_sent += u64::from(!initiation);
                    self.send_control(&out[..len], now, shared, sink)?;
                }
                TimerAction::SendUnheard { len } => {
                    shared.budget.spend(Cost::INITIATION);
                    shared.counters.traffic.initiations_sent += 1;
                    self.forget_source();
                    self.send_control(&out[..len], now, shared, sink)?;
                }
                TimerAction::Expired => {
                    debug!(peer = ?self.public_key, waiting = self.waiting.len(), "session or handshake expired");
                    shared.counters.drops.tx_handshake_expired += self.waiting.clear(&mut shared.waiting);
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn send_persistent_keepalive<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        if let Some(endpoint) = self.endpoint
            && self.is_live()
            && let Sealed::Sent = self.seal(&[], endpoint, now, sink)?
        {
            shared.budget.spend(Cost::KEEPALIVE);
            shared.counters.traffic.keepalives_sent += 1;
            self.count_sent_bytes(DATA_OVERHEAD, shared);
            return Ok(());
        }
        // Without a session the handshake is the keepalive: the initiator confirms it with one.
        self.initiate(identity, now, shared, sink)?;
        self.keepalive.restart(now);
        Ok(())
    }

    /// Seals the packets that waited, oldest first.
    ///
    /// # Errors
    /// The sink is full; the rest still waits.
    pub(crate) fn flush_waiting<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        let Some(endpoint) = self.endpoint else { return Ok(()) };
        while self.waiting.copy_front(&mut shared.scratch) {
            let ecn = Inner::parse(&shared.scratch).map_or(Ecn::NotEct, |inner| inner.ecn);
            let to = Destination { ecn: inner::encapsulate_ecn(ecn), ..endpoint };
            shared.scratch.resize(padded_len(shared.scratch.len(), shared.mtu), 0);
            match self.seal(&shared.scratch, to, now, sink)? {
                Sealed::Sent => self.count_sent_packet(shared.scratch.len(), shared),
                Sealed::TooBig => shared.counters.drops.tx_too_big += 1,
                Sealed::NeedsHandshake => return self.initiate(identity, now, shared, sink),
            }
            self.waiting.pop(&mut shared.waiting);
            if self.waiting.is_empty() {
                self.after_sealing(identity, now, shared, sink);
            }
        }
        Ok(())
    }

    /// Starts a handshake, unless one is under way. If this turn's budget is spent, that is left to
    /// [`handle_timeout`](Self::handle_timeout), which is due: for as long as packets wait.
    ///
    /// # Errors
    /// The sink is full; no handshake was started.
    pub(crate) fn initiate<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) -> Result<(), SinkFull> {
        let Some(endpoint) = self.endpoint else { return Ok(()) };
        if self.session.as_ref().is_some_and(S::is_initiating) {
            return Ok(());
        }
        if !shared.budget.is_left(now) {
            self.undone = true;
            self.look_at(now, shared);
            return Ok(());
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let appended = sink.append(endpoint, INITIATION_LEN, |slot| {
            let out = slot.bytes.as_mut_array::<INITIATION_LEN>().ok_or(NotNow)?;
            session.initiate(identity, out, now).map(|_| self.own_datagrams.written(out)).ok_or(NotNow)
        });
        match appended {
            Ok(()) => {}
            Err(AppendError::Full) => return Err(SinkFull),
            Err(_) => {
                self.bring_deadline_forward(shared); // it may be too early for one
                return Ok(());
            }
        }
        shared.budget.spend(Cost::INITIATION);
        self.keepalive.restart(now);
        shared.counters.traffic.initiations_sent += 1;
        self.count_sent_bytes(INITIATION_LEN, shared);
        self.bring_deadline_forward(shared);
        Ok(())
    }

    fn seal<K: DatagramSink<Sealing>>(
        &mut self,
        plaintext: &[u8],
        to: Destination,
        now: Instant,
        sink: &mut K,
    ) -> Result<Sealed, SinkFull> {
        let Some(session) = &mut self.session else { return Ok(Sealed::NeedsHandshake) };
        let appended = sink.append(to, plaintext.len() + DATA_OVERHEAD, |slot| {
            let Slot { bytes, segment, work: Sealing(leases) } = slot;
            session.seal_later(plaintext, bytes, segment, leases, now)?;
            self.own_datagrams.laid(bytes);
            Ok(())
        });
        match appended {
            Ok(()) => {
                self.keepalive.restart(now);
                Ok(Sealed::Sent)
            }
            Err(AppendError::Full) => Err(SinkFull),
            Err(AppendError::Fill(SealError::NoSession | SealError::Exhausted)) => Ok(Sealed::NeedsHandshake),
            Err(_) => Ok(Sealed::TooBig),
        }
    }

    /// Renews a session that has sent enough, and keeps its timers.
    fn after_sealing<K: DatagramSink<Sealing>>(
        &mut self,
        identity: &mut S::Identity,
        now: Instant,
        shared: &mut Shared,
        sink: &mut K,
    ) {
        let wants_rekey = self.session.as_ref().is_some_and(S::wants_rekey);
        if wants_rekey {
            let _ = self.initiate(identity, now, shared, sink); // if the sink is full, the next packet asks again
        }
        self.bring_deadline_forward(shared);
    }

    pub(crate) fn is_live(&self) -> bool {
        self.session.as_ref().is_some_and(S::is_live)
    }

    pub(crate) fn ensure_session(&mut self, identity: &mut S::Identity, now: Instant) -> &mut S {
        self.session.get_or_insert_with(|| {
            let config = SessionConfig {
                peer: self.public_key,
                preshared_key: self.preshared_key.clone(),
                index: self.index,
            };
            let mut session = identity.session(config, now);
            session.remember(self.stamps);
            session
        })
    }

    /// An authenticated datagram of `len` bytes came; `confirms` if it shows that the peer has the newest keys.
    pub(crate) fn heard(
        &mut self,
        len: usize,
        from: Arrival,
        confirms: bool,
        now: Instant,
        shared: &mut Shared,
    ) {
        self.rx_bytes += len as u64;
        shared.counters.traffic.rx_bytes += len as u64;
        self.learn_endpoint(from, shared);
        if confirms {
            debug!(peer = ?self.public_key, "handshake confirmed");
            self.last_handshake = Some(now);
        }
    }

    /// An authenticated datagram came from there: that is the peer's endpoint now (paper §2.1).
    fn learn_endpoint(&mut self, from: Arrival, shared: &mut Shared) {
        let local = from.local.filter(|local| {
            let is_broadcast = matches!(local, std::net::IpAddr::V4(v4) if v4.is_broadcast());
            !(is_broadcast || local.is_multicast() || local.is_unspecified())
        });
        let heard = Destination { remote: from.remote, local, ecn: Ecn::NotEct };
        if self.endpoint == Some(heard) {
            return;
        }
        if self.endpoint.is_none_or(|before| before.remote != heard.remote) {
            trace!(peer = ?self.public_key, endpoint = %heard.remote, "endpoint learned");
            shared.counters.traffic.endpoints_learned += 1;
        }
        self.set_endpoint(heard, shared);
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: Destination, shared: &mut Shared) {
        let before = self.endpoint.map(|before| before.remote);
        shared.endpoints.moved(self.index, before, Some(endpoint.remote));
        self.endpoint = Some(endpoint);
    }

    /// Leaves it to the route from which local address datagrams leave, until the peer is heard from again.
    pub(crate) fn forget_source(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.local = None;
        }
    }

    /// Forgets the session: the next packet starts a new handshake, as do packets that wait and a persistent
    /// keepalive at the next [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn end_session(&mut self, identity: Option<&mut S::Identity>, now: Instant) {
        self.drop_session(identity, now);
        self.keepalive.hurry(now);
    }

    fn drop_session(&mut self, identity: Option<&mut S::Identity>, now: Instant) {
        if let (Some(mut session), Some(identity)) = (self.session.take(), identity) {
            self.stamps = session.stamps();
            session.end(identity, now);
        }
    }

    /// The session goes on; the next handshake uses the key.
    pub(crate) fn set_preshared_key(
        &mut self,
        identity: Option<&mut S::Identity>,
        key: Option<PresharedKey>,
        now: Instant,
    ) {
        if let (Some(session), Some(identity)) = (&mut self.session, identity) {
            session.set_preshared_key(identity, key.clone(), now);
        }
        self.preshared_key = key;
    }

    /// Leaves nothing behind that sends, waits or wakes.
    pub(crate) fn shut_down(
        &mut self,
        identity: Option<&mut S::Identity>,
        now: Instant,
        shared: &mut Shared,
    ) {
        self.drop_session(identity, now);
        shared.counters.drops.tx_peer_gone += self.waiting.clear(&mut shared.waiting);
        self.stand_still(shared);
    }

    /// Nothing is due.
    pub(crate) fn stand_still(&mut self, shared: &mut Shared) {
        self.undone = false;
        shared.deadlines.set(self.index, &mut self.scheduled, None);
    }

    fn leave_undone(&mut self, now: Instant, shared: &mut Shared) {
        self.undone = true;
        shared.hold(now);
        shared.deadlines.bring_forward(self.index, &mut self.scheduled, Some(now));
    }

    /// Has [`handle_timeout`](Self::handle_timeout) look at this peer as soon as it is called.
    pub(crate) fn look_at(&mut self, now: Instant, shared: &mut Shared) {
        shared.deadlines.bring_forward(self.index, &mut self.scheduled, Some(now));
    }

    fn bring_deadline_forward(&mut self, shared: &mut Shared) {
        let at = self.session.as_ref().and_then(S::poll_timeout);
        shared.deadlines.bring_forward(self.index, &mut self.scheduled, at);
    }

    fn reschedule(&mut self, now: Instant, shared: &mut Shared) {
        let session = self.session.as_ref().and_then(S::poll_timeout);
        let timers = [session, self.keepalive.due()].into_iter().flatten().min();
        let at = if self.undone { Some(now) } else { timers.map(|at| at.max(now + MIN_WAIT)) };
        shared.deadlines.set(self.index, &mut self.scheduled, at);
    }

    fn count_sent_packet(&mut self, plaintext_len: usize, shared: &mut Shared) {
        shared.counters.traffic.tx_packets += 1;
        shared.budget.carried(1, plaintext_len);
        self.count_sent_bytes(plaintext_len + DATA_OVERHEAD, shared);
    }

    pub(crate) fn count_sent_bytes(&mut self, len: usize, shared: &mut Shared) {
        self.tx_bytes += len as u64;
        shared.counters.traffic.tx_bytes += len as u64;
    }
}

/// There is nothing to write: a handshake is under way.
struct NotNow;
