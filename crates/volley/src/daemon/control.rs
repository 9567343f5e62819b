//! The data plane as the configuration socket sees it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use io_runtime::{DeviceStatus, DeviceUpdate, Handle, UpdateError};
use tracing::warn;

use crate::{
    metrics::Clock,
    uapi::{Device, Errno, Peer, Status, server::Control},
};

/// Adapts a [`Handle`].
#[derive(Clone)]
pub(super) struct DeviceControl {
    handle: Handle,
    clock: Arc<WallClock>,
}

impl DeviceControl {
    pub(super) fn new(handle: Handle) -> Self {
        let clock = Arc::new(WallClock::new(io_runtime::clock::now(), since_epoch()));
        Self { handle, clock }
    }
}

impl Control for DeviceControl {
    async fn get(&self) -> Result<Device, Errno> {
        let status = self.handle.status().await.map_err(|_| Errno::Io)?;
        self.clock.adjust(status.now, since_epoch());
        Ok(device(status, &self.clock))
    }

    async fn set(&self, update: DeviceUpdate) -> Result<(), Errno> {
        self.handle.update(update).await.map_err(|error| {
            warn!("a configuration request was not applied: {error}");
            match error {
                UpdateError::AddrInUse(_) => Errno::AddrInUse,
                UpdateError::Tunnel(_) => Errno::Invalid,
                _ => Errno::Io,
            }
        })
    }

    async fn status(&self) -> Result<Status, Errno> {
        Ok(Status::of(&self.handle.status().await.map_err(|_| Errno::Io)?))
    }
}

fn device(status: DeviceStatus, clock: &WallClock) -> Device {
    let peers = status.peers.into_iter().map(|peer| Peer {
        public_key: peer.public_key,
        preshared_key: peer.preshared_key,
        endpoint: peer.endpoint,
        last_handshake: peer.last_handshake.map_or(Duration::ZERO, |instant| clock.time_of(instant)),
        tx_bytes: peer.tx_bytes,
        rx_bytes: peer.rx_bytes,
        persistent_keepalive: peer.persistent_keepalive,
        allowed_ips: peer.allowed_ips,
    });
    Device {
        private_key: status.private_key,
        listen_port: status.listen_port,
        fwmark: status.fwmark,
        peers: peers.collect(),
    }
}

#[expect(clippy::disallowed_methods, reason = "the protocol tells handshakes in wall-clock time")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Clock for DeviceControl {
    fn since_epoch(&self, instant: Instant, now: Instant) -> Duration {
        self.clock.adjust(now, since_epoch());
        self.clock.time_of(instant)
    }
}

/// Turns readings of the monotonic clock into wall-clock time, always the same for the same reading:
/// scripts compare handshake times to see whether there was a new one.
struct WallClock(Mutex<Anchor>);

/// The same moment on both clocks.
#[derive(Clone, Copy)]
struct Anchor {
    instant: Instant,
    time: Duration,
}

impl WallClock {
    /// A wall clock that is off by more than this was set, and is followed.
    const TOLERANCE: Duration = Duration::from_millis(500);

    const fn new(instant: Instant, time: Duration) -> Self {
        Self(Mutex::new(Anchor { instant, time }))
    }

    fn adjust(&self, instant: Instant, time: Duration) {
        if self.time_of(instant).abs_diff(time) > Self::TOLERANCE {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Anchor { instant, time };
        }
    }

    fn time_of(&self, instant: Instant) -> Duration {
        let anchor = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match instant.checked_duration_since(anchor.instant) {
            Some(later) => anchor.time + later,
            None => anchor.time.saturating_sub(anchor.instant.duration_since(instant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_instant_is_always_the_same_time_until_the_wall_clock_is_set() {
        let start = io_runtime::clock::now();
        let seconds = Duration::from_secs;
        let clock = WallClock::new(start, seconds(1_000));
        assert_eq!(clock.time_of(start + seconds(5)), seconds(1_005));

        let drifted = seconds(1_010) + Duration::from_millis(20);
        clock.adjust(start + seconds(10), drifted);
        assert_eq!(clock.time_of(start + seconds(5)), seconds(1_005));

        clock.adjust(start + seconds(20), seconds(90_020));
        assert_eq!(clock.time_of(start + seconds(5)), seconds(90_005));
    }

    #[test]
    fn a_time_before_the_epoch_is_zero() {
        let start = io_runtime::clock::now() + Duration::from_secs(100);
        let clock = WallClock::new(start, Duration::from_secs(5));
        assert_eq!(clock.time_of(start - Duration::from_secs(50)), Duration::ZERO);
    }
}
