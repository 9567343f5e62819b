//! The backend for real use: boringtun's cryptography behind our traits. Nothing else names boringtun.
//!
//! boringtun keeps the keys, the handshakes and the replay windows. Around it, this adapter
//! * checks every length and counter first, since boringtun panics on some that come from the network;
//! * runs the timers of [§6](https://www.wireguard.com/papers/wireguard.pdf) by the caller's `now`. The
//!   ones inside boringtun read the real clock and take most of their stamps from the last
//!   `update_timers`; that call is made before each handshake we begin or answer, so its stamps are right
//!   where it compares them, and never per packet, so sealing and opening read no clock. What it wants to
//!   send of its own accord is kept for [`Session::handle_timeout`], never lost;
//! * never lets boringtun queue a packet, which it would do when asked to encrypt without a session;
//! * counts handshakes once per device, where boringtun would count per peer, or twice;
//! * starts boringtun's state for a peer (some 10 KiB and a Diffie–Hellman) with the first handshake, so
//!   that thousands of configured and silent peers cost little.
//!
//! What it cannot mend: boringtun accepts an initiation with no minimum interval since the last one, does
//! not zeroize the pre-shared key in its own copy, and logs normal life (`HANDSHAKE(REKEY_TIMEOUT)`,
//! `CONNECTION_EXPIRED`) as warnings and errors: filter the log target `boringtun`.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use boringtun::{
    noise::{
        Packet, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        rate_limiter::RateLimiter,
    },
    x25519,
};

use crate::{
    COOKIE_REPLY_LEN, Classified, DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened,
    PeerIndex, PresharedKey, PrivateKey, PublicKey, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES, Reject,
    SealError, Session, SessionConfig, TimerAction,
    ip::packet_len,
    timers::{Birth, Content, Due, MAX_JITTER, Timers},
    wire::{Message, TYPE_INITIATION, u32_at, u64_at},
};

/// Sessions that boringtun keeps at a time: the slot is the receiver index modulo this.
const SLOTS: usize = 8;

/// How often the handshake counter is offered a reset. The limiter itself resets once a second by a clock
/// of its own, so asking exactly once a second could miss every other one by a hair.
const RESET_INTERVAL: Duration = Duration::from_millis(250);

/// A WireGuard identity with real cryptography.
pub struct BoringIdentity {
    shared: Arc<Shared>,
    /// For the whole device: verifies mac1, and answers with cookies under load.
    limiter: RateLimiter,
    last_reset: Instant,
}

/// What all sessions of one identity hold in common.
struct Shared {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// boringtun checks the macs again inside each session; this one never calls that a load.
    unlimited: Arc<RateLimiter>,
}

impl BoringIdentity {
    /// Handshake messages per second above which we are "under load" (§5.3). An answer costs some
    /// 0.25 ms of CPU time, so this keeps unproven handshakes below a tenth of one core.
    pub const HANDSHAKES_PER_SECOND: u64 = 400;

    /// Builds the identity with another limit of handshake messages per second. Past it, senders must
    /// first prove with a cookie that they receive at their address.
    pub fn with_handshake_limit(private_key: &PrivateKey, per_second: u64, now: Instant) -> Self {
        let private = private_key.to_x25519();
        let public = x25519::PublicKey::from(&private);
        let unlimited = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self {
            limiter: RateLimiter::new(&public, per_second),
            shared: Arc::new(Shared { private, public, unlimited }),
            last_reset: now,
        }
    }

    /// mac1 and, under load, mac2 of a handshake message. `Some` is the cookie reply to answer with.
    fn check_macs(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Option<Classified>, Reject> {
        if now.saturating_duration_since(self.last_reset) >= RESET_INTERVAL {
            self.limiter.reset_count();
            self.last_reset = now;
        }
        let mut reply = [0; COOKIE_REPLY_LEN];
        match self.limiter.verify_packet(Some(from.ip()), datagram, &mut reply) {
            Ok(_) => Ok(None),
            Err(TunnResult::WriteToNetwork(_)) => Ok(Some(Classified::CookieReply(reply))),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => Err(Reject::BadMac),
            Err(TunnResult::Err(WireGuardError::UnderLoad)) => Err(Reject::UnderLoad),
            Err(_) => Err(Reject::Malformed),
        }
    }

    /// Costs a Diffie–Hellman: only for datagrams whose macs hold.
    fn initiator(&self, datagram: &[u8]) -> Result<PublicKey, Reject> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(datagram) else {
            return Err(Reject::Malformed);
        };
        parse_handshake_anon(&self.shared.private, &self.shared.public, &initiation)
            .map(|half| PublicKey::from_bytes(half.peer_static_public))
            .map_err(|_| Reject::BadHandshake)
    }
}

impl Identity for BoringIdentity {
    type Session = BoringSession;

    fn new(private_key: &PrivateKey, now: Instant) -> Self {
        Self::with_handshake_limit(private_key, Self::HANDSHAKES_PER_SECOND, now)
    }

    fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.shared.public.to_bytes())
    }

    #[inline]
    fn classify(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Result<Classified, Reject> {
        match Message::parse(datagram)? {
            Message::Data { receiver, .. } | Message::CookieReply { receiver } => {
                Ok(Classified::ForPeer(PeerIndex::from_receiver(receiver)))
            }
            Message::Response { receiver, .. } => {
                let reply = self.check_macs(datagram, from, now)?;
                Ok(reply.unwrap_or_else(|| Classified::ForPeer(PeerIndex::from_receiver(receiver))))
            }
            Message::Initiation { .. } => match self.check_macs(datagram, from, now)? {
                Some(reply) => Ok(reply),
                None => self.initiator(datagram).map(Classified::Initiation),
            },
        }
    }

    fn session(&mut self, config: SessionConfig, now: Instant) -> BoringSession {
        BoringSession {
            timers: Timers::new(config.keepalive, now),
            noise: Noise {
                shared: Arc::clone(&self.shared),
                peer: config.peer,
                preshared_key: config.preshared_key,
                index: config.index,
                tunn: None,
            },
            slots: [None; SLOTS],
            current: 0,
            sent: 0,
            pending: None,
        }
    }
}

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

/// boringtun's state for one peer, started when first needed.
struct Noise {
    shared: Arc<Shared>,
    peer: PublicKey,
    preshared_key: Option<PresharedKey>,
    index: PeerIndex,
    tunn: Option<Box<Tunn>>,
}

#[derive(Clone, Copy)]
struct Slot {
    index: u32,
    birth: Birth,
}

struct Pending {
    len: usize,
    message: [u8; MAX_CONTROL_LEN],
}

impl Noise {
    fn start(&mut self) -> &mut Tunn {
        self.tunn.get_or_insert_with(|| {
            Box::new(Tunn::new(
                self.shared.private.clone(),
                x25519::PublicKey::from(*self.peer.as_bytes()),
                self.preshared_key.as_ref().map(|key| *key.as_bytes()),
                None, // Persistent keepalives are ours.
                self.index.get(),
                Some(Arc::clone(&self.shared.unlimited)),
            ))
        })
    }
}

impl BoringSession {
    /// Brings boringtun's clock up to date. Reads it: for handshakes only, never per packet.
    fn refresh(&mut self, now: Instant) {
        let mut message = [0; MAX_CONTROL_LEN];
        match self.noise.start().update_timers(&mut message) {
            TunnResult::WriteToNetwork(written) => {
                let len = written.len();
                self.keep(Pending { len, message }, now);
            }
            // Its own give-up came before ours, for it may count from an older event: our next try
            // starts it afresh. Without a try of ours, nobody waits for it.
            TunnResult::Err(_) => self.timers.retry_at_once(now),
            _ => {}
        }
        self.follow();
    }

    /// boringtun may have dropped the session that we would seal with.
    fn follow(&mut self) {
        let live = self.noise.tunn.as_ref().is_some_and(|tunn| tunn.time_since_last_handshake().is_some());
        if !live {
            self.timers.session_lost();
        }
    }

    fn keep(&mut self, pending: Pending, now: Instant) {
        if pending.is_initiation() {
            self.timers.initiation_sent(pending.jitter(), now);
        } else {
            self.timers.sent(Content::Keepalive, now);
        }
        self.pending = Some(pending);
        self.timers.arm(now);
    }

    /// Writes an initiation, whatever the timers say.
    fn write_initiation(&mut self, out: &mut [u8; INITIATION_LEN], now: Instant) -> Option<usize> {
        self.refresh(now);
        let own = self.pending.take_if(|pending| pending.is_initiation()); // boringtun was quicker
        let initiation = match own {
            Some(pending) => pending,
            None => {
                let mut message = [0; MAX_CONTROL_LEN];
                match self.noise.start().format_handshake_initiation(&mut message, true) {
                    TunnResult::WriteToNetwork(written) => Pending { len: written.len(), message },
                    // Not while the buffer is long enough; but never try again without a pause.
                    _ => {
                        self.timers.initiation_sent(MAX_JITTER, now);
                        return None;
                    }
                }
            }
        };
        self.timers.initiation_sent(initiation.jitter(), now);
        *out = initiation.message;
        Some(initiation.len)
    }

    fn open_initiation(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Opened, Reject> {
        self.refresh(now);
        match self.noise.start().decapsulate(Some(from.ip()), datagram, out) {
            TunnResult::WriteToNetwork(response) => {
                let len = response.len();
                self.store(u32_at(response, 4), Birth { at: now, initiator: false });
                self.timers.received(Content::Handshake, now);
                self.timers.sent(Content::Handshake, now);
                Ok(Opened::Reply { len, handshake: true })
            }
            TunnResult::Err(error) => Err(handshake_reject(&error)),
            _ => Err(Reject::BadHandshake),
        }
    }

    /// No `refresh` here: if boringtun gave the handshake up just now, it would refuse the answer to it.
    fn open_response(
        &mut self,
        datagram: &[u8],
        receiver: u32,
        out: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Opened, Reject> {
        let tunn = self.noise.tunn.as_mut().ok_or(Reject::NoSession)?;
        match tunn.decapsulate(Some(from.ip()), datagram, out) {
            TunnResult::WriteToNetwork(confirmation) => {
                let len = confirmation.len();
                let birth = Birth { at: now, initiator: true };
                self.store(receiver, birth);
                self.confirm(receiver, birth);
                self.sent = 1; // the confirmation
                self.timers.received(Content::Handshake, now);
                self.timers.sent(Content::Keepalive, now);
                Ok(Opened::Reply { len, handshake: true })
            }
            TunnResult::Err(error) => Err(handshake_reject(&error)),
            _ => Err(Reject::BadHandshake),
        }
    }

    fn open_cookie_reply(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        from: SocketAddr,
    ) -> Result<Opened, Reject> {
        let tunn = self.noise.tunn.as_mut().ok_or(Reject::NoSession)?;
        match tunn.decapsulate(Some(from.ip()), datagram, out) {
            TunnResult::Done => Ok(Opened::CookieStored),
            TunnResult::Err(WireGuardError::InvalidAeadTag) => Err(Reject::BadTag),
            _ => Err(Reject::NoSession),
        }
    }

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
        let tunn = self.noise.tunn.as_mut().ok_or(Reject::NoSession)?;
        let opened = match tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Ok(Opened::Keepalive),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                packet_len(packet).map(|len| Opened::Packet { len }).ok_or(Reject::NotIp)
            }
            // It authenticated, and yet is no IP packet.
            TunnResult::Err(WireGuardError::InvalidPacket) => Err(Reject::NotIp),
            TunnResult::Err(error) => return Err(data_reject(&error)),
            TunnResult::WriteToNetwork(_) => return Err(Reject::NoSession),
        };
        if receiver != self.current || !self.is_live() {
            self.heard_on(receiver, slot.birth);
        }
        let content =
            if let Ok(Opened::Packet { .. }) = opened { Content::Packet } else { Content::Keepalive };
        self.timers.received(content, now);
        opened
    }

    /// A message came on a session other than the one that seals: it confirms the session if that one is
    /// newer. boringtun follows the same rule.
    #[cold]
    fn heard_on(&mut self, receiver: u32, birth: Birth) {
        if self.timers.current().is_none_or(|current| current.at <= birth.at) {
            self.confirm(receiver, birth);
        }
    }

    /// Erases what a session or a handshake left behind.
    fn forget(&mut self) {
        self.slots = [None; SLOTS];
        self.timers.session_lost();
        if let Some(tunn) = &mut self.noise.tunn {
            // boringtun drops what has expired by its clock. A handshake it would rather go on with is
            // not sent: we have told the caller that it was given up.
            let _ = tunn.update_timers(&mut [0; MAX_CONTROL_LEN]);
        }
    }

    fn store(&mut self, index: u32, birth: Birth) {
        self.slots[slot_of(index)] = Some(Slot { index, birth });
        self.timers.keys_agreed(birth.at);
    }

    fn confirm(&mut self, index: u32, birth: Birth) {
        self.current = index;
        self.sent = 0;
        self.timers.session_confirmed(birth);
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
        let tunn = self.noise.tunn.as_mut().ok_or(SealError::NoSession)?;
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

    fn set_keepalive(&mut self, seconds: u16, now: Instant) {
        self.timers.set_keepalive(seconds, now);
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

impl fmt::Debug for BoringIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoringIdentity").field("public_key", &self.public_key()).finish_non_exhaustive()
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

impl Pending {
    fn is_initiation(&self) -> bool {
        u32_at(&self.message, 0) == TYPE_INITIATION
    }

    /// A random pause (§6.4) from the message's ephemeral key, which is as random as anything.
    fn jitter(&self) -> Duration {
        let random = u32_at(&self.message, 8) % (MAX_JITTER.as_millis() as u32 + 1);
        Duration::from_millis(random.into())
    }
}

const fn slot_of(index: u32) -> usize {
    index as usize % SLOTS
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        a: BoringSession,
        b: BoringSession,
        now: Instant,
        from: SocketAddr,
    }

    impl Pair {
        fn new() -> Self {
            #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
            let now = Instant::now();
            let keys = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
            let session = |own: usize| {
                let peer = keys[1 - own].public_key();
                let config = SessionConfig { peer, preshared_key: None, keepalive: 0, index: PeerIndex::MAX };
                BoringIdentity::new(&keys[own], now).session(config, now)
            };
            Self { a: session(0), b: session(1), now, from: "192.0.2.1:1".parse().unwrap() }
        }

        fn handshake(mut self) -> Self {
            let mut initiation = [0; INITIATION_LEN];
            self.a.initiate(&mut initiation, self.now).unwrap();
            self.answer(&initiation);
            self
        }

        fn answer(&mut self, initiation: &[u8]) {
            let (mut response, mut confirmation) = ([0; MAX_CONTROL_LEN], [0; MAX_CONTROL_LEN]);
            self.b.open(initiation, &mut response, self.from, self.now).unwrap();
            self.a.open(&response[..92], &mut confirmation, self.from, self.now).unwrap();
            self.b.open(&confirmation[..32], &mut response, self.from, self.now).unwrap();
        }
    }

    #[test]
    fn a_silent_peer_costs_no_boringtun_state() {
        let mut pair = Pair::new();
        assert!(pair.a.noise.tunn.is_none());
        assert_eq!(pair.a.seal(&[], &mut [0; DATA_OVERHEAD], pair.now), Err(SealError::NoSession));
        assert_eq!(pair.a.handle_timeout(&mut [0; MAX_CONTROL_LEN], pair.now), TimerAction::Idle);
        assert!(pair.a.noise.tunn.is_none());
        assert!(pair.handshake().a.noise.tunn.is_some());
    }

    #[test]
    fn what_boringtun_wrote_by_itself_is_handed_out_at_once() {
        let mut pair = Pair::new().handshake();
        // boringtun's own timer cannot fire without sleeping; this is what its doing so amounts to.
        let mut message = [0; MAX_CONTROL_LEN];
        let TunnResult::WriteToNetwork(written) =
            pair.a.noise.start().format_handshake_initiation(&mut message, true)
        else {
            panic!("no initiation");
        };
        let len = written.len();
        pair.a.keep(Pending { len, message }, pair.now);

        assert!(pair.a.is_initiating());
        assert_eq!(pair.a.poll_timeout(), Some(pair.now));
        assert_eq!(pair.a.initiate(&mut [0; INITIATION_LEN], pair.now), None, "not a second one");
        let mut out = [0; MAX_CONTROL_LEN];
        let action = pair.a.handle_timeout(&mut out, pair.now);
        assert_eq!(action, TimerAction::Send { len: INITIATION_LEN, initiation: true });
        assert_eq!(pair.a.handle_timeout(&mut [0; MAX_CONTROL_LEN], pair.now), TimerAction::Idle);
        assert!(pair.a.poll_timeout() > Some(pair.now));
        pair.answer(&out);
        assert!(!pair.a.is_initiating());
    }

    #[test]
    fn a_handshake_that_boringtun_gave_up_early_is_tried_again_at_once() {
        let mut pair = Pair::new();
        pair.a.initiate(&mut [0; INITIATION_LEN], pair.now).unwrap();
        pair.a.timers.retry_at_once(pair.now);
        let mut out = [0; MAX_CONTROL_LEN];
        let action = pair.a.handle_timeout(&mut out, pair.now);
        assert_eq!(action, TimerAction::Send { len: INITIATION_LEN, initiation: true });
        pair.answer(&out);
    }

    #[test]
    fn a_session_that_boringtun_dropped_is_not_sealed_with() {
        let mut pair = Pair::new().handshake();
        let shared = Arc::clone(&pair.a.noise.shared);
        // As its own timers would: it forgets all sessions.
        pair.a.noise.start().set_static_private(shared.private.clone(), shared.public, None);
        let mut out = [0; 64 + DATA_OVERHEAD];
        assert_eq!(pair.a.seal(&[0x45; 64], &mut out, pair.now), Err(SealError::NoSession));
        assert!(!pair.a.is_live());
    }

    #[test]
    fn the_counter_in_the_message_is_what_counts() {
        let mut pair = Pair::new().handshake();
        let mut out = [0; DATA_OVERHEAD];
        pair.a.seal(&[], &mut out, pair.now).unwrap();
        assert_eq!(pair.a.sent, 2, "the confirmation and this one");
        pair.a.sent = REKEY_AFTER_MESSAGES;
        assert!(pair.a.wants_rekey());
        pair.a.sent = REJECT_AFTER_MESSAGES;
        assert_eq!(pair.a.seal(&[], &mut out, pair.now), Err(SealError::Exhausted));
        pair.now += Duration::from_secs(6);
        let mut pair = pair.handshake();
        assert!(!pair.a.wants_rekey());
        assert_eq!(pair.a.seal(&[], &mut out, pair.now), Ok(()));

        pair.b.sent = REJECT_AFTER_MESSAGES;
        assert_eq!(pair.b.seal(&[], &mut out, pair.now), Err(SealError::Exhausted));
        pair.now += Duration::from_secs(6);
        let now = pair.now;
        assert_eq!(pair.handshake().b.seal(&[], &mut out, now), Ok(()), "the responder as well");
    }

    #[test]
    fn debug_prints_no_secret() {
        let pair = Pair::new();
        let text = format!("{:?}", pair.a);
        assert!(text.contains("PublicKey(") && !text.contains("preshared"), "{text}");
    }
}
