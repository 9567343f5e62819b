//! The native backend in simulated time: its wall clock is the simulation's, and its random numbers are the same in each run.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use encrypt::{
    COOKIE_REPLY_LEN, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened, PeerIndex, PresharedKey, PrivateKey,
    PublicKey, Reject, SealError, Session, SessionConfig, Stamps, TimerAction,
    native::{Claim, CryptoRng, Environment, NativeIdentity, NativeSession, RngCore},
    transport::{Leases, TransportKeys, Unchecked},
};

use crate::{
    probe::{as_the_identity_within, as_the_session_within},
    world::START,
};

/// What the wall clock shows at [`START`], in seconds since 1970.
const START_OF_TIME: i64 = 1_700_000_000;

thread_local! {
    /// Part of the seed of all random numbers.
    static SEED: Cell<u64> = const { Cell::new(0) };
    /// How many seconds the wall clocks are ahead of the time that has passed since [`START`], by private key.
    static AHEAD: RefCell<BTreeMap<[u8; 32], i64>> = const { RefCell::new(BTreeMap::new()) };
}

/// From now on random numbers on this thread come from `seed`, and all wall clocks are right.
pub(crate) fn begin(seed: u64) {
    SEED.set(seed);
    AHEAD.with_borrow_mut(BTreeMap::clear);
}

/// Sets the wall clock of the node with this key: so many seconds ahead.
pub(crate) fn set_clock(key: &PrivateKey, ahead: i64) {
    let key = key.clone().clamped(); // as a tunnel keeps it
    AHEAD.with_borrow_mut(|all| all.insert(*key.as_bytes(), ahead));
}

/// The wall clock of the node with this key; before 1970, too.
fn wall_clock(key: &[u8; 32], since_start: Duration) -> SystemTime {
    let ahead = AHEAD.with_borrow(|all| all.get(key).copied().unwrap_or_default());
    let start = START_OF_TIME + ahead;
    let seconds = Duration::from_secs(start.unsigned_abs());
    let start = if start < 0 { SystemTime::UNIX_EPOCH - seconds } else { SystemTime::UNIX_EPOCH + seconds };
    start + since_start
}

/// [`NativeIdentity`] with nothing from outside the simulation.
pub(crate) struct Simulated(NativeIdentity);

/// A session of [`Simulated`].
pub(crate) struct SimulatedSession(NativeSession);

impl Identity for Simulated {
    type Session = SimulatedSession;

    fn new(private_key: &PrivateKey, now: Instant) -> Self {
        let since_start = |now: Instant| now.saturating_duration_since(*START);
        let key = *private_key.as_bytes();
        let born = SEED.get().rotate_left(32) ^ since_start(now).as_nanos() as u64;
        let seed = key.iter().fold(born, |seed, byte| {
            seed.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte)
        });
        let environment = Environment {
            rng: Box::new(SplitMix(seed)),
            wall: Box::new(move |now| wall_clock(&key, since_start(now))),
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
