//! The handshake side of a session: initiations, responses, cookies, and boringtun's own timers.

use std::time::{Duration, Instant};

use super::BoringSession;
use crate::{
    INITIATION_LEN, MAX_CONTROL_LEN, Message, PublicKey, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, Reject,
    timers::{Birth, Content, MAX_JITTER},
    wire::{TYPE_INITIATION, u32_at},
};

/// For how long one state may try. boringtun gives a handshake up after 90 s by its own clock, and drops its sessions with it; ours
/// may be wanted for longer. The last try before this one's end is over 5 s later.
const TRY: Duration = REKEY_ATTEMPT_TIME.saturating_sub(REKEY_TIMEOUT.saturating_mul(2));

/// A message that boringtun wrote.
pub(super) struct Pending {
    pub(super) len: usize,
    pub(super) message: [u8; MAX_CONTROL_LEN],
}

impl BoringSession {
    /// Brings boringtun's clock up to date. Reads it: for handshakes only, never per packet.
    fn refresh(&mut self, now: Instant) {
        let mut message = [0; MAX_CONTROL_LEN];
        match self.noise.update_timers(&mut message) {
            Ok(Some(len)) => self.keep(Pending { len, message }, now),
            Ok(None) => {}
            // Its own give-up came before ours, for it may count from an older event: our next try
            // starts it afresh. Without a try of ours, nobody waits for it.
            Err(_) => self.timers.retry_at_once(now),
        }
        self.follow();
    }

    /// Handshakes begin from scratch; sessions stay.
    pub(super) fn renew(&mut self, now: Instant) {
        self.noise.renew(now);
        self.tried_since = None;
    }

    /// boringtun may have dropped the session that we would seal with.
    fn follow(&mut self) {
        if !self.noise.is_live() {
            self.timers.session_lost();
        }
    }

    pub(super) fn keep(&mut self, pending: Pending, now: Instant) {
        if pending.is_initiation() {
            self.timers.initiation_sent(pending.jitter(), now);
        } else {
            self.timers.sent(Content::Keepalive, now);
        }
        self.pending = Some(pending);
        self.timers.arm(now);
    }

    /// Writes an initiation, whatever the timers say.
    pub(super) fn write_initiation(&mut self, out: &mut [u8; INITIATION_LEN], now: Instant) -> Option<usize> {
        if self.noise.peer.is_of_low_order() {
            self.timers.initiation_sent(MAX_JITTER, now); // never try again without a pause
            return None;
        }
        self.noise.follow_wall_clock(now);
        if self.tried_since.is_some_and(|since| now >= since + TRY) {
            self.renew(now);
        }
        self.tried_since.get_or_insert(now);
        self.refresh(now);
        let own = self.pending.take_if(|pending| pending.is_initiation()); // boringtun was quicker
        let initiation = match own {
            Some(pending) => pending,
            None => {
                let mut message = [0; MAX_CONTROL_LEN];
                let Some(len) = self.noise.write_initiation(&mut message) else {
                    // Not while the buffer is long enough; but never try again without a pause.
                    self.timers.initiation_sent(MAX_JITTER, now);
                    return None;
                };
                Pending { len, message }
            }
        };
        self.timers.initiation_sent(initiation.jitter(), now);
        *out = initiation.message;
        Some(initiation.len)
    }

    pub(super) fn write_response(
        &mut self,
        initiation: &[u8],
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        let Message::Initiation { .. } = Message::parse(initiation)? else { return Err(Reject::Malformed) };
        self.refuse_low_order(initiation, 8)?;
        self.refresh(now);
        let birth = Birth { at: now, initiator: false };
        let len = self.noise.read_initiation(initiation, out, birth)?;
        self.timers.keys_agreed(now);
        self.handshake_heard(Content::Handshake, now);
        Ok(len)
    }

    /// No `refresh` here: if boringtun gave the handshake up just now, it would refuse the answer to it.
    pub(super) fn write_confirmation(
        &mut self,
        response: &[u8],
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject> {
        let Message::Response { receiver, .. } = Message::parse(response)? else {
            return Err(Reject::Malformed);
        };
        self.refuse_low_order(response, 12)?;
        let birth = Birth { at: now, initiator: true };
        let (id, len) = self.noise.read_response(response, receiver, out, birth)?;
        self.timers.keys_agreed(now);
        self.confirm(id, birth);
        self.sent = 1; // the confirmation
        self.handshake_heard(Content::Keepalive, now);
        Ok(len)
    }

    /// Everybody knows the secrets that are shared with a key of low order, and boringtun does not look.
    fn refuse_low_order(&self, message: &[u8], ephemeral_at: usize) -> Result<(), Reject> {
        let ephemeral =
            message.get(ephemeral_at..).and_then(|rest| rest.first_chunk()).ok_or(Reject::Malformed)?;
        let keys = [PublicKey::from_bytes(*ephemeral), self.noise.peer];
        if keys.iter().any(PublicKey::is_of_low_order) { Err(Reject::BadHandshake) } else { Ok(()) }
    }

    /// The peer's handshake message was good, and is answered.
    fn handshake_heard(&mut self, answer: Content, now: Instant) {
        self.timers.received(Content::Handshake, now);
        self.timers.sent(answer, now);
    }
}

impl Pending {
    pub(super) fn is_initiation(&self) -> bool {
        u32_at(&self.message, 0) == TYPE_INITIATION
    }

    /// A random pause (§6.4) from the message's ephemeral key, which is as random as anything.
    fn jitter(&self) -> Duration {
        let random = u32_at(&self.message, 8) % (MAX_JITTER.as_millis() as u32 + 1);
        Duration::from_millis(random.into())
    }
}
