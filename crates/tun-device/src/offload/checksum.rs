//! The Internet checksum (RFC 1071).

/// A ones' complement sum that is not folded yet.
///
/// It adds 16-bit words as they lie in memory, whatever the machine's byte order: the folded result, stored
/// back in memory order, is the same (RFC 1071 §2(B)). Sums of parts add up as long as every part but the
/// last has an even length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

/// Bytes per step of the main loop: enough independent lanes for the compiler to use wide registers.
const BLOCK: usize = 64;
const WORD: usize = 8;

impl Sum {
    /// Sums up to 2^31 bytes: each 8 bytes add less than 2^33.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut lanes = [0u64; BLOCK / WORD];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<WORD>().0) {
                *lane += halves(*word);
            }
        }
        let total: u64 = lanes.iter().sum();
        let (words, tail) = rest.as_chunks::<WORD>();
        Self(words.iter().fold(total + tail_sum(tail), |sum, word| sum + halves(*word)))
    }

    /// One 16-bit field in network order.
    pub(crate) fn of_u16(value: u16) -> Self {
        Self(u64::from(value.to_be()))
    }

    /// One 32-bit field in network order.
    pub(crate) fn of_u32(value: u32) -> Self {
        Self(u64::from(value.to_be()))
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum itself, as a partial checksum is stored in memory.
    pub(crate) fn partial(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum: the sum's complement, in memory order.
    pub(crate) fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// Whether a region that holds its own checksum sums to what it must.
    pub(crate) fn verifies(self) -> bool {
        self.fold() == u16::MAX
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > u64::from(u16::MAX) {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

/// 32-bit halves carry into the 64-bit sum instead of wrapping, and 2^16 ≡ 1, so folding them later is exact.
fn halves(word: [u8; WORD]) -> u64 {
    let word = u64::from_ne_bytes(word);
    (word & 0xffff_ffff) + (word >> 32)
}

/// Fewer than 8 bytes, without the call that copying a few bytes would be: headers are short, and many.
fn tail_sum(tail: &[u8]) -> u64 {
    let (fours, tail) = tail.as_chunks::<4>();
    let (twos, tail) = tail.as_chunks::<2>();
    let four = fours.first().map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)));
    let two = twos.first().map_or(0, |bytes| u64::from(u16::from_ne_bytes(*bytes)));
    // An odd byte counts as if a zero followed.
    let one = tail.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
    four + two + one
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word by word.
    fn naive(bytes: &[u8]) -> [u8; 2] {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_rfc_example_sums_as_printed() {
        // RFC 1071 §3: the words sum to ddf2.
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).partial(), [0xdd, 0xf2]);
    }

    #[test]
    fn a_full_packet_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Sum::of(&bytes).checksum(), naive(&bytes));
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Sum::of(&bytes).checksum(), naive(&bytes));
        }

        #[test]
        fn parts_of_even_length_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..200) {
            let at = (2 * at).min(bytes.len() & !1);
            let (a, b) = bytes.split_at(at);
            prop_assert_eq!(Sum::of(a).plus(Sum::of(b)).checksum(), Sum::of(&bytes).checksum());
        }

        #[test]
        fn a_stored_checksum_verifies(mut bytes in proptest::collection::vec(any::<u8>(), 2..100)) {
            bytes[0] = 0;
            bytes[1] = 0;
            let checksum = Sum::of(&bytes).checksum();
            bytes[..2].copy_from_slice(&checksum);
            prop_assert!(Sum::of(&bytes).verifies());
        }
    }
}
