//! The one clock. The core and the leaves take `now` as an argument; this is where it comes from.

use std::time::Instant;

/// Reads the monotonic clock. The data plane calls it once per tick and passes the reading down.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}
