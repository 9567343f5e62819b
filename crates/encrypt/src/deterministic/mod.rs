//! **Not security.** A backend for tests and simulations: WireGuard's messages, lengths, indices and
//! timers, with arithmetic anyone can undo where the cryptography would be.
//!
//! Its time is only the `now` that it is given, so hours pass in microseconds; equal inputs give equal
//! behaviour (the timestamps inside handshakes come from a process-wide counter, so that a rebuilt
//! session is never taken for a replay). Corruption, a wrong peer, a wrong pre-shared key, replays and
//! spent sessions are noticed, so that tests of what stands above see the errors that they would see
//! from a real backend.

mod cipher;
mod handshake;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Instant};

use self::{
    cipher::{ReplayWindow, Word, checksum, scramble},
    handshake::{Initiation, Local, Macs, Response},
};
use crate::{
    COOKIE_REPLY_LEN, DATA_HEADER_LEN, DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened,
    PeerIndex, PresharedKey, PrivateKey, PublicKey, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES,
    RESPONSE_LEN, Reject, SealError, Session, SessionConfig, Stamps, TimerAction,
    ip::packet_len,
    timers::{Birth, Content, Due, Timers},
    transport::DATA_TAG_LEN,
    wire::{Message, TYPE_DATA, u32_at},
};

/// Sessions kept at a time, as in boringtun: the slot is the receiver index modulo this.
const SLOTS: usize = 8;

/// An [`Identity`] that protects nothing. See the [module](self).
#[derive(Debug)]
pub struct InsecureIdentity {
    public: PublicKey,
}

/// An initiation, read.
#[derive(Debug)]
pub struct InsecureClaim(Initiation);

impl InsecureIdentity {
    fn checked_macs<'a>(&self, datagram: &'a [u8]) -> Result<Macs<'a>, Reject> {
        if !Message::parse(datagram)?.has_macs() {
            return Err(Reject::Malformed);
        }
        let macs = handshake::macs(datagram);
        if macs.mac1 == handshake::mac1(&self.public, macs.before_mac1) {
            Ok(macs)
        } else {
            Err(Reject::BadMac)
        }
    }
}

impl Identity for InsecureIdentity {
    type Session = InsecureSession;
    type Claim = InsecureClaim;

    fn new(private_key: &PrivateKey, _now: Instant) -> Self {
        Self { public: private_key.public_key() }
    }

    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn peer_of(&self, receiver: u32) -> Option<PeerIndex> {
        Some(PeerIndex::from_receiver(receiver))
    }

    fn verify_mac1(&self, datagram: &[u8]) -> Result<(), Reject> {
        self.checked_macs(datagram).map(|_| ())
    }

    fn check_cookie(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        _now: Instant,
    ) -> Result<Option<[u8; COOKIE_REPLY_LEN]>, Reject> {
        let macs = self.checked_macs(datagram)?;
        let cookie = checksum(&[b"cookie", self.public.as_bytes(), from.ip().to_string().as_bytes()]);
        let is_proven = macs.mac2 == handshake::mac2(&cookie, macs.before_mac2);
        let sender = u32_at(datagram, 4);
        Ok((!is_proven).then(|| handshake::cookie_reply(&self.public, sender, cookie, macs.mac1)))
    }

    fn claim(&self, datagram: &[u8]) -> Result<(PublicKey, InsecureClaim), Reject> {
        let Message::Initiation { .. } = Message::parse(datagram)? else { return Err(Reject::Malformed) };
        let initiation = Initiation::read(datagram, &self.public).ok_or(Reject::BadHandshake)?;
        Ok((initiation.static_key, InsecureClaim(initiation)))
    }

    fn session(&mut self, config: SessionConfig, _now: Instant) -> InsecureSession {
        InsecureSession {
            local: Local::new(self.public, &config),
            timers: Timers::default(),
            slots: Default::default(),
            current: None,
            previous: None,
        }
    }
}

/// A [`Session`] that protects nothing. See the [module](self).
#[derive(Debug)]
pub struct InsecureSession {
    local: Local,
    timers: Timers,
    slots: [Option<Slot>; SLOTS],
    /// The receiver index of the session that seals, if the timers know one.
    current: Option<u32>,
    /// That of the session that did before.
    previous: Option<u32>,
}

/// One pair of keys.
#[derive(Debug)]
struct Slot {
    index: u32,
    remote: u32,
    birth: Birth,
    send: Word,
    receive: Word,
    sent: u64,
    window: ReplayWindow,
}

impl InsecureSession {
    /// Makes the session that seals believe that it has sent this many messages.
    pub fn set_messages_sent(&mut self, messages: u64) {
        if let Some(slot) = self.sealing() {
            slot.sent = messages;
        }
    }

    fn sealing(&mut self) -> Option<&mut Slot> {
        let current = self.current?;
        self.slots[slot_of(current)].as_mut().filter(|slot| slot.index == current)
    }

    /// An index whose slot is not that of a session in use: handshakes that fail at the other end end no session.
    fn next_index(&mut self) -> u32 {
        let in_use = [self.current, self.previous].map(|index| index.map(slot_of));
        loop {
            let index = self.local.next_index();
            if !in_use.contains(&Some(slot_of(index))) {
                return index;
            }
        }
    }

    fn confirm(&mut self, index: u32, birth: Birth) {
        if self.current != Some(index) {
            self.previous = self.current.replace(index);
        }
        self.timers.session_confirmed(birth);
    }

    fn store(&mut self, index: u32, remote: u32, birth: Birth, send: Word, receive: Word) {
        let slot = Slot { index, remote, birth, send, receive, sent: 0, window: ReplayWindow::default() };
        self.slots[slot_of(index)] = Some(slot);
        self.timers.keys_agreed(birth.at);
    }

    fn send_initiation(&mut self, out: &mut [u8; INITIATION_LEN], now: Instant) -> usize {
        let index = self.next_index();
        *out = self.local.initiate(index, now);
        // No jitter: tests count seconds.
        self.timers.initiation_sent(std::time::Duration::ZERO, now);
        INITIATION_LEN
    }
}

impl Session for InsecureSession {
    type Identity = InsecureIdentity;

    fn is_live(&self) -> bool {
        self.timers.current().is_some()
    }

    fn is_initiating(&self) -> bool {
        self.timers.is_initiating()
    }

    fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError> {
        if out.len() != plaintext.len() + DATA_OVERHEAD {
            return Err(SealError::WrongLength);
        }
        if !self.timers.may_seal(now) {
            return Err(SealError::NoSession);
        }
        let slot = self.sealing().ok_or(SealError::NoSession)?;
        if slot.sent >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Exhausted);
        }
        let counter = slot.sent;
        slot.sent += 1;
        out[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
        out[4..8].copy_from_slice(&slot.remote.to_le_bytes());
        out[8..16].copy_from_slice(&counter.to_le_bytes());
        let (body, tag) = out[16..].split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        tag.copy_from_slice(&checksum(&[&slot.send, &counter.to_le_bytes(), plaintext]));
        scramble(&slot.send, counter, body);
        self.timers.sent(Content::of(plaintext), now);
        Ok(())
    }

    fn initiate(
        &mut self,
        _identity: &mut InsecureIdentity,
        out: &mut [u8; INITIATION_LEN],
        now: Instant,
    ) -> Option<usize> {
        self.timers.may_initiate(now).then(|| self.send_initiation(out, now))
    }

    fn answer(
        &mut self,
        _identity: &mut InsecureIdentity,
        _datagram: &[u8],
        InsecureClaim(initiation): InsecureClaim,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        self.local.accept(&initiation)?;
        let index = self.next_index();
        let (message, keys) = self.local.respond(&initiation, index);
        out[..RESPONSE_LEN].copy_from_slice(&message);
        let birth = Birth { at: now, initiator: false };
        self.store(index, initiation.sender, birth, keys.responder, keys.initiator);
        self.timers.received(Content::Handshake, now);
        self.timers.sent(Content::Handshake, now);
        Ok(RESPONSE_LEN)
    }

    fn read_response(
        &mut self,
        _identity: &mut InsecureIdentity,
        datagram: &[u8],
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        let Message::Response { .. } = Message::parse(datagram)? else { return Err(Reject::Malformed) };
        let response = Response::read(datagram);
        let keys = self.local.complete(&response)?;
        let birth = Birth { at: now, initiator: true };
        self.store(response.receiver, response.sender, birth, keys.initiator, keys.responder);
        self.confirm(response.receiver, birth);
        self.timers.received(Content::Handshake, now);
        // The first message confirms the keys to the responder.
        let confirmation = &mut out[..DATA_OVERHEAD];
        self.seal(&[], confirmation, now).map_err(|_| Reject::NoSession)?;
        Ok(DATA_OVERHEAD)
    }

    fn read_cookie_reply(&mut self, datagram: &[u8], now: Instant) -> Result<(), Reject> {
        let Message::CookieReply { .. } = Message::parse(datagram)? else { return Err(Reject::Malformed) };
        let reply: &[u8; COOKIE_REPLY_LEN] = datagram.first_chunk().ok_or(Reject::Malformed)?;
        self.local.store_cookie(reply, now)
    }

    fn open(
        &mut self,
        _identity: &mut InsecureIdentity,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Opened, Reject> {
        let Message::Data { receiver, counter } = Message::parse(datagram)? else {
            return Err(Reject::Malformed);
        };
        let slot = self.slots[slot_of(receiver)]
            .as_mut()
            .filter(|slot| slot.index == receiver && slot.birth.is_young(now));
        let slot = slot.ok_or(Reject::NoSession)?;
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Reject::Replay);
        }
        let (_, rest) = datagram.split_at_mut(DATA_HEADER_LEN);
        let (plaintext, tag) = rest.split_at_mut(rest.len() - DATA_TAG_LEN);
        scramble(&slot.receive, counter, plaintext);
        if *tag != checksum(&[&slot.receive, &counter.to_le_bytes(), plaintext]) {
            plaintext.fill(0);
            return Err(Reject::BadTag);
        }
        if !slot.window.accept(counter) {
            return Err(Reject::Replay);
        }
        let birth = slot.birth;
        let is_other = self.current != Some(receiver);
        let confirms = self.timers.current().is_none_or(|current| is_other && current.at <= birth.at);
        if confirms {
            self.confirm(receiver, birth);
        }
        let packet = packet_len(plaintext);
        self.timers.received(if packet.is_some() { Content::Packet } else { Content::Keepalive }, now);
        match packet {
            Some(len) => Ok(Opened::Packet { len, confirms }),
            None if plaintext.is_empty() => Ok(Opened::Keepalive { confirms }),
            None => Err(Reject::NotIp),
        }
    }

    fn keep_trying(&mut self, now: Instant) {
        self.timers.keep_trying(now);
    }

    fn stamps(&self) -> Stamps {
        self.local.stamps()
    }

    fn remember(&mut self, stamps: Stamps) {
        self.local.remember(stamps);
    }

    fn wants_rekey(&self) -> bool {
        let sealing = self.current.and_then(|current| self.slots[slot_of(current)].as_ref());
        self.is_live() && sealing.is_some_and(|slot| slot.sent >= REKEY_AFTER_MESSAGES)
    }

    fn set_preshared_key(
        &mut self,
        _identity: &mut InsecureIdentity,
        key: Option<PresharedKey>,
        now: Instant,
    ) {
        self.local.set_preshared_key(key.as_ref());
        self.timers.retry_at_once(now);
    }

    fn end(&mut self, _identity: &mut InsecureIdentity, _now: Instant) {
        self.local.forget_handshakes();
        self.timers = Timers::default();
        self.slots = Default::default();
    }

    fn handle_timeout(
        &mut self,
        _identity: &mut InsecureIdentity,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> TimerAction {
        while let Some(due) = self.timers.poll(now) {
            match due {
                Due::Initiate => {
                    let len = self.send_initiation(out, now);
                    return TimerAction::Send { len, initiation: true };
                }
                Due::InitiateUnheard => {
                    let len = self.send_initiation(out, now);
                    return TimerAction::SendUnheard { len };
                }
                Due::Keepalive => {
                    if self.seal(&[], &mut out[..DATA_OVERHEAD], now).is_ok() {
                        return TimerAction::Send { len: DATA_OVERHEAD, initiation: false };
                    }
                }
                Due::GaveUp => {
                    self.local.forget_handshakes();
                    return TimerAction::Expired;
                }
                Due::Died => return TimerAction::Expired,
                Due::Forget => {
                    self.local.forget_handshakes();
                    self.slots = Default::default();
                }
            }
        }
        TimerAction::Idle
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }
}

const fn slot_of(index: u32) -> usize {
    index as usize % SLOTS
}
