//! Handshake messages that come in: step by step, each step worth its price before it is paid.

use std::time::{Duration, Instant};

use encrypt::{Identity, MAX_CONTROL_LEN, Message, PeerIndex, Reject, Session};
use gso_queue::{DatagramSink, Destination, Ecn};

use super::{
    Cost,
    backlog::{Standing, Waiting},
};
use crate::{Arrival, Sealing, Tunnel, control};

/// The least time between two initiations of one peer that are answered (the kernel's INITIATIONS_PER_SECOND of 50).
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// So much of the next turn's budget may be spent on those who are proven and at the address of a peer, past all that wait.
const OVERDRAFT: i64 = 100;

/// Length of mac2, at the end of a message.
const MAC_LEN: usize = 16;

impl<I: Identity> Tunnel<I> {
    /// Takes a datagram that has the form of a handshake message or a cookie reply.
    pub(crate) fn receive_handshake<S: DatagramSink<Sealing>>(
        &mut self,
        message: Message,
        datagram: &[u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) {
        let taken = match message {
            Message::CookieReply { receiver } => self.take_cookie_reply(receiver, datagram, now),
            _ => self.admit(message, datagram, from, now, sink),
        };
        if let Err(reject) = taken {
            self.shared.counters.drops.count(reject);
        }
    }

    /// Works messages off that wait, while more than `floor` of the budget is left and the sink has room.
    pub(crate) fn work_off<S: DatagramSink<Sealing>>(&mut self, floor: i64, now: Instant, sink: &mut S) {
        while self.shared.budget.left() > floor
            && !self.shared.is_held()
            && let Some(message) = self.handshakes.backlog.take()
        {
            if let Err(reject) = self.take(message, now, sink) {
                self.shared.counters.drops.count(reject);
            }
        }
        if !self.handshakes.load.is_heavy(self.handshakes.backlog.len(), now) {
            self.handshakes.buckets.clear();
        }
    }

    /// Hashes only: does the sender know our public key, and what else is known of it? Then it is the message's turn, or it waits.
    fn admit<S: DatagramSink<Sealing>>(
        &mut self,
        message: Message,
        datagram: &[u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        let Some(identity) = &self.identity else { return Ok(()) };
        self.shared.budget.at(now);
        self.shared.budget.came();
        if self.is_a_strangers(message, datagram, from) && self.handshakes.backlog.lets_go() {
            self.shared.counters.drops.rx_handshake_backlog_full += 1;
            return Ok(());
        }
        identity.verify_mac1(datagram)?;
        let standing = self.standing(message, datagram, from, now)?;
        let message = Waiting::new(datagram, from, standing).ok_or(Reject::Malformed)?;
        // Whoever is that as well is hardly one of a flood, and no more than twenty a second.
        let is_a_peers = standing == Standing::Proven && self.shared.endpoints.are_at(from.remote.ip());
        let is_next = is_a_peers && self.shared.budget.left() > -OVERDRAFT && !self.shared.is_held();
        let is_first = !(self.handshakes.are_waiting() || self.shared.timers_wait || self.shared.is_held());
        if is_next || is_first && self.shared.budget.left() > 0 {
            return self.take(message, now, sink);
        }
        let gone = self.handshakes.backlog.push(message);
        self.shared.counters.drops.rx_handshake_backlog_full += u64::from(gone.is_some());
        Ok(())
    }

    /// An initiation that does not even claim to be from somebody we know.
    fn is_a_strangers(&self, message: Message, datagram: &[u8], from: Arrival) -> bool {
        let is_initiation = matches!(message, Message::Initiation { .. });
        is_initiation && !has_mac2(datagram) && !self.shared.endpoints.are_at(from.remote.ip())
    }

    /// What is known of a sender without computing for it.
    fn standing(
        &mut self,
        message: Message,
        datagram: &[u8],
        from: Arrival,
        now: Instant,
    ) -> Result<Standing, Reject> {
        let is_known = self.shared.endpoints.are_at(from.remote.ip());
        if let Message::Response { receiver, .. } = message {
            // It names an initiation of ours, and comes from where that was sent.
            let index = self.addressee(receiver)?;
            let peer = self.peers.get_mut(index).ok_or(Reject::NoSession)?;
            if peer.endpoint.is_some_and(|endpoint| endpoint.remote == from.remote) {
                return Ok(Standing::Proven);
            }
        }
        let is_heavy = self.handshakes.load.is_heavy(self.handshakes.backlog.len(), now);
        if has_mac2(datagram) && is_heavy && self.shared.budget.take_check() {
            let Some(identity) = &mut self.identity else { return Ok(Standing::Unknown) };
            if identity.check_cookie(datagram, from.remote, now)?.is_none() {
                return Ok(Standing::Proven);
            }
        }
        Ok(if is_known { Standing::Known } else { Standing::Unknown })
    }

    /// It is this message's turn.
    fn take<S: DatagramSink<Sealing>>(
        &mut self,
        mut waiting: Waiting,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        if self.handshakes.load.is_heavy(self.handshakes.backlog.len(), now) {
            self.demand_proof(&mut waiting, now, sink)?;
            if !self.handshakes.buckets.take(waiting.from.remote.ip(), now) {
                self.shared.counters.drops.rx_handshake_rate += 1;
                return Ok(());
            }
        }
        let from = waiting.from;
        let message = waiting.message();
        match Message::parse(message)? {
            Message::Initiation { .. } => self.answer_initiation(message, from, now, sink),
            Message::Response { receiver, .. } => self.take_response(receiver, message, from, now, sink),
            Message::CookieReply { .. } | Message::Data { .. } => Err(Reject::Malformed),
        }
    }

    /// Hashes only: who has not proven that it receives where it says gets a cookie, and nothing else (paper §5.3).
    fn demand_proof<S: DatagramSink<Sealing>>(
        &mut self,
        waiting: &mut Waiting,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        let Some(identity) = self.identity.as_mut().filter(|_| waiting.standing < Standing::Proven) else {
            return Ok(());
        };
        let from = waiting.from;
        self.shared.budget.spend(Cost::COOKIE_REPLY);
        let Some(reply) = identity.check_cookie(waiting.message(), from.remote, now)? else { return Ok(()) };
        let to = Destination { remote: from.remote, local: from.local, ecn: Ecn::NotEct };
        // Not kept if the sink is full: we are under load, and the peer will ask again.
        let sent = control::append(to, &reply, sink).is_ok();
        if !sent {
            self.shared.hold(now);
        }
        let counters = &mut self.shared.counters;
        counters.traffic.cookies_sent += u64::from(sent);
        counters.traffic.tx_bytes += if sent { reply.len() as u64 } else { 0 };
        counters.drops.tx_control_full += u64::from(!sent);
        Err(Reject::UnderLoad)
    }

    /// One Diffie–Hellman tells whose it claims to be, and for a stranger that is all.
    fn answer_initiation<S: DatagramSink<Sealing>>(
        &mut self,
        initiation: &[u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        let Self { identity: Some(identity), peers, shared, .. } = self else { return Ok(()) };
        shared.budget.spend(Cost::CLAIM);
        let (key, claim) = identity.claim(initiation)?;
        let index = peers.find(&key).ok_or(Reject::UnknownPeer)?;
        let peer = peers.get_mut(index).ok_or(Reject::UnknownPeer)?;
        // By those alone that were authentic: anybody can claim to be the peer.
        let too_soon = |before: Instant| now.saturating_duration_since(before) < MIN_INTERVAL;
        if peer.answered.is_some_and(too_soon) {
            return Err(Reject::TooSoon);
        }
        shared.budget.spend(Cost::ANSWER);
        let mut response = [0; MAX_CONTROL_LEN];
        let session = peer.ensure_session(identity, now);
        let len = session.answer(identity, initiation, claim, &mut response, now)?;

        peer.answered = Some(now);
        peer.heard(initiation.len(), from, false, now, shared);
        shared.counters.traffic.initiations_received += 1;
        shared.counters.traffic.responses_sent += 1;
        let _ = peer.send_control(&response[..len], now, shared, sink); // kept if the sink is full
        peer.after_receiving(identity, now, shared, sink);
        Ok(())
    }

    fn take_response<S: DatagramSink<Sealing>>(
        &mut self,
        receiver: u32,
        response: &[u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        let index = self.addressee(receiver)?;
        let Self { identity: Some(identity), peers, shared, .. } = self else { return Ok(()) };
        let peer = peers.get_mut(index).ok_or(Reject::NoSession)?;
        let session = peer.session.as_mut().ok_or(Reject::NoSession)?;
        shared.budget.spend(Cost::RESPONSE);
        let mut confirmation = [0; MAX_CONTROL_LEN];
        let len = session.read_response(identity, response, &mut confirmation, now)?;

        peer.heard(response.len(), from, true, now, shared);
        shared.counters.traffic.responses_received += 1;
        shared.counters.traffic.keepalives_sent += 1;
        let _ = peer.send_control(&confirmation[..len], now, shared, sink); // kept if the sink is full
        peer.after_receiving(identity, now, shared, sink);
        Ok(())
    }

    /// Anybody on the path can make one: neither traffic nor a sign of life.
    fn take_cookie_reply(&mut self, receiver: u32, reply: &[u8], now: Instant) -> Result<(), Reject> {
        let index = self.addressee(receiver)?;
        let peer = self.peers.get_mut(index).ok_or(Reject::NoSession)?;
        peer.session.as_mut().ok_or(Reject::NoSession)?.read_cookie_reply(reply, now)?;
        self.shared.counters.traffic.cookies_received += 1;
        Ok(())
    }

    fn addressee(&self, receiver: u32) -> Result<PeerIndex, Reject> {
        self.identity.as_ref().and_then(|identity| identity.peer_of(receiver)).ok_or(Reject::NoSession)
    }
}

/// Whether a message says that it has a cookie.
fn has_mac2(message: &[u8]) -> bool {
    message.last_chunk::<MAC_LEN>().is_some_and(|mac2| *mac2 != [0; MAC_LEN])
}
