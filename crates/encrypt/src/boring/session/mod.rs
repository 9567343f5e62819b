//! A session: packets, and what is due when. Its handshakes have a room of their own.

mod handshake;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Instant};

use self::handshake::Pending;
use super::{
    BoringIdentity, Shared,
    generation::{Plaintext, SessionId, Slot},
    noise::Noise,
};
use crate::{
    DATA_HEADER_LEN, DATA_OVERHEAD, INITIATION_LEN, MAX_CONTROL_LEN, Opened, PresharedKey,
    REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES, Reject, SealError, Session, SessionConfig, TimerAction,
    timers::{Birth, Content, Due, Timers},
    wire::{Message, u64_at},
};

/// A session with real cryptography.
pub struct BoringSession {
    timers: Timers,
    noise: Noise,
    /// Messages sent with the session that seals.
    sent: u64,
    /// A message that boringtun wrote while we were doing something else.
    pending: Option<Pending>,
    /// When the state that makes our initiations made the first one that is not answered.
    tried_since: Option<Instant>,
}

impl BoringSession {
    pub(super) fn new(shared: Arc<Shared>, config: SessionConfig) -> Self {
        Self {
            timers: Timers::default(),
            noise: Noise::new(shared, config),
            sent: 0,
            pending: None,
            tried_since: None,
        }
    }
}

impl Session for BoringSession {
    type Identity = BoringIdentity;

    #[inline]
    fn is_live(&self) -> bool {
        self.timers.current().is_some()
    }

    fn is_initiating(&self) -> bool {
        self.timers.is_initiating()
    }

    #[inline]
    fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError> {
        // boringtun panics on a short one, and wants it longer yet when it has no session.
        if out.len() != plaintext.len() + DATA_OVERHEAD {
            return Err(SealError::WrongLength);
        }
        if !self.timers.may_seal(now) {
            return Err(SealError::NoSession);
        }
        if self.sent >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Exhausted);
        }
        let expected = out.len();
        match self.noise.seal(plaintext, out) {
            // The counter in the message is the truth.
            Some(message) if message.len() == expected => self.sent = u64_at(message, 8).saturating_add(1),
            _ => {
                self.timers.session_lost();
                return Err(SealError::NoSession);
            }
        }
        self.timers.sent(Content::of(plaintext), now);
        Ok(())
    }

    fn initiate(
        &mut self,
        _identity: &mut BoringIdentity,
        out: &mut [u8; INITIATION_LEN],
        now: Instant,
    ) -> Option<usize> {
        if !self.timers.may_initiate(now) {
            return None;
        }
        self.write_initiation(out, now)
    }

    fn answer(
        &mut self,
        _identity: &mut BoringIdentity,
        datagram: &[u8],
        (): (),
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        self.write_response(datagram, out, now)
    }

    fn read_response(
        &mut self,
        _identity: &mut BoringIdentity,
        datagram: &[u8],
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        self.write_confirmation(datagram, out, now)
    }

    fn read_cookie_reply(&mut self, datagram: &[u8], _now: Instant) -> Result<(), Reject> {
        let Message::CookieReply { .. } = Message::parse(datagram)? else { return Err(Reject::Malformed) };
        self.noise.read_cookie_reply(datagram)
    }

    #[inline]
    fn open(
        &mut self,
        identity: &mut BoringIdentity,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Opened, Reject> {
        let Message::Data { receiver, counter } = Message::parse(datagram)? else {
            return Err(Reject::Malformed);
        };
        // Past this limit boringtun's replay window would overflow.
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Reject::Replay);
        }
        let scratch = identity.scratch(datagram.len());
        let (id, slot, plaintext) = self.noise.open(datagram, receiver, scratch, now)?;
        let seals = self.noise.current() == Some(id) && self.is_live();
        let confirms = !seals && self.heard_on(id, slot);
        let is_packet = matches!(plaintext, Plaintext::Packet { .. });
        self.timers.received(if is_packet { Content::Packet } else { Content::Keepalive }, now);
        match plaintext {
            Plaintext::Packet { len } => {
                datagram[DATA_HEADER_LEN..][..len].copy_from_slice(&scratch[..len]);
                Ok(Opened::Packet { len, confirms })
            }
            Plaintext::Nothing => Ok(Opened::Keepalive { confirms }),
            Plaintext::NotIp => Err(Reject::NotIp),
        }
    }

    fn keep_trying(&mut self, now: Instant) {
        self.timers.keep_trying(now);
    }

    fn wants_rekey(&self) -> bool {
        self.sent >= REKEY_AFTER_MESSAGES && self.is_live()
    }

    fn set_preshared_key(&mut self, _identity: &mut BoringIdentity, key: Option<PresharedKey>, now: Instant) {
        self.noise.set_preshared_key(key, now);
        self.tried_since = None;
        self.pending.take_if(|pending| pending.is_initiation());
        self.timers.retry_at_once(now);
    }

    fn end(&mut self, _identity: &mut BoringIdentity, now: Instant) {
        self.noise.end(now);
        self.tried_since = None;
        self.timers = Timers::default();
        self.sent = 0;
        self.pending = None;
    }

    fn handle_timeout(
        &mut self,
        _identity: &mut BoringIdentity,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> TimerAction {
        loop {
            if let Some(pending) = self.pending.take() {
                *out = pending.message;
                return TimerAction::Send { len: pending.len, initiation: pending.is_initiation() };
            }
            match self.timers.poll(now) {
                Some(Due::Initiate) => {
                    if let Some(len) = self.write_initiation(out, now) {
                        return TimerAction::Send { len, initiation: true };
                    }
                }
                Some(Due::InitiateUnheard) => {
                    if let Some(len) = self.write_initiation(out, now) {
                        return TimerAction::SendUnheard { len };
                    }
                }
                Some(Due::Keepalive) => {
                    if self.seal(&[], &mut out[..DATA_OVERHEAD], now).is_ok() {
                        return TimerAction::Send { len: DATA_OVERHEAD, initiation: false };
                    }
                }
                Some(Due::GaveUp) => {
                    self.renew(now);
                    return TimerAction::Expired;
                }
                Some(Due::Died) => return TimerAction::Expired,
                Some(Due::Forget) => self.forget(now),
                None => {
                    self.noise.purge(now);
                    return TimerAction::Idle;
                }
            }
        }
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }
}

impl BoringSession {
    /// A message came on a session other than the one that seals: that one seals from now on, if it is newer.
    /// boringtun follows the same rule. True if this is the session's first.
    #[cold]
    fn heard_on(&mut self, id: SessionId, slot: Slot) -> bool {
        let is_newer = self.timers.current().is_none_or(|current| current.at <= slot.birth.at);
        if is_newer {
            self.confirm(id, slot.birth);
        }
        is_newer && !slot.confirmed
    }

    /// Erases what a session or a handshake left behind.
    fn forget(&mut self, now: Instant) {
        self.timers.session_lost();
        self.noise.forget(now);
    }

    fn confirm(&mut self, id: SessionId, birth: Birth) {
        self.noise.confirm(id);
        self.sent = 0;
        self.tried_since = None;
        self.timers.session_confirmed(birth);
    }
}

impl fmt::Debug for BoringSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoringSession")
            .field("peer", &self.noise.peer)
            .field("index", &self.noise.index)
            .field("timers", &self.timers)
            .finish_non_exhaustive()
    }
}
