//! The native handshakes and keys behind [`Identity`], as tunnels drive them today: on one thread, packet by packet.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Addressed, Environment, IndexTable, LocalIdentity, NativeSession};
use crate::{
    COOKIE_REPLY_LEN, Classified, Identity, Message, PeerIndex, PrivateKey, PublicKey, Reject, SessionConfig,
};

/// A WireGuard identity with the native cryptography.
pub struct NativeIdentity {
    shared: Arc<Shared>,
    public: PublicKey,
    load: Load,
}

/// What the sessions of one identity have in common. The lock is uncontended as long as they stay on one thread.
pub(super) struct Shared(Mutex<Inner>);

pub(super) struct Inner {
    pub(super) local: LocalIdentity,
    /// Every receiver index of ours, and whose it is.
    pub(super) indices: IndexTable<PeerIndex>,
    pub(super) environment: Environment,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // What panicked is gone, and all that is under the lock is whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NativeIdentity {
    /// Handshake messages per second above which we are "under load" (§5.3): the same as with boringtun.
    pub const HANDSHAKES_PER_SECOND: u64 = 400;

    /// Room for six indices of each peer that a tunnel can have.
    const INDICES: usize = 6 * (PeerIndex::MAX.get() as usize + 1);

    /// An identity with another limit of handshake messages per second, and with its own wall clock and random numbers.
    pub fn with(private_key: &PrivateKey, per_second: u64, environment: Environment, now: Instant) -> Self {
        let local = LocalIdentity::new(private_key);
        let public = local.public_key();
        let inner = Inner { local, indices: IndexTable::new(Self::INDICES), environment };
        let load = Load { limit: per_second, second: now, count: 0 };
        Self { shared: Arc::new(Shared(Mutex::new(inner))), public, load }
    }
}

impl Identity for NativeIdentity {
    type Session = NativeSession;

    fn new(private_key: &PrivateKey, now: Instant) -> Self {
        Self::with(private_key, Self::HANDSHAKES_PER_SECOND, Environment::system(), now)
    }

    fn public_key(&self) -> PublicKey {
        self.public
    }

    #[inline]
    fn classify(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Result<Classified, Reject> {
        let mut inner = self.shared.lock();
        let Inner { local, indices, environment } = &mut *inner;
        let peer_of =
            |receiver| indices.get(receiver).copied().map(Classified::ForPeer).ok_or(Reject::NoSession);
        match Message::parse(datagram)? {
            Message::Data { receiver, .. } | Message::CookieReply { receiver } => return peer_of(receiver),
            Message::Initiation { .. } | Message::Response { .. } => {}
        }
        let addressed = local.verify_mac1(datagram)?;
        let rng = &mut *environment.rng;
        if self.load.is_heavy(now) && !local.proves_address(addressed, from, now, rng) {
            let mut reply = [0; COOKIE_REPLY_LEN];
            local.write_cookie_reply(addressed, from, now, rng, &mut reply);
            return Ok(Classified::CookieReply(reply));
        }
        match addressed {
            Addressed::Initiation(initiation) => local.claimed_key(&initiation).map(Classified::Initiation),
            Addressed::Response(response) => peer_of(response.receiver()),
        }
    }

    fn session(&mut self, config: SessionConfig, _now: Instant) -> NativeSession {
        NativeSession::new(Arc::clone(&self.shared), config)
    }
}

impl fmt::Debug for NativeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeIdentity").field("public_key", &self.public).finish_non_exhaustive()
    }
}

/// Handshake messages whose mac1 held, in the second that runs.
struct Load {
    limit: u64,
    second: Instant,
    count: u64,
}

impl Load {
    /// Counts one. True if there were too many.
    fn is_heavy(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.count) = (now, 0);
        }
        self.count += 1;
        self.count > self.limit
    }
}
