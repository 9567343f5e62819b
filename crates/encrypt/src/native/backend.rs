//! The native handshakes and keys behind [`Identity`].

use std::{fmt, net::SocketAddr, time::Instant};

use super::{Addressed, Claim, Environment, IndexTable, LocalIdentity, NativeSession};
use crate::{COOKIE_REPLY_LEN, Identity, PeerIndex, PrivateKey, PublicKey, Reject, SessionConfig};

/// A WireGuard identity with the native cryptography.
pub struct NativeIdentity {
    pub(super) local: LocalIdentity,
    /// Every receiver index of ours, and whose it is.
    pub(super) indices: IndexTable<PeerIndex>,
    pub(super) environment: Environment,
}

impl NativeIdentity {
    /// Room for six indices of each peer that a tunnel can have.
    const INDICES: usize = 6 * (PeerIndex::MAX.get() as usize + 1);

    /// An identity with its own wall clock and random numbers.
    pub fn with(private_key: &PrivateKey, environment: Environment) -> Self {
        Self { local: LocalIdentity::new(private_key), indices: IndexTable::new(Self::INDICES), environment }
    }
}

impl Identity for NativeIdentity {
    type Session = NativeSession;
    type Claim = Claim;

    fn new(private_key: &PrivateKey, _now: Instant) -> Self {
        Self::with(private_key, Environment::system())
    }

    fn public_key(&self) -> PublicKey {
        self.local.public_key()
    }

    #[inline]
    fn peer_of(&self, receiver: u32) -> Option<PeerIndex> {
        self.indices.get(receiver).copied()
    }

    fn verify_mac1(&self, datagram: &[u8]) -> Result<(), Reject> {
        self.local.verify_mac1(datagram).map(|_| ())
    }

    fn check_cookie(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Option<[u8; COOKIE_REPLY_LEN]>, Reject> {
        let message = Addressed::parse(datagram)?;
        let Self { local, environment, .. } = self;
        let rng = &mut *environment.rng;
        if local.proves_address(message, from, now, rng) {
            return Ok(None);
        }
        let mut reply = [0; COOKIE_REPLY_LEN];
        local.write_cookie_reply(message, from, now, rng, &mut reply);
        Ok(Some(reply))
    }

    fn claim(&self, datagram: &[u8]) -> Result<(PublicKey, Claim), Reject> {
        let Addressed::Initiation(initiation) = Addressed::parse(datagram)? else {
            return Err(Reject::Malformed);
        };
        let claim = self.local.claim(&initiation)?;
        Ok((claim.public_key(), claim))
    }

    fn session(&mut self, config: SessionConfig, _now: Instant) -> NativeSession {
        NativeSession::new(config)
    }
}

impl fmt::Debug for NativeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeIdentity").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}
