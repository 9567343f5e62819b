//! What must live as long as a peer: its newest timestamp, its pre-shared key, our handshake with it.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use rand_core::CryptoRngCore;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

use super::{
    LocalIdentity, Response,
    identity::public_key_at,
    initiation,
    macs::{COOKIE_LIFETIME, Cookie, MAC_LEN, ReceiverKeys},
    noise::{Invalid, SecretWord, Transcript, Word, diffie_hellman, public_key},
    response,
    tai64n::Tai64n,
};
use crate::{
    COOKIE_REPLY_LEN, INITIATION_LEN, KEY_LEN, Message, PresharedKey, PublicKey, Reject, Stamps,
    transport::KeyPair,
    wipe::{self, with_clean_stack},
    wire::{TYPE_INITIATION, u32_at},
};

/// The least time between two initiations of one peer that are answered (the kernel's INITIATIONS_PER_SECOND of 50).
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The handshakes with one peer.
pub struct PeerHandshake {
    public: PublicKey,
    receiver: ReceiverKeys,
    /// Boxed, so that they stay in one place, where they are wiped.
    secrets: Box<Secrets>,
    /// The timestamp of the newest initiation that was authentic. None older is taken, for the life of the peer.
    newest_received: Tai64n,
    accepted_at: Option<Instant>,
    /// The timestamp of our last initiation.
    last_sent: Option<Tai64n>,
    /// mac1 of our last message, if no cookie reply to it was read.
    last_mac1: Option<[u8; MAC_LEN]>,
    cookie_received: Option<Instant>,
}

struct Secrets {
    preshared_key: SecretWord,
    /// Zeros unless `shared_with` says whose it is.
    static_shared: SecretWord,
    /// The public key of the identity that `static_shared` was computed with.
    shared_with: Option<PublicKey>,
    /// The last one, and the one before: a network that is slow answers that after its retry. Boxed each, for `None` written
    /// over a `Pending` may bring as many bytes of the stack as a `Pending` has, and no drop wipes those.
    pending: [Option<Box<Pending>>; 2],
    cookie: Cookie,
}

/// Our initiation that waits for its response. Its fields wipe themselves; it is always dropped where it lies.
struct Pending {
    local_index: u32,
    ephemeral: StaticSecret,
    transcript: Transcript,
}

/// The peer's public key is of low order: everybody knows the secrets that are shared with it, so no handshake with it begins
/// or completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's public key is of low order")]
pub struct LowOrderKey;

impl PeerHandshake {
    /// A peer with whom nothing has begun. Costs no Diffie–Hellman; the first handshake does.
    pub fn new(public_key: PublicKey, preshared_key: Option<&PresharedKey>) -> Self {
        let zeros = || Zeroizing::new([0; KEY_LEN]);
        let mut peer = Self {
            public: public_key,
            receiver: ReceiverKeys::new(&public_key),
            secrets: Box::new(Secrets {
                preshared_key: zeros(),
                static_shared: zeros(),
                shared_with: None,
                pending: [None, None],
                cookie: Zeroizing::new([0; MAC_LEN]),
            }),
            newest_received: Tai64n::default(),
            accepted_at: None,
            last_sent: None,
            last_mac1: None,
            cookie_received: None,
        };
        peer.set_preshared_key(preshared_key);
        peer
    }

    /// The peer's public key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Changes the pre-shared key (§5.2) of every handshake that completes from now on, also of one that is under way. Keys that
    /// were agreed on are the caller's to keep or to drop.
    pub fn set_preshared_key(&mut self, key: Option<&PresharedKey>) {
        match key {
            Some(key) => self.secrets.preshared_key.copy_from_slice(key.as_bytes()),
            None => self.secrets.preshared_key.zeroize(),
        }
    }

    /// The receiver indices of our initiations that are out: at most two.
    pub fn pending(&self) -> impl Iterator<Item = u32> {
        self.secrets.pending.iter().flatten().map(|pending| pending.local_index)
    }

    /// Gives up our initiations that are out; their secrets are wiped.
    pub fn abandon(&mut self) {
        self.secrets.pending = [None, None];
    }

    /// The newest timestamps, of the peer's initiations and of ours.
    pub fn stamps(&self) -> Stamps {
        let sent = self.last_sent.unwrap_or_default();
        Stamps { received: *self.newest_received.as_bytes(), sent: *sent.as_bytes() }
    }

    /// Goes on from the timestamps of what had this peer's handshakes before.
    pub fn remember(&mut self, stamps: Stamps) {
        self.newest_received = self.newest_received.max(Tai64n::from_bytes(stamps.received));
        let sent = Some(Tai64n::from_bytes(stamps.sent)).filter(|sent| *sent != Tai64n::default());
        self.last_sent = self.last_sent.max(sent);
    }

    /// Wipes what was made with a private key of ours that is no more: our initiation and the shared secret. Another identity's
    /// are computed when needed.
    pub fn forget_identity(&mut self) {
        self.abandon();
        self.secrets.static_shared.zeroize();
        self.secrets.shared_with = None;
    }

    /// Writes an initiation (§5.4.2). The one before may still be answered, and the one before that no more: its index is free
    /// then, and given back.
    ///
    /// # Errors
    /// The peer's key is of low order. Nothing was written.
    pub fn initiate(
        &mut self,
        identity: &LocalIdentity,
        local_index: u32,
        wall: SystemTime,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; INITIATION_LEN],
    ) -> Result<Option<u32>, LowOrderKey> {
        let [_, oldest] = &self.secrets.pending;
        let freed = oldest.as_ref().map(|oldest| oldest.local_index);
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            self.write_initiation(identity, local_index, wall, rng, out).map_err(|Invalid| LowOrderKey)?;
            self.write_macs(out, now);
            Ok(freed)
        })
    }

    fn write_initiation(
        &mut self,
        identity: &LocalIdentity,
        local_index: u32,
        wall: SystemTime,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; INITIATION_LEN],
    ) -> Result<(), Invalid> {
        let ephemeral = StaticSecret::random_from_rng(rng);
        let ephemeral_public = public_key(&ephemeral);
        let mut transcript = Transcript::new(&self.public);
        transcript.mix_ephemeral(&ephemeral_public);
        let es = diffie_hellman(&ephemeral, &self.public)?;
        let for_static = transcript.mix_to_key(es.as_bytes());
        // Known to be of use before anything is written.
        self.static_shared(identity)?;

        out[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
        out[initiation::SENDER].copy_from_slice(&local_index.to_le_bytes());
        out[initiation::EPHEMERAL].copy_from_slice(ephemeral_public.as_bytes());
        transcript.seal(&for_static, identity.public_key().as_bytes(), &mut out[initiation::STATIC]);
        let for_timestamp = transcript.mix_to_key(self.static_shared(identity)?);
        let stamp = Tai64n::after(self.last_sent, wall);
        transcript.seal(&for_timestamp, stamp.as_bytes(), &mut out[initiation::TIMESTAMP]);

        self.last_sent = Some(stamp);
        // The oldest changes places and is dropped.
        self.secrets.pending.swap(0, 1);
        self.secrets.pending[0] = Some(Box::new(Pending { local_index, ephemeral, transcript }));
        Ok(())
    }

    /// Reads the response (§5.4.3) to one of our initiations. That one is forgotten, and so is one that was sent before it: its
    /// session would be older than this one, and the peer has given it up. Gives the session's keys, which may be sealed with
    /// at once: the peer waits for the first message on them.
    ///
    /// # Errors
    /// * [`Reject::NoSession`]: it answers no initiation that is out.
    /// * [`Reject::BadHandshake`]: it is not authentic, or a key is of low order.
    ///
    /// Nothing has changed then: the right response may still come.
    pub fn read_response(
        &mut self,
        identity: &LocalIdentity,
        message: &Response<'_>,
    ) -> Result<KeyPair, Reject> {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            let receiver = message.receiver();
            let message = message.0;
            let secrets = &*self.secrets;
            let is_answered = |pending: &Option<Box<Pending>>| {
                pending.as_ref().is_some_and(|pending| pending.local_index == receiver)
            };
            let at = secrets.pending.iter().position(is_answered).ok_or(Reject::NoSession)?;
            let pending = secrets.pending[at].as_ref().ok_or(Reject::NoSession)?;

            let ephemeral = public_key_at(message, response::EPHEMERAL.start);
            let mut transcript = pending.transcript.clone();
            transcript.mix_ephemeral(&ephemeral);
            transcript.mix_secret(diffie_hellman(&pending.ephemeral, &ephemeral)?.as_bytes());
            transcript.mix_secret(diffie_hellman(&identity.private, &ephemeral)?.as_bytes());
            let key = transcript.mix_preshared_key(&secrets.preshared_key);
            let [] = transcript.open(&key, &message[response::EMPTY])?;

            let remote_index = u32_at(message, response::SENDER.start);
            let (initiators, responders) = transcript.split();
            let keys = KeyPair::new(receiver, remote_index, &initiators, &responders);
            self.secrets.pending[at..].fill_with(|| None);
            Ok(keys)
        })
    }

    /// Reads a cookie reply (§5.4.7) to our last handshake message: those of the next 120 s carry a mac2 with it. It is no sign of
    /// life, and tells nothing of where the peer is: anybody on the way can make one.
    ///
    /// # Errors
    /// * [`Reject::Malformed`]: it is no cookie reply.
    /// * [`Reject::NoSession`]: nothing that was sent waits for one.
    /// * [`Reject::BadTag`]: it does not answer our last message.
    ///
    /// Nothing has changed then.
    pub fn read_cookie_reply(&mut self, datagram: &[u8], now: Instant) -> Result<(), Reject> {
        let Message::CookieReply { .. } = Message::parse(datagram)? else { return Err(Reject::Malformed) };
        let reply: &[u8; COOKIE_REPLY_LEN] = datagram.try_into().map_err(|_| Reject::Malformed)?;
        let mac1 = self.last_mac1.ok_or(Reject::NoSession)?;
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            self.receiver
                .read_cookie_reply(&mac1, reply, &mut self.secrets.cookie)
                .map_err(|Invalid| Reject::BadTag)
        })?;
        self.last_mac1 = None;
        self.cookie_received = Some(now);
        Ok(())
    }

    /// The secret that both static keys share, from memory if it was computed before.
    pub(super) fn static_shared(&mut self, identity: &LocalIdentity) -> Result<&Word, Invalid> {
        if self.secrets.shared_with != Some(identity.public_key()) {
            let shared = diffie_hellman(&identity.private, &self.public)?;
            self.secrets.static_shared.copy_from_slice(shared.as_bytes());
            self.secrets.shared_with = Some(identity.public_key());
        }
        Ok(&self.secrets.static_shared)
    }

    pub(super) fn preshared_key(&self) -> &[u8; KEY_LEN] {
        &self.secrets.preshared_key
    }

    /// Takes note of an initiation that authenticated.
    ///
    /// # Errors
    /// It is no newer than another, or comes too soon after it. Nothing has changed.
    pub(super) fn accept(&mut self, timestamp: Tai64n, now: Instant) -> Result<(), Reject> {
        if timestamp <= self.newest_received {
            return Err(Reject::ReplayedHandshake);
        }
        let too_soon = |before: Instant| now.saturating_duration_since(before) < MIN_INTERVAL;
        if self.accepted_at.is_some_and(too_soon) {
            return Err(Reject::TooSoon);
        }
        self.newest_received = timestamp;
        self.accepted_at = Some(now);
        Ok(())
    }

    /// Writes both macs of a message to the peer.
    pub(super) fn write_macs(&mut self, message: &mut [u8], now: Instant) {
        let is_good = |received: Instant| now.saturating_duration_since(received) < COOKIE_LIFETIME;
        if !self.cookie_received.is_some_and(is_good) {
            self.cookie_received = None;
            self.secrets.cookie.zeroize();
        }
        let cookie = self.cookie_received.is_some().then_some(&self.secrets.cookie);
        self.last_mac1 = Some(self.receiver.write_macs(message, cookie));
    }
}

impl fmt::Debug for PeerHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerHandshake")
            .field("public_key", &self.public)
            .field("pending", &self.pending().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
