//! Handshake messages that come in: step by step, each step worth its price before it is paid.

use std::time::{Duration, Instant};

use encrypt::{Identity, MAX_CONTROL_LEN, Message, PeerIndex, Reject, Session};
use gso_queue::{DatagramSink, Destination, Ecn};

use crate::{Arrival, Sealing, Tunnel, control};

/// How many handshake messages come in, in the second that runs. Only those whose mac1 holds count.
#[derive(Debug)]
pub(crate) struct Load {
    limit: u64,
    /// When the second began; `None` before the first message.
    second: Option<Instant>,
    count: u64,
}

impl Load {
    pub(crate) const fn new(limit: u64) -> Self {
        Self { limit, second: None, count: 0 }
    }

    /// Counts one. True if there were too many: we are under load (paper §5.3).
    fn is_heavy(&mut self, now: Instant) -> bool {
        let is_over = |began: Instant| now.saturating_duration_since(began) >= Duration::from_secs(1);
        if self.second.is_none_or(is_over) {
            (self.second, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count > self.limit
    }
}

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
        let taken = self.take_handshake(message, datagram, from, now, sink);
        if let Err(reject) = taken {
            self.shared.counters.drops.count(reject);
        }
    }

    fn take_handshake<S: DatagramSink<Sealing>>(
        &mut self,
        message: Message,
        datagram: &[u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        if message.has_macs() {
            self.admit(datagram, from, now, sink)?;
        }
        match message {
            Message::Initiation { .. } => self.answer_initiation(datagram, from, now, sink),
            Message::Response { receiver, .. } => self.take_response(receiver, datagram, from, now, sink),
            Message::CookieReply { receiver } => self.take_cookie_reply(receiver, datagram, now),
            Message::Data { .. } => Err(Reject::Malformed),
        }
    }

    /// Hashes only: does the sender know our public key, and under load, does it receive where it says?
    fn admit<S: DatagramSink<Sealing>>(
        &mut self,
        datagram: &[u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), Reject> {
        let Some(identity) = &mut self.identity else { return Ok(()) };
        identity.verify_mac1(datagram)?;
        if !self.load.is_heavy(now) {
            return Ok(());
        }
        let Some(reply) = identity.check_cookie(datagram, from.remote, now)? else { return Ok(()) };
        let to = Destination { remote: from.remote, local: from.local, ecn: Ecn::NotEct };
        // Not kept if the sink is full: we are under load, and the peer will ask again.
        let sent = control::append(to, &reply, sink).is_ok();
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
        let (key, claim) = identity.claim(initiation)?;
        let index = peers.find(&key).ok_or(Reject::UnknownPeer)?;
        let peer = peers.get_mut(index).ok_or(Reject::UnknownPeer)?;
        let mut response = [0; MAX_CONTROL_LEN];
        let session = peer.ensure_session(identity, now);
        let len = session.answer(identity, initiation, claim, &mut response, now)?;

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
