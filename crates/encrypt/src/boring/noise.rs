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
        let SessionConfig { peer, preshared_key, index } = config;
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
                None, // Whoever drives the session sends persistent keepalives.
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
        // Next to an older witness, `before` has accepted no initiation.
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        INITIATION_LEN, Identity, MAX_CONTROL_LEN, PrivateKey, boring::BoringIdentity, wire::TYPE_INITIATION,
    };

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn pair() -> [Noise; 2] {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
        let now = Instant::now();
        let keys = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
        [0, 1].map(|own| {
            let peer = keys[1 - own].public_key();
            let config = SessionConfig { peer, preshared_key: None, index: PeerIndex::MAX };
            Noise::new(BoringIdentity::new(&keys[own], now).shared, config)
        })
    }

    fn handshake(initiator: &mut Noise, responder: &mut Noise) {
        let (mut initiation, mut response) = ([0; INITIATION_LEN], [0; MAX_CONTROL_LEN]);
        initiator.start().format_handshake_initiation(&mut initiation, true);
        assert_eq!(initiation[..4], TYPE_INITIATION.to_le_bytes());
        let response = responder.read_initiation(&initiation, &mut response, FROM).expect("a response");
        initiator.read_response(response, &mut [0; MAX_CONTROL_LEN], FROM).expect("a confirmation");
    }

    #[test]
    fn a_witness_holds_no_session_keys_and_goes_with_the_peers_next_initiation() {
        let [mut a, mut b] = pair();
        handshake(&mut a, &mut b);
        assert!(a.is_live() && a.witness.is_none());
        for noise in [&mut a, &mut b] {
            noise.set_preshared_key(Some(PresharedKey::from_bytes([1; 32])));
            assert!(!noise.is_live());
            let witness = noise.witness.as_ref().expect("the state from before");
            assert!(witness.time_since_last_handshake().is_none(), "its sessions are erased");
        }
        handshake(&mut a, &mut b);
        assert!(b.witness.is_none() && a.witness.is_some(), "b has heard from its peer, a has not");
        handshake(&mut b, &mut a);
        assert!(a.witness.is_none());
    }
}
