//! The lab's one clock: everything it measures is read from here.

use std::time::{Instant, SystemTime};

/// Now, on the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "measuring real daemons takes a real clock, read here only")]
pub fn now() -> Instant {
    Instant::now()
}

/// Now, on the wall clock.
#[expect(clippy::disallowed_methods, reason = "handshakes carry it, read here only")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
