//! One of boringtun's states for a peer, and what we know of the sessions in it.

use std::{sync::Arc, time::Instant};

use boringtun::{
    noise::{Tunn, TunnResult, errors::WireGuardError},
    x25519,
};

use super::{Shared, stamps::Stamps};
use crate::{
    INITIATION_LEN, MAX_CONTROL_LEN, PeerIndex, PresharedKey, PublicKey, Reject,
    ip::packet_len,
    timers::Birth,
    wire::{TYPE_INITIATION, u32_at},
};

/// Sessions that boringtun keeps at a time: the slot is the receiver index modulo this.
const SLOTS: usize = 8;

/// boringtun has no setter for the pre-shared key, so each key has a state of its own.
pub(super) struct Generation {
    pub(super) serial: u32,
    tunn: Box<Tunn>,
    slots: [Option<Slot>; SLOTS],
    /// The receiver index that the last handshake message took. The next one takes the next.
    last_index: u32,
    /// The receiver index of our newest initiation, until it is answered.
    initiated: Option<u32>,
    /// It has accepted an initiation, so it knows what timestamp the next one must exceed (§5.1). boringtun
    /// neither tells nor takes one over.
    pub(super) has_accepted: bool,
    pub(super) stamps: Stamps,
}

/// One session: states count their indices alike, so the index alone does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionId {
    pub(super) generation: u32,
    pub(super) index: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Slot {
    index: u32,
    pub(super) birth: Birth,
    /// The peer has shown that it has the keys.
    pub(super) confirmed: bool,
}

/// What an authenticated data message held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plaintext {
    Packet { len: usize },
    Nothing,
    NotIp,
}

impl Generation {
    pub(super) fn new(
        shared: &Shared,
        peer: &PublicKey,
        index: PeerIndex,
        preshared_key: Option<&PresharedKey>,
        serial: u32,
    ) -> Self {
        let stamps = Stamps::begin();
        let tunn = Tunn::new(
            shared.private.clone(),
            x25519::PublicKey::from(*peer.as_bytes()),
            preshared_key.map(|key| *key.as_bytes()),
            None, // Whoever drives the session sends persistent keepalives.
            index.get(),
            Some(Arc::clone(&shared.unlimited)),
        );
        Self {
            serial,
            tunn: Box::new(tunn),
            slots: [None; SLOTS],
            last_index: index.get() << 8,
            initiated: None,
            has_accepted: false,
            stamps,
        }
    }

    #[inline]
    pub(super) fn seal<'a>(&mut self, plaintext: &[u8], out: &'a mut [u8]) -> Option<&'a [u8]> {
        match self.tunn.encapsulate(plaintext, out) {
            TunnResult::WriteToNetwork(message) => Some(message),
            _ => None,
        }
    }

    /// The session with this receiver index, if it may still receive.
    #[inline]
    pub(super) fn slot(&self, receiver: u32, now: Instant) -> Option<Slot> {
        self.slots[slot_of(receiver)].filter(|slot| slot.index == receiver && slot.birth.is_young(now))
    }

    /// True while a session of this state may still receive.
    pub(super) fn holds_young(&self, now: Instant) -> bool {
        self.slots.iter().flatten().any(|slot| slot.birth.is_young(now))
    }

    #[inline]
    pub(super) fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Plaintext, Reject> {
        match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Ok(Plaintext::Nothing),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Ok(packet_len(packet).map_or(Plaintext::NotIp, |len| Plaintext::Packet { len }))
            }
            // It authenticated, and yet is no IP packet.
            TunnResult::Err(WireGuardError::InvalidPacket) => Ok(Plaintext::NotIp),
            TunnResult::Err(error) => Err(data_reject(&error)),
            TunnResult::WriteToNetwork(_) => Err(Reject::NoSession),
        }
    }

    pub(super) fn store(&mut self, index: u32, birth: Birth) {
        self.slots[slot_of(index)] = Some(Slot { index, birth, confirmed: false });
    }

    pub(super) fn confirm(&mut self, index: u32) {
        if let Some(slot) = self.slots[slot_of(index)].as_mut().filter(|slot| slot.index == index) {
            slot.confirmed = true;
        }
    }

    /// Writes an initiation; gives its length.
    pub(super) fn write_initiation(
        &mut self,
        out: &mut [u8; MAX_CONTROL_LEN],
        kept: [Option<SessionId>; 2],
    ) -> Option<usize> {
        self.make_room(kept);
        let len = self.format_initiation(out)?;
        self.initiated = Some(self.last_index);
        Some(len)
    }

    /// Reads an initiation and writes the response; gives the new session's index, and the response's length.
    pub(super) fn read_initiation(
        &mut self,
        initiation: &[u8],
        out: &mut [u8],
        kept: [Option<SessionId>; 2],
    ) -> Result<(u32, usize), Reject> {
        self.make_room(kept);
        let response = reply(self.tunn.decapsulate(None, initiation, out))?;
        let index = u32_at(response, 4);
        self.last_index = index;
        self.slots[slot_of(index)] = None; // boringtun has put the new session there
        self.has_accepted = true;
        Ok((index, response.len()))
    }

    /// Reads the response to an initiation and writes the confirmation; gives its length.
    ///
    /// # Errors
    /// Also if it answers an older initiation than one that was answered already, which boringtun would take: it would then
    /// seal with the older session, which the peer may have dropped.
    pub(super) fn read_response(&mut self, response: &[u8], out: &mut [u8]) -> Result<usize, Reject> {
        let newest = self.initiated.ok_or(Reject::NoSession)?;
        let len = reply(self.tunn.decapsulate(None, response, out))?.len();
        self.initiated = (u32_at(response, 8) != newest).then_some(newest);
        Ok(len)
    }

    pub(super) fn read_cookie_reply(&mut self, cookie_reply: &[u8]) -> Result<(), Reject> {
        match self.tunn.decapsulate(None, cookie_reply, &mut [0; MAX_CONTROL_LEN]) {
            TunnResult::Done => Ok(()),
            TunnResult::Err(WireGuardError::InvalidAeadTag) => Err(Reject::BadTag),
            _ => Err(Reject::NoSession),
        }
    }

    /// Brings boringtun's clock up to date: it reads it. Gives the length of what it wrote by itself, if anything.
    ///
    /// # Errors
    /// It has given up, and dropped every session.
    pub(super) fn update_timers(
        &mut self,
        out: &mut [u8; MAX_CONTROL_LEN],
    ) -> Result<Option<usize>, WireGuardError> {
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(message) => {
                if u32_at(message, 0) == TYPE_INITIATION {
                    self.last_index = u32_at(message, 4);
                    self.initiated = Some(self.last_index);
                }
                Ok(Some(message.len()))
            }
            TunnResult::Err(error) => Err(error),
            _ => Ok(None),
        }
    }

    /// True when boringtun has a session to seal with.
    pub(super) fn is_live(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    /// Erases the keys of all sessions, and nothing else.
    pub(super) fn erase_sessions(&mut self, shared: &Shared) {
        // The key stays what it is; boringtun ends all sessions when it is set.
        let limiter = Some(Arc::clone(&shared.unlimited));
        self.tunn.set_static_private(shared.private.clone(), shared.public, limiter);
        self.slots = [None; SLOTS];
    }

    /// boringtun puts each new session where the one from eight indices ago was, even if that one is in use and
    /// the new one never will be: handshakes that fail at the other end would end a good session. So an index
    /// that would is used up by an initiation that nobody sends.
    fn make_room(&mut self, kept: [Option<SessionId>; 2]) {
        let [mut low, ..] = self.last_index.to_le_bytes();
        for _ in 0..kept.len() {
            low = low.wrapping_add(1);
            let next = slot_of(low.into());
            let mine = |id: &SessionId| id.generation == self.serial && slot_of(id.index) == next;
            if !kept.iter().flatten().any(mine) {
                return;
            }
            self.format_initiation(&mut [0; MAX_CONTROL_LEN]);
        }
    }

    fn format_initiation(&mut self, out: &mut [u8; MAX_CONTROL_LEN]) -> Option<usize> {
        const { assert!(MAX_CONTROL_LEN >= INITIATION_LEN) };
        let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(out, true) else {
            return None; // not while the buffer is long enough
        };
        self.last_index = u32_at(message, 4);
        Some(message.len())
    }
}

const fn slot_of(index: u32) -> usize {
    index as usize % SLOTS
}

/// What boringtun answers a handshake message with.
fn reply(opened: TunnResult<'_>) -> Result<&[u8], Reject> {
    match opened {
        TunnResult::WriteToNetwork(message) => Ok(message),
        TunnResult::Err(error) => Err(handshake_reject(&error)),
        _ => Err(Reject::BadHandshake),
    }
}

const fn handshake_reject(error: &WireGuardError) -> Reject {
    match error {
        WireGuardError::InvalidMac => Reject::BadMac,
        WireGuardError::WrongTai64nTimestamp => Reject::ReplayedHandshake,
        WireGuardError::UnexpectedPacket | WireGuardError::WrongIndex => Reject::NoSession,
        _ => Reject::BadHandshake,
    }
}

const fn data_reject(error: &WireGuardError) -> Reject {
    match error {
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => Reject::NoSession,
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => Reject::Replay,
        _ => Reject::BadTag,
    }
}
