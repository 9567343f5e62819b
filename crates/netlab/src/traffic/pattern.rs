//! The bytes that streams carry: pseudo-random, repeating after a prime number of bytes, so that a
//! receiver can check each one at the speed of `memcmp` and no packet-sized shift goes unseen.

/// Prime, so that no multiple of a packet, page or buffer length is a multiple of it. Small enough that it stays in
/// the second-level cache and costs the measurement little.
const PERIOD: usize = 262_139;

/// The longest slice given out at once, bytes.
pub(super) const CHUNK: usize = 128 * 1024;

/// An endless seeded byte sequence.
pub(crate) struct Pattern {
    /// One period and a chunk more, so that every offset has a whole chunk after it.
    bytes: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut period: Vec<u8> = Vec::with_capacity(PERIOD + CHUNK + 8);
        while period.len() < PERIOD {
            // xorshift64: any mix does, this one is short.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            period.extend_from_slice(&state.to_le_bytes());
        }
        period.truncate(PERIOD);
        period.extend_from_within(..CHUNK);
        Self { bytes: period }
    }

    /// The bytes that follow `offset`, at most [`CHUNK`] of them.
    pub(crate) fn after(&self, offset: u64, len: usize) -> &[u8] {
        let start = usize::try_from(offset % PERIOD as u64).expect("less than the period");
        &self.bytes[start..start + len.min(CHUNK)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_same_however_it_is_cut() {
        let pattern = Pattern::new(7);
        let mut offset = PERIOD as u64 - 10;
        let whole = pattern.after(offset, 1000).to_vec();
        let mut pieces = Vec::new();
        for len in [3, 7, 90, 900] {
            pieces.extend_from_slice(pattern.after(offset, len));
            offset += len as u64;
        }
        assert_eq!(whole, pieces);
        assert_ne!(whole, Pattern::new(8).after(PERIOD as u64 - 10, 1000));
    }
}
