//! The native backend in simulated time: its wall clock is the simulation's, and its random numbers are the same in each run.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use encrypt::{
    COOKIE_REPLY_LEN, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened, PeerIndex, PresharedKey, PrivateKey,
    PublicKey, Reject, SealError, Session, SessionConfig, TimerAction,
    native::{Claim, CryptoRng, Environment, NativeIdentity, NativeSession, RngCore},
};

use crate::{
    probe::{as_the_identity_within, as_the_session_within},
    world::START,
};

/// What the wall clock shows at [`START`].
const START_OF_TIME: Duration = Duration::from_secs(1_700_000_000);

/// [`NativeIdentity`] with nothing from outside the simulation.
pub(crate) struct Simulated(NativeIdentity);

/// A session of [`Simulated`].
pub(crate) struct SimulatedSession(NativeSession);

impl Identity for Simulated {
    type Session = SimulatedSession;

    fn new(private_key: &PrivateKey, now: Instant) -> Self {
        let since_start = |now: Instant| now.saturating_duration_since(*START);
        let [seed @ .., _, _, _, _, _, _, _, _] = *private_key.as_bytes();
        let seed = seed.iter().fold(since_start(now).as_nanos() as u64, |seed, byte| {
            seed.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte)
        });
        let environment = Environment {
            rng: Box::new(SplitMix(seed)),
            wall: Box::new(move |now| SystemTime::UNIX_EPOCH + START_OF_TIME + since_start(now)),
        };
        Self(NativeIdentity::with(private_key, environment))
    }

    fn session(&mut self, config: SessionConfig, now: Instant) -> SimulatedSession {
        SimulatedSession(self.0.session(config, now))
    }

    as_the_identity_within!(Claim);
}

impl SimulatedSession {
    const fn called(&self) -> &NativeSession {
        &self.0
    }

    const fn called_mut(&mut self) -> &mut NativeSession {
        &mut self.0
    }

    const fn before_sealing(&self) {}
}

impl Session for SimulatedSession {
    as_the_session_within!(Simulated, Claim);
}

struct SplitMix(u64);

impl RngCore for SplitMix {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), encrypt::native::RngError> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// For a simulation it will do.
impl CryptoRng for SplitMix {}
