//! When the persistent keepalive of one peer is due.

use std::time::{Duration, Instant};

/// A persistent keepalive, kept here rather than in the session so that changing it never costs one.
///
/// Due one interval after the last authenticated packet *sent*: what keeps a NAT's mapping alive for certain
/// is outbound traffic (RFC 4787 §4.3, REQ-6).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PersistentKeepalive {
    /// Seconds; 0 is off.
    interval: u16,
    due: Option<Instant>,
}

impl PersistentKeepalive {
    /// Seconds; 0 is off.
    pub(crate) const fn interval(&self) -> u16 {
        self.interval
    }

    /// `None` if it is off.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Changes the interval, in seconds; 0 is off. Turning it on makes one due at once; a shorter interval may
    /// bring the next one forward.
    pub(crate) fn set(&mut self, interval: u16, now: Instant) {
        let turned_on = self.interval == 0 && interval != 0;
        let sooner = now + Duration::from_secs(interval.into());
        self.interval = interval;
        self.due = match interval {
            0 => None,
            _ if turned_on => Some(now),
            _ => Some(self.due.map_or(sooner, |due| due.min(sooner))),
        };
    }

    /// Makes one due at once, if it is on.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.due = (self.interval != 0).then_some(now);
    }

    /// Something was sent: one is due a whole interval from now, if it is on.
    pub(crate) fn restart(&mut self, now: Instant) {
        if self.interval != 0 {
            self.due = Some(now + Duration::from_secs(self.interval.into()));
        }
    }
}
