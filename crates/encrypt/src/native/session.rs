//! A session: what is agreed with one peer, in three pairs of keys as in the kernel, and what is due when.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Addressed, Claim, IndexTable, NativeIdentity, PeerHandshake};
use crate::{
    DATA_OVERHEAD, INITIATION_LEN, MAX_CONTROL_LEN, Message, Opened, PeerIndex, PresharedKey,
    REKEY_AFTER_MESSAGES, RESPONSE_LEN, Reject, SealError, Session, SessionConfig, Stamps, TimerAction,
    ip::packet_len,
    timers::{Birth, Content, Due, MAX_JITTER, Timers},
    transport::{DATA_HEADER_LEN, KeyPair, Leases, TransportKeys, Unchecked},
};

#[cfg(all(test, not(loom)))]
mod tests;

/// A session with the native cryptography.
pub struct NativeSession {
    index: PeerIndex,
    handshake: PeerHandshake,
    timers: Timers,
    /// Seals no more, but still opens what is late.
    previous: Option<Keys>,
    /// Seals.
    current: Option<Keys>,
    /// We responded: the peer has not shown yet that it has them, so they may not seal (§5.4.6).
    next: Option<Keys>,
}

/// One of the three.
struct Keys {
    pair: KeyPair,
    birth: Birth,
}

impl Keys {
    fn index(&self) -> u32 {
        self.pair.keys().local_index()
    }
}

impl NativeSession {
    pub(super) fn new(config: SessionConfig) -> Self {
        let SessionConfig { peer, preshared_key, index } = config;
        Self {
            index,
            handshake: PeerHandshake::new(peer, preshared_key.as_ref()),
            timers: Timers::default(),
            previous: None,
            current: None,
            next: None,
        }
    }

    /// Writes an initiation, whatever the timers say. `None` if the peer's key is of low order.
    fn write_initiation(
        &mut self,
        identity: &mut NativeIdentity,
        out: &mut [u8; INITIATION_LEN],
        now: Instant,
    ) -> Option<usize> {
        let NativeIdentity { local, indices, environment } = identity;
        let rng = &mut *environment.rng;
        let jitter = Duration::from_millis(u64::from(rng.next_u32()) % (MAX_JITTER.as_millis() as u64 + 1));
        // Also if nothing can be written: never try again without a pause.
        self.timers.initiation_sent(jitter, now);
        let index = indices.vacant(rng)?;
        let wall = (environment.wall)(now);
        let freed = self.handshake.initiate(local, index, wall, now, rng, out).ok()?;
        freed.map(|freed| indices.remove(freed));
        indices.insert(index, self.index);
        Some(INITIATION_LEN)
    }

    /// These keys seal from now on. What sealed before goes on opening, and so does what the peer may be about to confirm.
    fn promote(&mut self, keys: Keys, indices: &mut IndexTable<PeerIndex>) {
        self.timers.session_confirmed(keys.birth);
        let sealed_before = self.current.replace(keys);
        let late = match self.next.take() {
            Some(unconfirmed) => [self.previous.replace(unconfirmed), sealed_before],
            None => [std::mem::replace(&mut self.previous, sealed_before), None],
        };
        free(late, indices);
    }

    /// What seals `plaintext` into `out`.
    #[inline]
    fn sealing_keys(
        &self,
        plaintext: &[u8],
        out: &[u8],
        now: Instant,
    ) -> Result<&Arc<TransportKeys>, SealError> {
        if out.len() != plaintext.len() + DATA_OVERHEAD {
            return Err(SealError::WrongLength);
        }
        let current = self.current.as_ref().filter(|_| self.timers.may_seal(now));
        current.map(|current| current.pair.keys()).ok_or(SealError::NoSession)
    }

    fn keys(&self) -> impl Iterator<Item = &Keys> {
        [&self.previous, &self.current, &self.next].into_iter().flatten()
    }

    /// Wipes the handshakes that are out, and frees their indices.
    fn abandon_handshakes(&mut self, indices: &mut IndexTable<PeerIndex>) {
        for index in self.handshake.pending() {
            indices.remove(index);
        }
        self.handshake.abandon();
    }

    /// Wipes all keys and handshakes.
    fn forget(&mut self, indices: &mut IndexTable<PeerIndex>) {
        free([self.previous.take(), self.current.take(), self.next.take()], indices);
        self.abandon_handshakes(indices);
    }
}

/// Wipes keys, and frees their receiver indices.
fn free<const N: usize>(keys: [Option<Keys>; N], indices: &mut IndexTable<PeerIndex>) {
    for keys in keys.into_iter().flatten() {
        indices.remove(keys.index());
    }
}

impl Session for NativeSession {
    type Identity = NativeIdentity;

    #[inline]
    fn is_live(&self) -> bool {
        self.timers.current().is_some()
    }

    fn is_initiating(&self) -> bool {
        self.timers.is_initiating()
    }

    #[inline]
    fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError> {
        let keys = self.sealing_keys(plaintext, out, now)?;
        let lease = keys.lease(1)?;
        out[DATA_HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
        let len = out.len();
        lease.seal_train(out, len).map_err(|_| SealError::WrongLength)?;
        self.timers.sent(Content::of(plaintext), now);
        Ok(())
    }

    #[inline]
    fn seal_later(
        &mut self,
        plaintext: &[u8],
        out: &mut [u8],
        segment: usize,
        leases: &mut Leases,
        now: Instant,
    ) -> Result<(), SealError> {
        let keys = self.sealing_keys(plaintext, out, now)?;
        let (header, rest) = out.split_first_chunk_mut().ok_or(SealError::WrongLength)?;
        let counter = leases.push(keys, segment)?;
        keys.write_header(counter, header);
        rest[..plaintext.len()].copy_from_slice(plaintext);
        self.timers.sent(Content::of(plaintext), now);
        Ok(())
    }

    fn initiate(
        &mut self,
        identity: &mut NativeIdentity,
        out: &mut [u8; INITIATION_LEN],
        now: Instant,
    ) -> Option<usize> {
        if !self.timers.may_initiate(now) {
            return None;
        }
        self.write_initiation(identity, out, now)
    }

    fn answer(
        &mut self,
        identity: &mut NativeIdentity,
        _datagram: &[u8],
        claim: Claim,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        let NativeIdentity { local, indices, environment } = identity;
        let out = out.first_chunk_mut::<RESPONSE_LEN>().ok_or(Reject::Malformed)?;
        let rng = &mut *environment.rng;
        let index = indices.vacant(rng).ok_or(Reject::UnderLoad)?;
        let pair = local.answer(claim, &mut self.handshake, index, now, rng, out)?;
        indices.insert(index, self.index);
        let keys = Keys { pair, birth: Birth { at: now, initiator: false } };
        free([self.next.replace(keys), self.previous.take()], indices);
        self.timers.keys_agreed(now);
        self.timers.received(Content::Handshake, now);
        self.timers.sent(Content::Handshake, now);
        Ok(RESPONSE_LEN)
    }

    fn read_response(
        &mut self,
        identity: &mut NativeIdentity,
        datagram: &[u8],
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        let Addressed::Response(response) = Addressed::parse(datagram)? else {
            return Err(Reject::Malformed);
        };
        let NativeIdentity { local, indices, .. } = identity;
        let other = self.handshake.pending().find(|pending| *pending != response.receiver());
        let pair = self.handshake.read_response(local, &response)?;
        let overtaken = other.filter(|other| self.handshake.pending().all(|pending| pending != *other));
        overtaken.map(|overtaken| indices.remove(overtaken));
        // The first message shows the peer that we have the keys. New ones have counters, and it fits.
        let confirmation = &mut out[..DATA_OVERHEAD];
        let sealed = pair.keys().lease(1).map(|lease| lease.seal_train(confirmation, DATA_OVERHEAD));
        debug_assert_eq!(sealed, Ok(Ok(())));
        let birth = Birth { at: now, initiator: true };
        self.promote(Keys { pair, birth }, indices);
        self.timers.keys_agreed(now);
        self.timers.received(Content::Handshake, now);
        self.timers.sent(Content::Keepalive, now);
        Ok(DATA_OVERHEAD)
    }

    fn read_cookie_reply(&mut self, datagram: &[u8], now: Instant) -> Result<(), Reject> {
        let Message::CookieReply { receiver } = Message::parse(datagram)? else {
            return Err(Reject::Malformed);
        };
        let is_ours = self.keys().any(|keys| keys.index() == receiver)
            || self.handshake.pending().any(|pending| pending == receiver);
        if !is_ours {
            return Err(Reject::NoSession);
        }
        self.handshake.read_cookie_reply(datagram, now)
    }

    #[inline]
    fn open(
        &mut self,
        identity: &mut NativeIdentity,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Opened, Reject> {
        let Message::Data { receiver, .. } = Message::parse(datagram)? else { return Err(Reject::Malformed) };
        let opened = self.opener(receiver, now).ok_or(Reject::NoSession)?.open(datagram)?;
        self.commit(identity, datagram, opened, now)
    }

    #[inline]
    fn opener(&self, receiver: u32, now: Instant) -> Option<&Arc<TransportKeys>> {
        let all = [&self.current, &self.previous, &self.next];
        let keys = all.into_iter().flatten().find(|keys| keys.index() == receiver)?;
        keys.birth.is_young(now).then(|| keys.pair.keys())
    }

    #[inline]
    fn commit(
        &mut self,
        identity: &mut NativeIdentity,
        datagram: &[u8],
        opened: Unchecked,
        now: Instant,
    ) -> Result<Opened, Reject> {
        let receiver = opened.receiver();
        let all = [&mut self.current, &mut self.previous, &mut self.next];
        let keys = all.into_iter().flatten().find(|keys| keys.index() == receiver);
        let keys = keys.filter(|keys| keys.birth.is_young(now)).ok_or(Reject::NoSession)?;
        let fresh = keys.pair.commit(opened)?;

        let confirms = self.next.as_ref().is_some_and(|next| next.index() == receiver);
        if confirms && let Some(next) = self.next.take() {
            self.promote(next, &mut identity.indices);
        }
        if fresh.is_keepalive() {
            self.timers.received(Content::Keepalive, now);
            return Ok(Opened::Keepalive { confirms });
        }
        let Some(len) = datagram.get(fresh.content()).and_then(packet_len) else {
            self.timers.received(Content::Keepalive, now);
            return Err(Reject::NotIp);
        };
        self.timers.received(Content::Packet, now);
        Ok(Opened::Packet { len, confirms })
    }

    fn keep_trying(&mut self, now: Instant) {
        self.timers.keep_trying(now);
    }

    fn wants_rekey(&self) -> bool {
        let sent = self.current.as_ref().map_or(0, |current| current.pair.keys().leased());
        sent >= REKEY_AFTER_MESSAGES && self.is_live()
    }

    fn set_preshared_key(&mut self, identity: &mut NativeIdentity, key: Option<PresharedKey>, now: Instant) {
        self.handshake.set_preshared_key(key.as_ref());
        self.abandon_handshakes(&mut identity.indices);
        self.timers.retry_at_once(now);
    }

    fn end(&mut self, identity: &mut NativeIdentity, _now: Instant) {
        self.forget(&mut identity.indices);
        self.timers = Timers::default();
    }

    fn stamps(&self) -> Stamps {
        self.handshake.stamps()
    }

    fn remember(&mut self, stamps: Stamps) {
        self.handshake.remember(stamps);
    }

    fn handle_timeout(
        &mut self,
        identity: &mut NativeIdentity,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> TimerAction {
        loop {
            match self.timers.poll(now) {
                Some(Due::Initiate) => {
                    if let Some(len) = self.write_initiation(identity, out, now) {
                        return TimerAction::Send { len, initiation: true };
                    }
                }
                Some(Due::InitiateUnheard) => {
                    if let Some(len) = self.write_initiation(identity, out, now) {
                        return TimerAction::SendUnheard { len };
                    }
                }
                Some(Due::Keepalive) => {
                    if self.seal(&[], &mut out[..DATA_OVERHEAD], now).is_ok() {
                        return TimerAction::Send { len: DATA_OVERHEAD, initiation: false };
                    }
                }
                Some(Due::GaveUp) => {
                    self.abandon_handshakes(&mut identity.indices);
                    return TimerAction::Expired;
                }
                Some(Due::Died) => return TimerAction::Expired,
                Some(Due::Forget) => self.forget(&mut identity.indices),
                None => return TimerAction::Idle,
            }
        }
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }
}

impl fmt::Debug for NativeSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeSession")
            .field("peer", self.handshake.public_key())
            .field("index", &self.index)
            .field("timers", &self.timers)
            .finish_non_exhaustive()
    }
}
