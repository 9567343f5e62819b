//! ChaCha20-Poly1305 (§5.4.6) with a key that is wiped.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::optimization_barrier;

use super::DATA_TAG_LEN;
use crate::KEY_LEN;

/// The key of one direction. Overwritten when dropped; what using it leaves on the stack is its user's to wipe.
pub(super) struct CipherKey(LessSafeKey);

/// The tag does not verify.
#[derive(Debug)]
pub(super) struct Forged;

impl CipherKey {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(ring_key(key))
    }

    /// Encrypts `content` in place and writes its tag. `content` fits a datagram, so it is never too long for the cipher.
    pub(super) fn seal(&self, counter: u64, content: &mut [u8], tag: &mut [u8; DATA_TAG_LEN]) {
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), content)
            .expect("a datagram is shorter than 256 GiB");
        tag.copy_from_slice(sealed.as_ref());
    }

    /// Decrypts `sealed`, content and tag, in place. Gives the content's length.
    ///
    /// # Errors
    /// It is not authentic; the content's bytes are zeros then.
    pub(super) fn open(&self, counter: u64, sealed: &mut [u8]) -> Result<usize, Forged> {
        match self.0.open_in_place(nonce(counter), Aad::empty(), sealed) {
            Ok(content) => Ok(content.len()),
            Err(_) => {
                // ring does so itself, but promises it nowhere.
                sealed.fill(0);
                Err(Forged)
            }
        }
    }
}

/// ring has no way to wipe a key, so another takes its place. Both are of one kind and size: the assignment writes over
/// each byte of the secret.
impl Drop for CipherKey {
    fn drop(&mut self) {
        self.0 = ring_key(&[0; KEY_LEN]);
        optimization_barrier(&self.0); // or the compiler would see that nobody reads it any more
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CipherKey(…)")
    }
}

fn ring_key(key: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("the cipher's key is 32 bytes long"))
}

/// 32 zero bits, then the counter, little-endian.
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
