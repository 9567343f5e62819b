//! Curve25519 keys and pre-shared keys: newtypes that cannot be mixed up. Secrets are zeroized when
//! dropped, compared in constant time, and never printed by `Debug`. They lie on the heap: wherever a value is
//! moved to, through channels, growing vectors and futures, its bytes stay in the one place where they are wiped.

mod text;

use std::{fmt, str::FromStr};

use subtle::ConstantTimeEq;
use x25519_dalek as x25519;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::wipe::{self, with_clean_stack};

/// Length of every WireGuard key, bytes.
pub const KEY_LEN: usize = 32;

/// A text that is not a key. It does not repeat the text, which may be a secret with a slip in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 44 characters of padded base64 without stray bits.
    #[error("a key is {} characters of base64", text::BASE64_LEN)]
    Base64,
    /// Not 64 hexadecimal digits.
    #[error("a key is {} hexadecimal digits", text::HEX_LEN)]
    Hex,
}

/// A Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

/// A Curve25519 private key. Zeroized on drop, and not copied when moved; `Debug` prints no secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey(Box<[u8; KEY_LEN]>);

/// A symmetric pre-shared key. Zeroized on drop, and not copied when moved; `Debug` prints no secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey(Box<[u8; KEY_LEN]>);

/// What all keys have in common; `$text` holds a key written down, and zeroizes it if it is secret.
macro_rules! key {
    ($type:ident, $text:ty) => {
        impl $type {
            /// Reads 44 characters of base64.
            ///
            /// # Errors
            /// [`KeyError::Base64`] for anything else.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                let mut key = Self::zeros();
                text::decode_base64(text, &mut key.0)?;
                Ok(key)
            }

            /// Reads 64 hexadecimal digits of either case.
            ///
            /// # Errors
            /// [`KeyError::Hex`] for anything else.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                let mut key = Self::zeros();
                text::decode_hex(text, &mut key.0)?;
                Ok(key)
            }

            /// 44 characters of base64, zeroized when dropped if the key is secret.
            pub fn to_base64(&self) -> $text {
                text::encode_base64(&self.0).into()
            }

            /// 64 lower-case hexadecimal digits, zeroized when dropped if the key is secret.
            pub fn to_hex(&self) -> $text {
                text::encode_hex(&self.0).into()
            }

            /// True for 32 zero bytes, which stand for "no key" in configurations. In constant time.
            pub fn is_zero(&self) -> bool {
                self.as_bytes().ct_eq(&[0; KEY_LEN]).into()
            }
        }
    };
}

/// What both kinds of secret have in common besides.
macro_rules! secret_key {
    ($type:ident) => {
        key!($type, Zeroizing<String>);

        impl $type {
            /// Wraps 32 bytes as they are. Those that were handed over are the caller's to wipe.
            pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
                Self(Box::new(bytes))
            }

            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }

            /// To be filled in its place.
            fn zeros() -> Self {
                Self(Box::new([0; KEY_LEN]))
            }
        }

        /// In constant time.
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.as_bytes().ct_eq(other.as_bytes()).into()
            }
        }

        impl Eq for $type {}

        /// Prints no secret.
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(…)"))
            }
        }
    };
}

key!(PublicKey, String);
secret_key!(PrivateKey);
secret_key!(PresharedKey);

impl PublicKey {
    /// Wraps 32 bytes as they are.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    const fn zeros() -> Self {
        Self([0; KEY_LEN])
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:02x}{:02x}{:02x}{:02x}…)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// Base64, as `wg` shows it.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_base64())
    }
}

/// Base64, as `wg` reads it.
impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_base64(text)
    }
}

/// The points whose order divides 8 (RFC 7748 §6.1), and what stands for one of them without being reduced. The highest bit of a
/// key is ignored.
#[cfg(any(test, feature = "boringtun"))]
const LOW_ORDER: [[u8; KEY_LEN]; 7] = {
    const fn small(first: u8) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        key[0] = first;
        key
    }
    /// The prime 2^255 − 19, but for its lowest byte.
    const fn near_prime(first: u8) -> [u8; KEY_LEN] {
        let mut key = [0xff; KEY_LEN];
        key[0] = first;
        key[KEY_LEN - 1] = 0x7f;
        key
    }
    [
        small(0),
        small(1),
        near_prime(0xec),
        near_prime(0xed),
        near_prime(0xee),
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
            0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ]
};

#[cfg(any(test, feature = "boringtun"))]
impl PublicKey {
    /// True for a point of low order: a Diffie–Hellman with it gives zeros, whatever the private key.
    pub(crate) fn is_of_low_order(&self) -> bool {
        let mut key = self.0;
        key[KEY_LEN - 1] &= 0x7f;
        LOW_ORDER.contains(&key)
    }
}

impl PrivateKey {
    /// A new key from the operating system's random numbers, clamped (RFC 7748 §5) as `wg genkey` does.
    ///
    /// # Panics
    /// If the operating system has no random numbers to give: nothing secure can follow.
    pub fn generate() -> Self {
        let mut key = Self::zeros();
        fill_with_random(&mut key.0);
        key.clamped()
    }

    /// The same key with the bits set and cleared that X25519 sets and clears in any case (RFC 7748 §5): two keys that
    /// differ in these alone are one.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.0[0] &= 0b1111_1000;
        self.0[KEY_LEN - 1] &= 0b0111_1111;
        self.0[KEY_LEN - 1] |= 0b0100_0000;
        self
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        with_clean_stack::<{ wipe::HANDSHAKE }, _>(|| {
            PublicKey(x25519::PublicKey::from(&self.to_x25519()).to_bytes())
        })
    }

    /// The same key in the type that does the arithmetic; it zeroizes itself too, but not the places it was moved from:
    /// for a stack that is wiped.
    pub(crate) fn to_x25519(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.0)
    }
}

impl PresharedKey {
    /// A new key from the operating system's random numbers.
    ///
    /// # Panics
    /// If the operating system has no random numbers to give: nothing secure can follow.
    pub fn generate() -> Self {
        let mut key = Self::zeros();
        fill_with_random(&mut key.0);
        key
    }
}

fn fill_with_random(key: &mut [u8; KEY_LEN]) {
    getrandom::getrandom(key).expect("the operating system gives random numbers");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Computed with OpenSSL, and with `wg pubkey`.
    #[test]
    fn public_keys_are_those_that_wg_computes() {
        let private = PrivateKey::from_base64("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=").unwrap();
        assert_eq!(private.public_key().to_base64(), "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=");
    }

    proptest! {
        #[test]
        fn every_key_survives_text(bytes: [u8; 32]) {
            let public = PublicKey::from_bytes(bytes);
            prop_assert_eq!(public.to_string().parse(), Ok(public));
            prop_assert_eq!(PublicKey::from_hex(&public.to_hex()), Ok(public));
            prop_assert_eq!(PublicKey::from_hex(&public.to_hex().to_uppercase()), Ok(public));
            let private = PrivateKey::from_bytes(bytes);
            prop_assert_eq!(PrivateKey::from_base64(&private.to_base64()), Ok(private.clone()));
            prop_assert_eq!(PrivateKey::from_hex(&private.to_hex()), Ok(private));
            let preshared = PresharedKey::from_bytes(bytes);
            prop_assert_eq!(PresharedKey::from_base64(&preshared.to_base64()), Ok(preshared.clone()));
            prop_assert_eq!(PresharedKey::from_hex(&preshared.to_hex()), Ok(preshared));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,70}") {
            let _ = PublicKey::from_base64(&text);
            let _ = PublicKey::from_hex(&text);
        }
    }

    #[test]
    fn parsing_is_as_strict_as_wg() {
        let good = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
        let key = PublicKey::from_base64(good).unwrap();
        assert_eq!(key.as_bytes()[..], (1..=32).collect::<Vec<u8>>());
        for bad in [
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA",   // no padding
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyB=",  // stray bits
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAA",  // 33 bytes
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHy==",  // 31 bytes
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA= ", // a blank after it
            "_QIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",  // the URL alphabet
            "",
        ] {
            assert_eq!(PublicKey::from_base64(bad), Err(KeyError::Base64), "{bad:?}");
        }
        let hex = key.to_hex();
        assert_eq!(hex, "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20");
        for bad in [&hex[1..], &format!("{hex}0"), &format!("+{}", &hex[1..]), &format!("0x{}", &hex[2..])] {
            assert_eq!(PublicKey::from_hex(bad), Err(KeyError::Hex), "{bad:?}");
        }
    }

    #[test]
    fn with_a_key_of_low_order_all_shared_secrets_are_zero() {
        for key in LOW_ORDER {
            for highest in [0, 0x80] {
                let mut key = key;
                key[KEY_LEN - 1] |= highest;
                assert!(PublicKey(key).is_of_low_order());
                let shared = PrivateKey::generate().to_x25519().diffie_hellman(&x25519::PublicKey::from(key));
                assert!(!shared.was_contributory(), "{key:02x?}");
            }
        }
        assert!(!PrivateKey::generate().public_key().is_of_low_order());
        assert!(!PublicKey([9; KEY_LEN]).is_of_low_order());
    }

    #[test]
    fn generated_keys_are_new_and_clamped() {
        let (one, two) = (PrivateKey::generate(), PrivateKey::generate());
        assert_ne!(one, two);
        assert_eq!((one.as_bytes()[0] & 7, one.as_bytes()[31] >> 6), (0, 1));
        assert_ne!(PresharedKey::generate(), PresharedKey::generate());
    }

    #[test]
    fn clamping_changes_no_public_key() {
        let given = PrivateKey::from_bytes([0xff; 32]);
        let clamped = given.clone().clamped();
        assert_eq!(given.public_key(), clamped.public_key());
        assert_eq!((clamped.as_bytes()[0], clamped.as_bytes()[31]), (0xf8, 0x7f));
        assert_eq!(clamped.clone().clamped(), clamped);
    }

    #[test]
    fn a_secret_stays_in_its_place_wherever_it_is_moved() {
        let key = PresharedKey::generate();
        let place: *const u8 = key.as_bytes().as_ptr();
        let mut grown = vec![Some(key)];
        grown.reserve(1_000);
        let moved = std::thread::spawn(move || grown.pop().flatten()).join().unwrap().unwrap();
        assert_eq!(moved.as_bytes().as_ptr(), place);
        let private = PrivateKey::from_bytes([0xff; 32]);
        let place = private.as_bytes().as_ptr();
        assert_eq!(private.clamped().as_bytes().as_ptr(), place);
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes([0x11; 32])), "PrivateKey(…)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([0x11; 32])), "PresharedKey(…)");
        assert!(!KeyError::Base64.to_string().is_empty());
    }

    #[test]
    fn only_zeros_are_zero() {
        assert!(PrivateKey::from_bytes([0; 32]).is_zero());
        let mut bytes = [0; 32];
        bytes[31] = 1;
        assert!(!PresharedKey::from_bytes(bytes).is_zero());
        assert!(!PublicKey::from_bytes(bytes).is_zero());
        assert!(PublicKey::from_bytes([0; 32]).is_zero());
    }
}
