//! ChaCha20-Poly1305 (§5.4.6) with a key that is wiped.
//!
//! ring's keys cannot be wiped, and should not lie on the heap: they are an enum of all its ciphers' keys, some 500 bytes, most
//! of which are of another cipher and hold whatever was on the stack when they were made. So the heap has the 32 bytes alone,
//! and ring's key is made of them for each train, on a stack that is overwritten afterwards. That costs some ten
//! nanoseconds.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::DATA_TAG_LEN;
use crate::KEY_LEN;

/// False in a build that protects nothing, so that what everything but the cipher costs can be measured:
/// `RUSTFLAGS="--cfg volley_no_cipher"`. No feature does this, for a feature is switched on for all by any crate that asks for
/// it; only whoever calls the compiler can. Handshakes are as ever, and boringtun's backend is not concerned.
/// A program that serves anybody must refuse to start when this is false.
pub const HAS_CIPHER: bool = cfg!(not(volley_no_cipher));

/// The key of one direction. Wiped when dropped.
pub(super) struct CipherKey(Zeroizing<[u8; KEY_LEN]>);

/// A key made ready, for as long as one train takes. Lies on the stack, which is its user's to wipe.
pub(super) struct Cipher(LessSafeKey);

/// The tag does not verify.
#[derive(Debug)]
pub(super) struct Forged;

impl CipherKey {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(*key))
    }

    #[inline]
    pub(super) fn make_ready(&self) -> Cipher {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.0).expect("the cipher's key is 32 bytes long");
        Cipher(LessSafeKey::new(key))
    }
}

impl Cipher {
    /// Encrypts `content` in place and writes its tag. `content` fits a datagram, so it is never too long for the cipher.
    pub(super) fn seal(&self, counter: u64, content: &mut [u8], tag: &mut [u8; DATA_TAG_LEN]) {
        if !HAS_CIPHER {
            return tag.fill(0);
        }
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), content)
            .expect("a datagram is shorter than 256 GiB");
        tag.copy_from_slice(sealed.as_ref());
    }

    /// Decrypts `sealed`, content and tag, in place. Gives the content's length.
    ///
    /// # Errors
    /// It is not authentic; all of it is zeros then.
    pub(super) fn open(&self, counter: u64, sealed: &mut [u8]) -> Result<usize, Forged> {
        if !HAS_CIPHER {
            return sealed.len().checked_sub(DATA_TAG_LEN).ok_or(Forged);
        }
        match self.0.open_in_place(nonce(counter), Aad::empty(), sealed) {
            Ok(content) => Ok(content.len()),
            Err(_) => {
                // ring does so with the content itself, but promises it nowhere.
                sealed.fill(0);
                Err(Forged)
            }
        }
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CipherKey(…)")
    }
}

/// 32 zero bits, then the counter, little-endian.
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
