//! The symmetric half of the handshake (§5.4, "HASH", "MAC", "HMAC", "KDF", "AEAD"), and the one Diffie–Hellman function.
//!
//! The functions leave secrets on the stack, as do the crates below them: all of it runs inside
//! [`with_clean_stack`](crate::wipe::with_clean_stack).

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Mac, consts::U16},
};
use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305};
use x25519_dalek::{SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use crate::{KEY_LEN, PublicKey};

/// What BLAKE2s and HMAC-BLAKE2s give, and what keys are.
pub(super) type Word = [u8; 32];
/// A secret word, wiped when dropped.
pub(super) type SecretWord = Zeroizing<Word>;

const TAG_LEN: usize = 16;

/// HASH("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"): the first chaining key.
const CONSTRUCTION: Word = [
    0x60, 0xe2, 0x6d, 0xae, 0xf3, 0x27, 0xef, 0xc0, 0x2e, 0xc3, 0x35, 0xe2, 0xa0, 0x25, 0xd2, 0xd0, 0x16,
    0xeb, 0x42, 0x06, 0xf8, 0x72, 0x77, 0xf5, 0x2d, 0x38, 0xd1, 0x98, 0x8b, 0x78, 0xcd, 0x36,
];
/// HASH([`CONSTRUCTION`] ‖ "WireGuard v1 zx2c4 Jason@zx2c4.com").
const IDENTIFIER: Word = [
    0x22, 0x11, 0xb3, 0x61, 0x08, 0x1a, 0xc5, 0x66, 0x69, 0x12, 0x43, 0xdb, 0x45, 0x8a, 0xd5, 0x32, 0x2d,
    0x9c, 0x6c, 0x66, 0x22, 0x93, 0xe8, 0xb7, 0x0e, 0xe1, 0x9c, 0x65, 0xba, 0x07, 0x9e, 0xf3,
];

/// The message does not authenticate, or a Diffie–Hellman gave nothing.
#[derive(Debug)]
pub(super) struct Invalid;

/// HASH of `parts` one behind the other.
pub(super) fn hash(parts: &[&[u8]]) -> Word {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// MAC: keyed BLAKE2s with 16 bytes of output.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac =
        <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("no key here is longer than 32 bytes");
    parts.iter().for_each(|part| Mac::update(&mut mac, part));
    mac.finalize_fixed().into()
}

/// HMAC-BLAKE2s (RFC 2104), which is not keyed BLAKE2s.
fn hmac(key: &Word, parts: &[&[u8]]) -> SecretWord {
    let mut hmac =
        <hmac::SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key).expect("a key of any length will do");
    parts.iter().for_each(|part| Mac::update(&mut hmac, part));
    Zeroizing::new(hmac.finalize_fixed().into())
}

/// X25519. All zeros come of a public key of low order, and are known to everybody.
///
/// # Errors
/// The result is all zeros.
pub(super) fn diffie_hellman(secret: &StaticSecret, public: &PublicKey) -> Result<SharedSecret, Invalid> {
    #[cfg(test)]
    tests::COMPUTED.set(tests::COMPUTED.get() + 1);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public.as_bytes()));
    if shared.was_contributory() { Ok(shared) } else { Err(Invalid) }
}

/// The public key of an ephemeral or static secret.
pub(super) fn public_key(secret: &StaticSecret) -> PublicKey {
    PublicKey::from_bytes(x25519_dalek::PublicKey::from(secret).to_bytes())
}

/// Chaining key and hash of a handshake under way. Wiped when dropped.
#[derive(Clone)]
pub(super) struct Transcript {
    chaining_key: SecretWord,
    hash: SecretWord,
}

impl Transcript {
    /// The start of a handshake that is answered by the holder of `responder`.
    pub(super) fn new(responder: &PublicKey) -> Self {
        let mut start = Self { chaining_key: Zeroizing::new(CONSTRUCTION), hash: Zeroizing::new(IDENTIFIER) };
        start.mix_hash(responder.as_bytes());
        start
    }

    fn mix_hash(&mut self, data: &[u8]) {
        *self.hash = hash(&[&*self.hash, data]);
    }

    /// An ephemeral public key that was sent in the clear.
    pub(super) fn mix_ephemeral(&mut self, ephemeral: &PublicKey) {
        self.mix_hash(ephemeral.as_bytes());
        self.mix_secret(ephemeral.as_bytes());
    }

    /// KDF₁: a result of Diffie–Hellman.
    pub(super) fn mix_secret(&mut self, input: &[u8]) {
        let first = hmac(&self.chaining_key, &[input]);
        self.chaining_key = hmac(&first, &[&[1]]);
    }

    /// KDF₂: a result of Diffie–Hellman; gives a key to seal one field with.
    pub(super) fn mix_to_key(&mut self, input: &[u8]) -> SecretWord {
        let first = hmac(&self.chaining_key, &[input]);
        self.chaining_key = hmac(&first, &[&[1]]);
        hmac(&first, &[&*self.chaining_key, &[2]])
    }

    /// KDF₃: the pre-shared key (zeros stand for none); gives the key of the response's empty field.
    pub(super) fn mix_preshared_key(&mut self, preshared_key: &[u8; KEY_LEN]) -> SecretWord {
        let first = hmac(&self.chaining_key, &[preshared_key]);
        self.chaining_key = hmac(&first, &[&[1]]);
        let for_hash = hmac(&first, &[&*self.chaining_key, &[2]]);
        self.mix_hash(&*for_hash);
        hmac(&first, &[&*for_hash, &[3]])
    }

    /// Seals `plaintext` into `out`, which is as long and 16 bytes of tag longer.
    pub(super) fn seal(&mut self, key: &Word, plaintext: &[u8], out: &mut [u8]) {
        let (content, tag) = out.split_at_mut(plaintext.len());
        content.copy_from_slice(plaintext);
        let sealed = ChaCha20Poly1305::new(key.into())
            .encrypt_in_place_detached(&[0; 12].into(), &*self.hash, content)
            .expect("a handshake's fields are short");
        tag.copy_from_slice(&sealed);
        self.mix_hash(out);
    }

    /// Opens `sealed`, which is 16 bytes longer than `N`.
    ///
    /// # Errors
    /// It is not authentic.
    pub(super) fn open<const N: usize>(&mut self, key: &Word, sealed: &[u8]) -> Result<[u8; N], Invalid> {
        let (content, tag) = sealed.split_first_chunk::<N>().ok_or(Invalid)?;
        let tag: &[u8; TAG_LEN] = tag.try_into().map_err(|_| Invalid)?;
        let mut plaintext = *content;
        ChaCha20Poly1305::new(key.into())
            .decrypt_in_place_detached(&[0; 12].into(), &*self.hash, &mut plaintext, tag.into())
            .map_err(|_| Invalid)?;
        self.mix_hash(sealed);
        Ok(plaintext)
    }

    /// The keys of the session (§5.4.5): the one the initiator seals with, and the one the responder does.
    pub(super) fn split(&self) -> (SecretWord, SecretWord) {
        let first = hmac(&self.chaining_key, &[]);
        let initiators = hmac(&first, &[&[1]]);
        let responders = hmac(&first, &[&*initiators, &[2]]);
        (initiators, responders)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        cell::Cell,
        time::{Duration, Instant, SystemTime},
    };

    use rand_core::OsRng;

    use super::*;
    use crate::{
        INITIATION_LEN, Identity, MAX_CONTROL_LEN, PeerIndex, PrivateKey, RESPONSE_LEN, Reject, Session,
        SessionConfig,
        native::{Addressed, LocalIdentity, NativeIdentity, PeerHandshake, initiation},
        transport::KeyPair,
    };

    thread_local! {
        /// How often this thread has computed [`diffie_hellman`].
        pub(super) static COMPUTED: Cell<u32> = const { Cell::new(0) };
    }

    #[test]
    fn constants_are_the_hashes_of_the_papers_words() {
        assert_eq!(hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]), CONSTRUCTION);
        assert_eq!(hash(&[&CONSTRUCTION, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]), IDENTIFIER);
    }

    fn computed_in<R>(work: impl FnOnce() -> R) -> (R, u32) {
        let before = COMPUTED.get();
        let result = work();
        (result, COMPUTED.get() - before)
    }

    fn identity() -> LocalIdentity {
        LocalIdentity::new(&PrivateKey::generate())
    }

    fn initiate(from: &LocalIdentity, peer: &mut PeerHandshake, now: Instant) -> [u8; INITIATION_LEN] {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut out = [0; INITIATION_LEN];
        peer.initiate(from, 1, wall, now, &mut OsRng, &mut out).unwrap();
        out
    }

    fn respond(
        to: &[u8],
        identity: &LocalIdentity,
        peer: Option<&mut PeerHandshake>,
        now: Instant,
    ) -> Result<KeyPair, Reject> {
        let Addressed::Initiation(to) = identity.verify_mac1(to)? else { return Err(Reject::Malformed) };
        let mut out = [0; RESPONSE_LEN];
        identity.respond(&to, move |_| Some(((), peer?)), 2, now, &mut OsRng, &mut out).map(|((), keys)| keys)
    }

    /// What anybody can write who knows `to`, and that a peer has this public key of low order: the secret that both static keys
    /// share is zeros.
    fn in_the_name_of(low_order: &PublicKey, to: &PublicKey) -> [u8; INITIATION_LEN] {
        let mut out = [0; INITIATION_LEN];
        let ephemeral = StaticSecret::random_from_rng(OsRng);
        let ephemeral_public = public_key(&ephemeral);
        let mut transcript = Transcript::new(to);
        transcript.mix_ephemeral(&ephemeral_public);
        let key = transcript.mix_to_key(diffie_hellman(&ephemeral, to).unwrap().as_bytes());
        out[0] = 1;
        out[initiation::EPHEMERAL].copy_from_slice(ephemeral_public.as_bytes());
        transcript.seal(&key, low_order.as_bytes(), &mut out[initiation::STATIC]);
        let key = transcript.mix_to_key(&[0; KEY_LEN]);
        transcript.seal(&key, &[0x40; 12], &mut out[initiation::TIMESTAMP]);
        crate::native::macs::ReceiverKeys::new(to).write_macs(&mut out, None);
        out
    }

    #[test]
    fn nobody_can_speak_in_the_name_of_a_peer_whose_key_is_of_low_order() {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
        let now = Instant::now();
        fn answer<I: Identity>(key: &PrivateKey, peer: PublicKey, now: Instant) -> Result<usize, Reject> {
            let mut identity = I::new(key, now);
            let index = PeerIndex::new(1).unwrap();
            let mut session = identity.session(SessionConfig { peer, preshared_key: None, index }, now);
            let initiation = in_the_name_of(&peer, &identity.public_key());
            let (claimed, claim) = identity.claim(&initiation)?;
            assert_eq!(claimed, peer);
            session.answer(&mut identity, &initiation, claim, &mut [0; MAX_CONTROL_LEN], now)
        }
        let ours = PrivateKey::generate();
        for low in [0, 1] {
            let mut peer = [0; KEY_LEN];
            peer[0] = low;
            let peer = PublicKey::from_bytes(peer);
            assert_eq!(answer::<NativeIdentity>(&ours, peer, now), Err(Reject::BadHandshake));
            #[cfg(feature = "boringtun")]
            assert_eq!(answer::<crate::boring::BoringIdentity>(&ours, peer, now), Err(Reject::BadHandshake));
        }
    }

    #[test]
    fn a_stranger_costs_one_diffie_hellman_and_who_does_not_know_our_key_none() {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
        let now = Instant::now();
        let (ours, theirs) = (identity(), identity());
        let mut to_us = PeerHandshake::new(ours.public_key(), None);
        let mut to_them = PeerHandshake::new(theirs.public_key(), None);

        let first = initiate(&theirs, &mut to_us, now);
        assert_eq!(computed_in(|| respond(&first, &ours, None, now).unwrap_err()), (Reject::UnknownPeer, 1));
        assert_eq!(computed_in(|| respond(&first, &identity(), None, now).unwrap_err()), (Reject::BadMac, 0));

        let (keys, cost) = computed_in(|| respond(&first, &ours, Some(&mut to_them), now));
        assert_eq!((keys.is_ok(), cost), (true, 4), "es, ss, ee, se");
        let replayed = computed_in(|| respond(&first, &ours, Some(&mut to_them), now).unwrap_err());
        assert_eq!(replayed, (Reject::ReplayedHandshake, 1), "ss is remembered");
    }

    #[test]
    fn es_is_computed_once_though_the_owner_looks_the_peer_up_in_between() {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
        let now = Instant::now();
        let keys = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
        let [mut ours, mut theirs] = keys.each_ref().map(|key| NativeIdentity::new(key, now));
        let config = |peer| SessionConfig { peer, preshared_key: None, index: PeerIndex::MAX };
        let mut to_us = theirs.session(config(ours.public_key()), now);
        let mut to_them = ours.session(config(theirs.public_key()), now);
        let (mut first, mut response) = ([0; INITIATION_LEN], [0; MAX_CONTROL_LEN]);
        to_us.initiate(&mut theirs, &mut first, now).unwrap();

        assert_eq!(computed_in(|| ours.verify_mac1(&first)), (Ok(()), 0));
        let from = ([192, 0, 2, 1], 1).into();
        let (reply, cost) = computed_in(|| ours.check_cookie(&first, from, now).unwrap());
        assert_eq!((reply.is_some(), cost), (true, 0));
        let ((key, claim), cost) = computed_in(|| ours.claim(&first).unwrap());
        assert_eq!((key, cost), (theirs.public_key(), 1), "es");
        let (answered, cost) =
            computed_in(|| to_them.answer(&mut ours, &first, claim, &mut response, now).is_ok());
        assert_eq!((answered, cost), (true, 3), "ss, ee, se");
    }
}
