//! boringtun's state for one peer.

use std::sync::Arc;

use boringtun::{noise::Tunn, x25519};

use super::Shared;
use crate::{PeerIndex, PresharedKey, PublicKey, SessionConfig};

/// boringtun's state for one peer, started when first needed.
pub(super) struct Noise {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: PublicKey,
    pub(super) index: PeerIndex,
    preshared_key: Option<PresharedKey>,
    tunn: Option<Box<Tunn>>,
}

impl Noise {
    pub(super) fn new(shared: Arc<Shared>, config: SessionConfig) -> Self {
        let SessionConfig { peer, preshared_key, index, .. } = config;
        Self { shared, peer, index, preshared_key, tunn: None }
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

    /// True when boringtun has a session to seal with.
    pub(super) fn is_live(&self) -> bool {
        self.tunn.as_ref().is_some_and(|tunn| tunn.time_since_last_handshake().is_some())
    }
}
