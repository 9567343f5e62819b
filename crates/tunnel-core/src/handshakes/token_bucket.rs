//! How many handshakes a second an address may have computed under load. (`net::ratelimiter` in the kernel.)

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Between two handshakes of one address in the long run: 20 a second (the kernel's PACKETS_PER_SECOND).
const INTERVAL: Duration = Duration::from_millis(50);
/// How many an address may have at once (the kernel's PACKETS_BURSTABLE).
const BURST: u32 = 5;
/// After this long without any, an address has its burst again, and nothing needs to be known about it.
const FORGOTTEN: Duration = INTERVAL.saturating_mul(BURST);
/// How many addresses are known at most, some 300 KiB. To keep it full takes the same number of proven addresses that each
/// send four times a second, 32,000 messages: more than there is time for in any case.
const MAX_ADDRESSES: usize = 8192;

/// One bucket per address: the table's hash is keyed by randomness of this process, so that nobody can choose addresses
/// that collide.
#[derive(Debug, Default)]
pub(crate) struct TokenBuckets {
    /// When the address will have its whole burst again.
    full_at: HashMap<Source, Instant>,
    swept: Option<Instant>,
}

/// Who is taken for one sender: an IPv4 address, or the 64 bits of an IPv6 address that a network gives to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl TokenBuckets {
    /// Takes one token of this address. False if there is none, or if too many addresses are known to know another.
    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        let source = Source::from(address);
        if !self.full_at.contains_key(&source) && !self.has_room(now) {
            return false;
        }
        let full_at = self.full_at.entry(source).or_insert(now);
        let after = (*full_at).max(now) + INTERVAL;
        let is_there = after <= now + FORGOTTEN;
        if is_there {
            *full_at = after;
        }
        is_there
    }

    /// Forgets everybody, and gives the memory back.
    pub(crate) fn clear(&mut self) {
        if self.full_at.capacity() != 0 {
            *self = Self::default();
        }
    }

    /// Makes room by forgetting those that have their burst again, at most once in the time that this takes.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.full_at.len() < MAX_ADDRESSES {
            return true;
        }
        if self.swept.is_none_or(|swept| swept + FORGOTTEN <= now) {
            self.swept = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < MAX_ADDRESSES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "one base instant, to which the test adds offsets")]
    fn base() -> Instant {
        Instant::now()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn five_at_once_and_twenty_a_second() {
        let (mut buckets, base) = (TokenBuckets::default(), base());
        let one = address("192.0.2.1");
        let at_once = (0..100).filter(|_| buckets.take(one, base)).count();
        assert_eq!(at_once, 5);
        let later = (1..=10_000).filter(|n| buckets.take(one, base + Duration::from_millis(*n))).count();
        assert_eq!(later, 200);
        assert!(buckets.take(address("192.0.2.2"), base), "each address has its own");
    }

    #[test]
    fn an_ipv6_network_is_one_sender() {
        let (mut buckets, base) = (TokenBuckets::default(), base());
        let of_one_network = (0..100).filter(|n| buckets.take(address(&format!("2001:db8::{n}")), base));
        assert_eq!(of_one_network.count(), 5);
        assert!(buckets.take(address("2001:db8:0:1::1"), base));
        assert!(buckets.take(address("32.1.13.184"), base), "nor do the families meet");
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_and_ends_by_itself() {
        let (mut buckets, base) = (TokenBuckets::default(), base());
        let v4 = |n: u32| IpAddr::from(n.to_be_bytes());
        let taken = (0..1_000_000).filter(|n| buckets.take(v4(*n), base)).count();
        assert_eq!(taken, MAX_ADDRESSES);
        assert!(buckets.take(v4(0), base), "who is known goes on");
        assert!(buckets.full_at.capacity() < 4 * MAX_ADDRESSES);
        let later = base + FORGOTTEN;
        assert!(buckets.take(v4(2_000_000), later), "those who have gone are forgotten");
        assert_eq!(buckets.full_at.len(), 1);
        buckets.clear();
        assert_eq!(buckets.full_at.capacity(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_tokens_that_are_counted(gaps in proptest::collection::vec(0u64..200, 1..200)) {
            let (mut buckets, mut now) = (TokenBuckets::default(), base());
            // In milliseconds of time that are worth 50 a token.
            let (mut tokens, most) = (250, 250);
            for gap in gaps {
                now += Duration::from_millis(gap);
                tokens = most.min(tokens + gap);
                let expected = tokens >= 50;
                tokens -= if expected { 50 } else { 0 };
                prop_assert_eq!(buckets.take(address("192.0.2.1"), now), expected);
            }
        }
    }
}
