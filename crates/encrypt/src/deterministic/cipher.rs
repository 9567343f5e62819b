//! Arithmetic that stands where cryptography would. It notices accidents and hides nothing.

use std::collections::BTreeSet;

/// A key, a tag or a cookie.
pub(super) type Word = [u8; 16];

/// How far a counter may lag behind the newest one; the same as boringtun's window.
const WINDOW: u64 = 1024;

/// A checksum over `parts`, keyed by whichever of them is a key. Any change to one byte changes it.
pub(super) fn checksum(parts: &[&[u8]]) -> Word {
    let mut lanes = [0xcbf2_9ce4_8422_2325_u64, 0x9e37_79b9_7f4a_7c15];
    for part in parts {
        for byte in part.iter().copied().chain((part.len() as u64).to_le_bytes()) {
            for lane in &mut lanes {
                *lane = (*lane ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
            }
        }
    }
    let mut word = [0; 16];
    word[..8].copy_from_slice(&mix(lanes[0]).to_le_bytes());
    word[8..].copy_from_slice(&mix(lanes[1]).to_le_bytes());
    word
}

/// XORs a pattern that depends on key and counter. Its own inverse.
pub(super) fn scramble(key: &Word, counter: u64, data: &mut [u8]) {
    let seed = u64::from_le_bytes(*checksum(&[key, &counter.to_le_bytes()]).first_chunk().expect("16 ≥ 8"));
    for (chunk, step) in data.chunks_mut(8).zip(1u64..) {
        let pattern = mix(seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        chunk.iter_mut().zip(pattern.to_le_bytes()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The counters already received.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplayWindow {
    seen: BTreeSet<u64>,
}

impl ReplayWindow {
    /// True the first time a counter comes that is not too old.
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        let newest = self.seen.last().copied().unwrap_or(0);
        let too_old = newest >= WINDOW && counter < newest - WINDOW;
        if too_old || !self.seen.insert(counter) {
            return false;
        }
        let newest = newest.max(counter);
        while self.seen.first().is_some_and(|oldest| newest - oldest > WINDOW) {
            self.seen.pop_first();
        }
        true
    }
}
