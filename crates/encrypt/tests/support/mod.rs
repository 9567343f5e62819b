//! Random numbers that can be replayed, and known answers.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this module")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use rand_core::{CryptoRng, Error, RngCore};

/// The one real clock reading of a test; everything else is an offset from it.
pub fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
    Instant::now()
}

/// A wall clock at this many seconds since 1970.
pub fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Good enough for schedules and for keys that protect nothing; the same seed gives the same numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Seeded(pub u64);

impl RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Seeded {}

impl Seeded {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Gives the bytes it was told to give, and no others.
#[derive(Debug)]
pub struct Scripted(pub Vec<u8>);

impl RngCore for Scripted {
    fn next_u32(&mut self) -> u32 {
        panic!("nothing here draws numbers")
    }

    fn next_u64(&mut self) -> u64 {
        panic!("nothing here draws numbers")
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        let rest = self.0.split_off(bytes.len());
        bytes.copy_from_slice(&self.0);
        self.0 = rest;
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Scripted {}

/// One vector of `vectors/handshake.txt`, which `vectors/generate.py` wrote.
#[derive(Clone, Debug)]
pub struct Vector(BTreeMap<String, Vec<u8>>);

impl Vector {
    pub fn all() -> Vec<Self> {
        let line = |line: &str| {
            let (name, value) = line.split_once(" = ").unwrap_or_else(|| (line.trim_end_matches(" ="), ""));
            (name.to_owned(), hex(value))
        };
        let text = include_str!("../vectors/handshake.txt");
        text.trim().split("\n\n").map(|vector| Self(vector.lines().map(line).collect())).collect()
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.0[name]
    }

    pub fn key(&self, name: &str) -> [u8; 32] {
        self.bytes(name).try_into().expect("32 bytes")
    }

    pub fn number(&self, name: &str) -> u64 {
        self.bytes(name).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub fn private(&self, name: &str) -> PrivateKey {
        PrivateKey::from_bytes(self.key(name))
    }

    pub fn public(&self, name: &str) -> PublicKey {
        PublicKey::from_bytes(self.key(name))
    }

    /// `None` for the zeros that stand for none.
    pub fn psk(&self) -> Option<PresharedKey> {
        Some(PresharedKey::from_bytes(self.key("psk"))).filter(|key| !key.is_zero())
    }

    pub fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(self.number("seconds"), self.number("nanoseconds") as u32)
    }

    /// All secrets, by name.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix("secret_")?, &value[..])))
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Writes mac1 of a handshake message for the holder of `receiver`, as anybody can who knows that key.
pub fn write_mac1(message: &mut [u8], receiver: PublicKey) {
    use blake2::{
        Blake2s256, Blake2sMac, Digest,
        digest::{FixedOutput, KeyInit, Mac, consts::U16},
    };
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes()).finalize();
    let at = message.len() - 32;
    let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).unwrap().chain_update(&message[..at]);
    message[at..at + 16].copy_from_slice(&mac.finalize_fixed());
}
