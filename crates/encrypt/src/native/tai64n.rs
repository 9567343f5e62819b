//! Timestamps of initiations (§5.1): TAI64N labels, so that they compare as their bytes do.

use std::time::SystemTime;

pub(super) const LEN: usize = 12;

/// The label of 1970-01-01 00:00:00 UTC with 37 leap seconds, as boringtun has it (the kernel says 10): a daemon that
/// changes its backend has no stamps that its peers find too old.
const EPOCH: u64 = (1 << 62) + 37;

/// Stamps are rounded down to this many nanoseconds, so that they tell less of the clock, and are refused by no kernel
/// for coming too soon (`tai64n_now`, drivers/net/wireguard/noise.c).
const GRAIN: u32 = 1 << 24;

const SECOND: u32 = 1_000_000_000;

/// A label, as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tai64n([u8; LEN]);

impl Tai64n {
    pub(super) const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// The label of `wall`, but later than `last`, should the clock have stepped back. A clock that stands before 1970 counts
    /// as standing there.
    pub(super) fn after(last: Option<Self>, wall: SystemTime) -> Self {
        let time = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let label = Self::new(EPOCH.saturating_add(time.as_secs()), time.subsec_nanos() / GRAIN * GRAIN);
        label.max(last.map_or(label, Self::next))
    }

    fn new(seconds: u64, nanoseconds: u32) -> Self {
        let mut label = [0; LEN];
        label[..8].copy_from_slice(&seconds.to_be_bytes());
        label[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(label)
    }

    /// The least label of ours that is later.
    fn next(self) -> Self {
        let [seconds @ .., n0, n1, n2, n3] = self.0;
        let (seconds, nanoseconds) = (u64::from_be_bytes(seconds), u32::from_be_bytes([n0, n1, n2, n3]));
        match nanoseconds.saturating_add(GRAIN) {
            later if later < SECOND => Self::new(seconds, later),
            _ => Self::new(seconds.saturating_add(1), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    #[test]
    fn stamps_are_rounded_down_to_16_milliseconds() {
        let stamp = Tai64n::after(None, at(1, 50_000_000));
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0, 0, 0, 38, 2, 0, 0, 0]);
        assert_eq!(Tai64n::after(None, at(1, 2 * GRAIN)), stamp);
        assert_eq!(Tai64n::after(None, at(1, 3 * GRAIN - 1)), stamp);
    }

    #[test]
    fn each_stamp_is_later_than_the_last_whatever_the_clock_does() {
        let mut last = None;
        let clock = [
            at(1_000, 0),
            at(1_000, 1),
            at(1_000, 999_999_999),
            at(5, 0),
            at(0, 0),
            at(1 << 40, 0),
            at(7, 7),
        ];
        for wall in clock.into_iter().chain(std::iter::repeat_n(at(7, 7), 200)) {
            let stamp = Tai64n::after(last, wall);
            assert!(Some(stamp) > last, "{wall:?}");
            last = Some(stamp);
        }
    }

    #[test]
    fn a_clock_before_1970_or_at_the_end_of_time_is_survived() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(99);
        assert_eq!(Tai64n::after(None, before), Tai64n::after(None, at(0, 0)));
        let end = Tai64n([0xff; LEN]);
        let _ = Tai64n::after(Some(end), at(0, 0));
    }

    #[test]
    fn a_clock_that_is_set_after_the_start_counts_at_once() {
        let unset = Tai64n::after(None, at(10, 0));
        assert_eq!(
            Tai64n::after(Some(unset), at(1_700_000_000, 0)),
            Tai64n::after(None, at(1_700_000_000, 0))
        );
    }
}
