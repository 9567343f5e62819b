//! The backend for real use: boringtun's cryptography behind our traits. Nothing else names boringtun.
//!
//! boringtun keeps the keys, the handshakes and the replay windows. Around it, this adapter
//! * checks every length and counter first, since boringtun panics on some that come from the network;
//! * runs the timers of [§6](https://www.wireguard.com/papers/wireguard.pdf) by the caller's `now`. The
//!   ones inside boringtun read the real clock and take most of their stamps from the last
//!   `update_timers`; that call is made before each handshake we begin or answer, so its stamps are right
//!   where it compares them, and never per packet, so sealing and opening read no clock. What it wants to
//!   send of its own accord is kept for [`Session::handle_timeout`](crate::Session::handle_timeout), never lost;
//! * never lets boringtun queue a packet, which it would do when asked to encrypt without a session;
//! * counts handshakes once per device, where boringtun would count per peer, or twice;
//! * starts boringtun's state for a peer (some 10 KiB and a Diffie–Hellman) with the first handshake, so
//!   that thousands of configured and silent peers cost little;
//! * changes the pre-shared key of a peer in use, which boringtun cannot: handshakes begin anew with a new state of
//!   boringtun's, while the one before goes on with its sessions until they end, and with telling which initiations
//!   were seen until the new one has seen a newer one;
//! * begins a new state when the wall clock was set forward, for boringtun takes it once per state, and a peer that has
//!   seen later timestamps (a router without a battery had the right time before it was restarted) refuses the others;
//! * keeps sessions that were never confirmed from taking the place of those in use, which they do in boringtun after
//!   eight handshakes.
//!
//! What it cannot mend: a pre-shared key that changes after the wall clock was set back makes our initiations look old
//! to the peer until the clock has caught up (boringtun cannot be told a time);
//! boringtun accepts an initiation with no minimum interval since the last one, does
//! not zeroize the pre-shared key in its own copy (a changed one stays there as long as its state does),
//! and logs normal life (`HANDSHAKE(REKEY_TIMEOUT)`,
//! `CONNECTION_EXPIRED`) as warnings and errors: filter the log target `boringtun`.

mod generation;
mod noise;
mod session;
mod stamps;

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

pub use self::session::BoringSession;
use crate::{
    COOKIE_REPLY_LEN, Classified, Identity, PeerIndex, PrivateKey, PublicKey, Reject, SessionConfig,
    wire::Message,
};

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

    fn session(&mut self, config: SessionConfig, _now: Instant) -> BoringSession {
        BoringSession::new(Arc::clone(&self.shared), config)
    }
}

impl fmt::Debug for BoringIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoringIdentity").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}
