//! Padding before sealing (§5.4.6).

/// What data messages' contents are padded to a multiple of (§5.4.6).
const UNIT: usize = 16;

/// The length to which a packet of `len` bytes is padded with zeros before it is sealed: the next
/// multiple of 16, but not past the tunnel's `mtu`, so that padding alone never makes a datagram too
/// long for the path. A packet longer than the MTU is not padded. 0 stays 0: a keepalive is empty.
#[inline]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    if len >= mtu {
        return len;
    }
    // `len < mtu ≤ usize::MAX`, but the next multiple may not fit.
    match len.checked_next_multiple_of(UNIT) {
        Some(padded) if padded < mtu => padded,
        _ => mtu,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_rounded_up_to_16() {
        for (len, padded) in [(0, 0), (1, 16), (16, 16), (17, 32), (84, 96), (1408, 1408)] {
            assert_eq!(padded_len(len, 1420), padded);
        }
    }

    #[test]
    fn padding_stops_at_the_mtu() {
        assert_eq!(padded_len(1409, 1420), 1420);
        assert_eq!(padded_len(1420, 1420), 1420);
        assert_eq!(padded_len(1421, 1420), 1421);
        assert_eq!(padded_len(usize::MAX - 1, usize::MAX), usize::MAX);
    }

    proptest! {
        #[test]
        fn padding_never_shortens_and_adds_less_than_16(len in 0usize..70_000, mtu in 0usize..70_000) {
            let padded = padded_len(len, mtu);
            prop_assert!(padded >= len && padded < len + UNIT);
            prop_assert!(padded <= mtu.max(len));
        }
    }
}
