//! Where a [`NativeIdentity`](super::NativeIdentity) has its wall clock and random numbers from.

use std::{
    fmt,
    time::{Instant, SystemTime},
};

use rand_core::{CryptoRngCore, OsRng};

/// What a handshake needs from outside besides `now`.
pub struct Environment {
    /// Ephemeral keys, receiver indices, the secret of cookies, jitter.
    pub rng: Box<dyn CryptoRngCore + Send>,
    /// The wall clock at `now`, for the timestamps of initiations. Asked anew for each, so that a clock that is set counts.
    pub wall: Box<dyn Fn(Instant) -> SystemTime + Send>,
}

impl Environment {
    /// The operating system's random numbers and clock.
    pub fn system() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing in `now` tells the date; simulations pass their own"
        )]
        let wall = |_| SystemTime::now();
        Self { rng: Box::new(OsRng), wall: Box::new(wall) }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}
