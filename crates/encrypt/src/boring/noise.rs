//! boringtun's state for one peer.

use std::{net::IpAddr, sync::Arc};

use boringtun::{
    noise::{Tunn, TunnResult, errors::WireGuardError},
    x25519,
};

use super::Shared;
use crate::{PeerIndex, PresharedKey, PublicKey, Reject, SessionConfig};

/// boringtun's state for one peer, started when first needed.
pub(super) struct Noise {
    shared: Arc<Shared>,
    pub(super) peer: PublicKey,
    pub(super) index: PeerIndex,
    preshared_key: Option<PresharedKey>,
    tunn: Option<Box<Tunn>>,
    /// The state from before the pre-shared key changed. It alone knows the newest timestamp that the peer's
    /// initiations carried (§5.1): boringtun neither tells it nor takes one over. It vets the peer's next
    /// initiation and goes. While it is here, `tunn` has accepted none.
    witness: Option<Box<Tunn>>,
}

impl Noise {
    pub(super) fn new(shared: Arc<Shared>, config: SessionConfig) -> Self {
        let SessionConfig { peer, preshared_key, index, .. } = config;
        Self { shared, peer, index, preshared_key, tunn: None, witness: None }
    }

    /// `None` while nothing has begun with this peer.
    #[inline]
    pub(super) fn started(&mut self) -> Option<&mut Tunn> {
        self.tunn.as_deref_mut()
    }

    pub(super) fn start(&mut self) -> &mut Tunn {
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

    /// boringtun has no setter for the key, so its next state is a new one. All sessions and handshakes end;
    /// what the peer has already sent stays known.
    pub(super) fn set_preshared_key(&mut self, key: Option<PresharedKey>) {
        self.erase_sessions();
        self.preshared_key = key;
        let before = self.tunn.take();
        // An older witness has seen every initiation that `before` would know.
        self.witness = self.witness.take().or(before);
    }

    /// Erases the keys of all sessions, and nothing else.
    pub(super) fn erase_sessions(&mut self) {
        let Shared { private, public, unlimited } = &*self.shared;
        if let Some(tunn) = &mut self.tunn {
            // The key stays what it is; boringtun ends all sessions when it is set.
            tunn.set_static_private(private.clone(), *public, Some(Arc::clone(unlimited)));
        }
    }

    /// Reads an initiation; gives the response, written into `out`.
    ///
    /// # Errors
    /// It does not authenticate, or is no newer than one accepted before, with whatever pre-shared key: no
    /// initiation depends on that key (§5.4.2).
    pub(super) fn read_initiation<'a>(
        &mut self,
        initiation: &[u8],
        out: &'a mut [u8],
        from: IpAddr,
    ) -> Result<&'a [u8], Reject> {
        if let Some(witness) = &mut self.witness {
            // Its response is for the old key, and is written over.
            reply(witness.decapsulate(Some(from), initiation, out))?;
        }
        let response = reply(self.start().decapsulate(Some(from), initiation, out))?;
        self.witness = None; // `tunn` knows a newer timestamp now
        Ok(response)
    }

    /// Reads the response to our initiation; gives the confirmation, written into `out`.
    pub(super) fn read_response<'a>(
        &mut self,
        response: &[u8],
        out: &'a mut [u8],
        from: IpAddr,
    ) -> Result<&'a [u8], Reject> {
        reply(self.started().ok_or(Reject::NoSession)?.decapsulate(Some(from), response, out))
    }

    /// True when boringtun has a session to seal with.
    pub(super) fn is_live(&self) -> bool {
        self.tunn.as_ref().is_some_and(|tunn| tunn.time_since_last_handshake().is_some())
    }
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
