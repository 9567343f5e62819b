//! When we are under load (paper §5.3), so that senders must prove that they receive at their address.

use std::time::{Duration, Instant};

/// This part of the backlog is a load: an eighth in the kernel (drivers/net/wireguard/receive.c), where all cores drain it. A
/// quarter of ours is a thousand clients that come back at once, which are no attack and take a quarter of a second.
const PART: usize = 4;

/// For how long a load goes on after the last time that the backlog was so long, as in the kernel.
const HOLD: Duration = Duration::from_secs(1);

/// Whether we are under load.
#[derive(Debug)]
pub(crate) struct Load {
    heavy: usize,
    until: Option<Instant>,
}

impl Load {
    /// With a backlog of at most so many messages.
    pub(crate) const fn new(backlog: usize) -> Self {
        Self { heavy: backlog / PART, until: None }
    }

    /// Looks at the backlog. True while we are under load.
    pub(crate) fn is_heavy(&mut self, backlog: usize, now: Instant) -> bool {
        if backlog >= self.heavy {
            self.until = Some(now + HOLD);
        }
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "one base instant, to which the test adds offsets")]
    fn a_load_begins_at_a_quarter_of_the_backlog_and_ends_a_second_after() {
        let base = Instant::now();
        let at = |millis| base + Duration::from_millis(millis);
        let mut load = Load::new(4096);
        assert!(!load.is_heavy(1023, at(0)));
        assert!(load.is_heavy(1024, at(1)));
        assert!(load.is_heavy(0, at(1000)), "held");
        assert!(!load.is_heavy(0, at(1001)));
        assert!(load.is_heavy(4096, at(2000)));
        assert!(load.is_heavy(1024, at(2900)), "each time anew");
        assert!(load.is_heavy(1023, at(3899)));
        assert!(!load.is_heavy(1023, at(3900)));
    }
}
