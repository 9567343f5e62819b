//! Our private key: which handshake messages are for us, and our answers to initiations.

use std::{fmt, net::SocketAddr, time::Instant};

use rand_core::CryptoRngCore;
use x25519_dalek::StaticSecret;

use super::{
    PeerHandshake, initiation,
    macs::{CookieMaker, ReceiverKeys, mac1_of, mac2_holds},
    noise::{Invalid, Transcript, diffie_hellman, public_key},
    response,
    tai64n::Tai64n,
};
use crate::{
    COOKIE_REPLY_LEN, INITIATION_LEN, Message, PrivateKey, PublicKey, RESPONSE_LEN, Reject,
    transport::KeyPair,
    wipe::{self, with_clean_stack},
    wire::{TYPE_RESPONSE, u32_at},
};

/// A private key, and what goes with it. One per interface; replaced as a whole when the key changes.
pub struct LocalIdentity {
    /// Boxed, so that it stays in one place, where it is wiped.
    pub(super) private: Box<StaticSecret>,
    public: PublicKey,
    receiver: ReceiverKeys,
    cookies: CookieMaker,
}

/// A handshake message whose mac1 holds: its sender knows our public key. That is all that is known.
#[derive(Clone, Copy, Debug)]
pub enum Addressed<'a> {
    /// For [`LocalIdentity::respond`].
    Initiation(Initiation<'a>),
    /// For [`PeerHandshake::read_response`] of the peer that its receiver index names.
    Response(Response<'a>),
}

/// An initiation whose mac1 holds.
#[derive(Clone, Copy, Debug)]
pub struct Initiation<'a>(&'a [u8; INITIATION_LEN]);

/// A response whose mac1 holds.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a>(pub(super) &'a [u8; RESPONSE_LEN]);

/// An initiation of which the first half is read: whom it claims to be from. All that the second half needs is in here.
pub struct Claim(Box<FirstHalf>);

/// Boxed where it is kept, so that its secret stays in one place, where it is wiped.
struct FirstHalf {
    /// After es.
    transcript: Transcript,
    ephemeral: PublicKey,
    claimed: PublicKey,
    /// Still sealed.
    timestamp: [u8; initiation::TIMESTAMP.end - initiation::TIMESTAMP.start],
    sender: u32,
}

impl Claim {
    /// The public key that the initiation claims to be from.
    pub const fn public_key(&self) -> PublicKey {
        self.0.claimed
    }
}

impl Response<'_> {
    /// The index of the initiation that it answers.
    pub fn receiver(&self) -> u32 {
        u32_at(self.0, response::RECEIVER.start)
    }
}

impl<'a> Addressed<'a> {
    /// For a datagram whose mac1 was verified before; whoever kept it did not keep this with it.
    pub(super) fn parse(datagram: &'a [u8]) -> Result<Self, Reject> {
        match Message::parse(datagram)? {
            Message::Initiation { .. } => {
                Ok(Self::Initiation(Initiation(datagram.try_into().map_err(|_| Reject::Malformed)?)))
            }
            Message::Response { .. } => {
                Ok(Self::Response(Response(datagram.try_into().map_err(|_| Reject::Malformed)?)))
            }
            _ => Err(Reject::Malformed),
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Initiation(Initiation(bytes)) => bytes,
            Self::Response(Response(bytes)) => bytes,
        }
    }
}

impl LocalIdentity {
    /// The identity that belongs to a private key.
    pub fn new(private_key: &PrivateKey) -> Self {
        let (private, public) = with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            let private = Box::new(private_key.to_x25519());
            let public = public_key(&private);
            (private, public)
        });
        Self { private, public, receiver: ReceiverKeys::new(&public), cookies: CookieMaker::new() }
    }

    /// Our public key.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Checks form and mac1 (§5.4.4) of a handshake message. Costs two hashes and no Diffie–Hellman.
    ///
    /// # Errors
    /// [`Reject::Malformed`] if it is no initiation or response, [`Reject::BadMac`] if it is not for us.
    pub fn verify_mac1<'a>(&self, datagram: &'a [u8]) -> Result<Addressed<'a>, Reject> {
        let addressed = Addressed::parse(datagram)?;
        if self.receiver.mac1_holds(datagram) { Ok(addressed) } else { Err(Reject::BadMac) }
    }

    /// True if mac2 proves that the sender receives what is sent to `from`, address and port (§5.4.4): it has our cookie of the
    /// last 120 s.
    pub fn proves_address(
        &mut self,
        message: Addressed<'_>,
        from: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
    ) -> bool {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            mac2_holds(message.bytes(), &self.cookies.cookie(from, now, rng))
        })
    }

    /// Writes the cookie reply (§5.4.7) that lets the sender of `message` prove that it receives at `from`.
    pub fn write_cookie_reply(
        &mut self,
        message: Addressed<'_>,
        from: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; COOKIE_REPLY_LEN],
    ) {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            let cookie = self.cookies.cookie(from, now, rng);
            let message = message.bytes();
            let sender = u32_at(message, initiation::SENDER.start); // at the same place in both
            self.receiver.write_cookie_reply(sender, mac1_of(message), &cookie, rng, out);
        });
    }

    /// Reads whom an initiation claims to be from. Nothing proves it: anybody can claim the key of another. Costs one
    /// Diffie–Hellman, which [`answer`](Self::answer) does not need again.
    ///
    /// # Errors
    /// [`Reject::BadHandshake`]: it does not decrypt.
    pub fn claim(&self, message: &Initiation<'_>) -> Result<Claim, Reject> {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| Ok(Claim(Box::new(self.read_first_half(message)?))))
    }

    fn read_first_half(&self, message: &Initiation<'_>) -> Result<FirstHalf, Invalid> {
        let message = message.0;
        let ephemeral = public_key_at(message, initiation::EPHEMERAL.start);
        let mut transcript = Transcript::new(&self.public);
        transcript.mix_ephemeral(&ephemeral);
        let es = diffie_hellman(&self.private, &ephemeral)?;
        let key = transcript.mix_to_key(es.as_bytes());
        let claimed = PublicKey::from_bytes(transcript.open(&key, &message[initiation::STATIC])?);
        let mut timestamp = [0; initiation::TIMESTAMP.end - initiation::TIMESTAMP.start];
        timestamp.copy_from_slice(&message[initiation::TIMESTAMP]);
        let sender = u32_at(message, initiation::SENDER.start);
        Ok(FirstHalf { transcript, ephemeral, claimed, timestamp, sender })
    }

    /// Reads an initiation and writes the response to it: [`claim`](Self::claim) and [`answer`](Self::answer) in one, for who need
    /// not decide anything in between. Nothing is allocated before the initiation is authentic.
    ///
    /// `find` is asked who has the public key that the initiation claims, after one Diffie–Hellman and before any
    /// other; it gives whatever the caller knows the peer by, and the peer's handshakes.
    ///
    /// # Errors
    /// [`Reject::UnknownPeer`]: `find` knows nobody by this key. Otherwise those of the two.
    pub fn respond<'p, T>(
        &self,
        message: &Initiation<'_>,
        find: impl FnOnce(&PublicKey) -> Option<(T, &'p mut PeerHandshake)>,
        local_index: u32,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; RESPONSE_LEN],
    ) -> Result<(T, KeyPair), Reject> {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            let mut first_half = self.read_first_half(message)?;
            let (who, peer) = find(&first_half.claimed).ok_or(Reject::UnknownPeer)?;
            Ok((who, self.write_response(&mut first_half, peer, local_index, now, rng, out)?))
        })
    }

    /// Authenticates the rest of an initiation and writes the response to it. `local_index` will be the receiver index of the new
    /// session.
    ///
    /// Gives the session's keys. They are not to be sealed with before the first message on them was committed: until then the
    /// initiator may not have them (§5.4.6).
    ///
    /// # Errors
    /// * [`Reject::BadHandshake`]: it is not authentic, it is not this peer's, or a key in it is of low order.
    /// * [`Reject::ReplayedHandshake`]: its timestamp is not newer than the newest of this peer.
    /// * [`Reject::TooSoon`]: the peer's last initiation was accepted less than 20 ms ago.
    ///
    /// Nothing has changed then, and nothing was written.
    pub fn answer(
        &self,
        mut claim: Claim,
        peer: &mut PeerHandshake,
        local_index: u32,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; RESPONSE_LEN],
    ) -> Result<KeyPair, Reject> {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            self.write_response(&mut claim.0, peer, local_index, now, rng, out)
        })
    }

    fn write_response(
        &self,
        first_half: &mut FirstHalf,
        peer: &mut PeerHandshake,
        local_index: u32,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; RESPONSE_LEN],
    ) -> Result<KeyPair, Reject> {
        let FirstHalf { transcript, ephemeral, claimed, timestamp, sender: remote_index } = first_half;
        if peer.public_key() != claimed {
            return Err(Reject::BadHandshake);
        }
        let key = transcript.mix_to_key(peer.static_shared(self)?);
        let timestamp = transcript.open(&key, timestamp)?;
        peer.accept(Tai64n::from_bytes(timestamp), now)?;

        let own = StaticSecret::random_from_rng(rng);
        let own_public = public_key(&own);
        transcript.mix_ephemeral(&own_public);
        transcript.mix_secret(diffie_hellman(&own, ephemeral)?.as_bytes());
        transcript.mix_secret(diffie_hellman(&own, claimed)?.as_bytes());
        let key = transcript.mix_preshared_key(peer.preshared_key());

        out[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
        out[response::SENDER].copy_from_slice(&local_index.to_le_bytes());
        out[response::RECEIVER].copy_from_slice(&remote_index.to_le_bytes());
        out[response::EPHEMERAL].copy_from_slice(own_public.as_bytes());
        transcript.seal(&key, &[], &mut out[response::EMPTY]);
        peer.write_macs(out, now);

        let (initiators, responders) = transcript.split();
        Ok(KeyPair::new(local_index, *remote_index, &responders, &initiators))
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("public_key", &self.0.claimed).finish_non_exhaustive()
    }
}

/// The public key at an offset inside a message.
pub(super) fn public_key_at(message: &[u8], at: usize) -> PublicKey {
    let mut key = [0; crate::KEY_LEN];
    key.copy_from_slice(&message[at..at + crate::KEY_LEN]);
    PublicKey::from_bytes(key)
}

impl From<Invalid> for Reject {
    fn from(Invalid: Invalid) -> Self {
        Self::BadHandshake
    }
}

impl fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalIdentity").field("public_key", &self.public).finish_non_exhaustive()
    }
}
