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
//! * leaves it to the caller what a load is, where boringtun would count per peer, or twice: of its rate limiters one calls
//!   nothing a load, and another everything;
//! * starts boringtun's state for a peer (some 10 KiB and a Diffie–Hellman) with the first handshake, so
//!   that thousands of configured and silent peers cost little;
//! * changes the pre-shared key of a peer in use, which boringtun cannot: handshakes begin anew with a new state of
//!   boringtun's, while the one before goes on with its sessions until they end, and with telling which initiations
//!   were seen until the new one has seen a newer one;
//! * begins a new state when the wall clock was set forward, for boringtun takes it once per state, and a peer that has
//!   seen later timestamps (a router without a battery had the right time before it was restarted) refuses the others;
//! * keeps sessions that were never confirmed from taking the place of those in use, which they do in boringtun after
//!   eight handshakes;
//! * refuses keys of low order, whose shared secrets everybody knows.
//!
//! What it cannot mend: a pre-shared key that changes after the wall clock was set back makes our initiations look old
//! to the peer until the clock has caught up (boringtun cannot be told a time);
//! boringtun accepts an initiation with no minimum interval since the last one (whoever drives the session asks before), does
//! not zeroize the pre-shared key in its own copy (a changed one stays there as long as its state does),
//! and logs normal life (`HANDSHAKE(REKEY_TIMEOUT)`,
//! `CONNECTION_EXPIRED`) as warnings and errors: filter the log target `boringtun`.

mod generation;
mod noise;
mod session;
mod stamps;

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use boringtun::{
    noise::{
        Packet, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        rate_limiter::RateLimiter,
    },
    x25519,
};

pub use self::session::BoringSession;
use crate::{
    COOKIE_REPLY_LEN, Identity, PeerIndex, PrivateKey, PublicKey, Reject, SessionConfig, wire::Message,
};

/// A WireGuard identity with real cryptography.
pub struct BoringIdentity {
    shared: Arc<Shared>,
    /// For this one everything is a load: it tells whether mac2 holds, and makes cookie replies.
    loaded: RateLimiter,
    /// Where boringtun, which cannot do so in place, opens messages.
    scratch: Vec<u8>,
}

/// What all sessions of one identity hold in common.
struct Shared {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// boringtun checks the macs again inside each session; this one never calls that a load.
    unlimited: Arc<RateLimiter>,
}

impl BoringIdentity {
    /// Room for what is in a datagram of `len` bytes. boringtun panics on a short one, before it authenticates anything.
    #[inline]
    fn scratch(&mut self, len: usize) -> &mut [u8] {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        &mut self.scratch[..len]
    }
}

impl Identity for BoringIdentity {
    type Session = BoringSession;
    /// boringtun keeps nothing of what it computes for a stranger.
    type Claim = ();

    fn new(private_key: &PrivateKey, _now: Instant) -> Self {
        let private = private_key.to_x25519();
        let public = x25519::PublicKey::from(&private);
        let unlimited = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self {
            loaded: RateLimiter::new(&public, 0),
            shared: Arc::new(Shared { private, public, unlimited }),
            scratch: Vec::new(),
        }
    }

    fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.shared.public.to_bytes())
    }

    #[inline]
    fn peer_of(&self, receiver: u32) -> Option<PeerIndex> {
        Some(PeerIndex::from_receiver(receiver))
    }

    fn verify_mac1(&self, datagram: &[u8]) -> Result<(), Reject> {
        if !Message::parse(datagram)?.has_macs() {
            return Err(Reject::Malformed);
        }
        match self.shared.unlimited.verify_packet(None, datagram, &mut []) {
            Ok(_) => Ok(()),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => Err(Reject::BadMac),
            Err(_) => Err(Reject::Malformed),
        }
    }

    /// boringtun binds cookies to the address without the port.
    fn check_cookie(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        _now: Instant,
    ) -> Result<Option<[u8; COOKIE_REPLY_LEN]>, Reject> {
        if !Message::parse(datagram)?.has_macs() {
            return Err(Reject::Malformed);
        }
        let mut reply = [0; COOKIE_REPLY_LEN];
        match self.loaded.verify_packet(Some(from.ip()), datagram, &mut reply) {
            Ok(_) => Ok(None),
            Err(TunnResult::WriteToNetwork(_)) => Ok(Some(reply)),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => Err(Reject::BadMac),
            Err(_) => Err(Reject::Malformed),
        }
    }

    fn claim(&self, datagram: &[u8]) -> Result<(PublicKey, ()), Reject> {
        Message::parse(datagram)?; // boringtun's own may panic
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(datagram) else {
            return Err(Reject::Malformed);
        };
        parse_handshake_anon(&self.shared.private, &self.shared.public, &initiation)
            .map(|half| (PublicKey::from_bytes(half.peer_static_public), ()))
            .map_err(|_| Reject::BadHandshake)
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
