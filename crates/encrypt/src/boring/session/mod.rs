//! A session: packets, and what is due when. Its handshakes have a room of their own.

mod handshake;
#[cfg(test)]
mod tests;

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use boringtun::noise::{TunnResult, errors::WireGuardError};

use self::handshake::Pending;
use super::{Shared, noise::Noise};
use crate::{
    DATA_OVERHEAD, INITIATION_LEN, MAX_CONTROL_LEN, Opened, PresharedKey, REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES, Reject, SealError, Session, SessionConfig, TimerAction,
    ip::packet_len,
    timers::{Birth, Content, Due, Timers},
    wire::{Message, u64_at},
};

/// Sessions that boringtun keeps at a time: the slot is the receiver index modulo this.
const SLOTS: usize = 8;

/// A session with real cryptography.
pub struct BoringSession {
    timers: Timers,
    noise: Noise,
    /// What we know of the sessions inside boringtun.
    slots: [Option<Slot>; SLOTS],
    /// The receiver index of the session that seals, if the timers know one.
    current: u32,
    /// Messages sent with that session.
    sent: u64,
    /// A message that boringtun wrote while we were doing something else.
    pending: Option<Pending>,
}

#[derive(Clone, Copy)]
struct Slot {
    index: u32,
    birth: Birth,
    /// The peer has shown that it has the keys.
    confirmed: bool,
}

impl BoringSession {
    pub(super) fn new(shared: Arc<Shared>, config: SessionConfig) -> Self {
        Self {
            timers: Timers::default(),
            noise: Noise::new(shared, config),
            slots: [None; SLOTS],
            current: 0,
            sent: 0,
            pending: None,
        }
    }
}

impl Session for BoringSession {
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
        let tunn = self.noise.started().ok_or(SealError::NoSession)?;
        let expected = out.len();
        match tunn.encapsulate(plaintext, out) {
            TunnResult::WriteToNetwork(message) if message.len() == expected => {
                // The counter in the message is the truth.
                self.sent = u64_at(message, 8).saturating_add(1);
            }
            _ => {
                self.timers.session_lost();
                return Err(SealError::NoSession);
            }
        }
        self.timers.sent(if plaintext.is_empty() { Content::Keepalive } else { Content::Packet }, now);
        Ok(())
    }

    fn initiate(&mut self, out: &mut [u8; INITIATION_LEN], now: Instant) -> Option<usize> {
        if !self.timers.may_initiate(now) {
            return None;
        }
        self.write_initiation(out, now)
    }

    #[inline]
    fn open(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Opened, Reject> {
        let message = Message::parse(datagram)?;
        // boringtun panics on a short one, before it authenticates anything.
        if out.len() < datagram.len().max(MAX_CONTROL_LEN) {
            return Err(Reject::SmallBuffer);
        }
        match message {
            Message::Data { receiver, counter } => self.open_data(datagram, receiver, counter, out, now),
            Message::Initiation { .. } => self.open_initiation(datagram, out, from, now),
            Message::Response { receiver, .. } => self.open_response(datagram, receiver, out, from, now),
            Message::CookieReply { .. } => self.open_cookie_reply(datagram, out, from),
        }
    }

    fn wants_rekey(&self) -> bool {
        self.sent >= REKEY_AFTER_MESSAGES && self.is_live()
    }

    fn set_preshared_key(&mut self, key: Option<PresharedKey>, _now: Instant) {
        self.noise.set_preshared_key(key);
        self.timers = Timers::default();
        self.slots = [None; SLOTS];
        self.sent = 0;
        self.pending = None;
    }

    fn handle_timeout(&mut self, out: &mut [u8; MAX_CONTROL_LEN], now: Instant) -> TimerAction {
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
                Some(Due::Keepalive) => {
                    if self.seal(&[], &mut out[..DATA_OVERHEAD], now).is_ok() {
                        return TimerAction::Send { len: DATA_OVERHEAD, initiation: false };
                    }
                }
                Some(Due::GaveUp) => {
                    self.forget();
                    return TimerAction::Expired;
                }
                Some(Due::Died) => return TimerAction::Expired,
                Some(Due::Forget) => self.forget(),
                None => return TimerAction::Idle,
            }
        }
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }
}

impl BoringSession {
    #[inline]
    fn open_data(
        &mut self,
        datagram: &[u8],
        receiver: u32,
        counter: u64,
        out: &mut [u8],
        now: Instant,
    ) -> Result<Opened, Reject> {
        let slot = self.slots[slot_of(receiver)].ok_or(Reject::NoSession)?;
        if slot.index != receiver || !slot.birth.is_young(now) {
            return Err(Reject::NoSession);
        }
        // Past this limit boringtun's replay window would overflow.
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Reject::Replay);
        }
        let tunn = self.noise.started().ok_or(Reject::NoSession)?;
        let opened = match tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Ok(None),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                packet_len(packet).map(Some).ok_or(Reject::NotIp)
            }
            // It authenticated, and yet is no IP packet.
            TunnResult::Err(WireGuardError::InvalidPacket) => Err(Reject::NotIp),
            TunnResult::Err(error) => return Err(data_reject(&error)),
            TunnResult::WriteToNetwork(_) => return Err(Reject::NoSession),
        };
        let confirms = (receiver != self.current || !self.is_live()) && self.heard_on(slot);
        let is_packet = matches!(opened, Ok(Some(_)));
        self.timers.received(if is_packet { Content::Packet } else { Content::Keepalive }, now);
        opened.map(|packet| match packet {
            Some(len) => Opened::Packet { len, confirms },
            None => Opened::Keepalive { confirms },
        })
    }

    /// A message came on a session other than the one that seals: that one seals from now on, if it is newer.
    /// boringtun follows the same rule. True if this is the session's first.
    #[cold]
    fn heard_on(&mut self, slot: Slot) -> bool {
        let is_newer = self.timers.current().is_none_or(|current| current.at <= slot.birth.at);
        if is_newer {
            self.confirm(slot.index, slot.birth);
        }
        is_newer && !slot.confirmed
    }

    /// Erases what a session or a handshake left behind.
    fn forget(&mut self) {
        self.slots = [None; SLOTS];
        self.timers.session_lost();
        if let Some(tunn) = self.noise.started() {
            // boringtun drops what has expired by its clock. A handshake it would rather go on with is
            // not sent: we have told the caller that it was given up.
            let _ = tunn.update_timers(&mut [0; MAX_CONTROL_LEN]);
        }
    }

    fn store(&mut self, index: u32, birth: Birth) {
        self.slots[slot_of(index)] = Some(Slot { index, birth, confirmed: false });
        self.timers.keys_agreed(birth.at);
    }

    fn confirm(&mut self, index: u32, birth: Birth) {
        self.current = index;
        self.sent = 0;
        if let Some(slot) = &mut self.slots[slot_of(index)] {
            slot.confirmed = true;
        }
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

const fn slot_of(index: u32) -> usize {
    index as usize % SLOTS
}

const fn data_reject(error: &WireGuardError) -> Reject {
    match error {
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => Reject::NoSession,
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => Reject::Replay,
        _ => Reject::BadTag,
    }
}
