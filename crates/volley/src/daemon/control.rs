//! The data plane as the configuration socket sees it.

use std::{io, sync::Arc, time::Duration};

use io_runtime::{DeviceSecrets, DeviceStatus, DeviceUpdate, Handle, UpdateError};
use tracing::warn;

use crate::{
    uapi::{Device, Errno, Peer, Status, server::Control},
    wall_clock::WallClock,
};

/// Adapts a [`Handle`].
#[derive(Clone)]
pub(super) struct DeviceControl {
    handle: Handle,
    clock: Arc<WallClock>,
}

impl DeviceControl {
    pub(super) fn new(handle: Handle) -> Self {
        let clock = Arc::new(WallClock::start());
        Self { handle, clock }
    }
}

impl Control for DeviceControl {
    async fn get(&self) -> Result<Device, Errno> {
        let (status, secrets) = self.handle.status_with_secrets().await.map_err(|_| Errno::Io)?;
        self.clock.follow();
        Ok(device(status, secrets, &self.clock))
    }

    async fn set(&self, update: DeviceUpdate) -> Result<(), Errno> {
        self.handle.update(update).await.map_err(|error| {
            warn!("a configuration request was not applied: {error}");
            match error {
                UpdateError::AddrInUse(_) => Errno::AddrInUse,
                UpdateError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Errno::PermissionDenied
                }
                UpdateError::Tunnel(_) => Errno::Invalid,
                _ => Errno::Io,
            }
        })
    }

    async fn status(&self) -> Result<Status, Errno> {
        Ok(Status::of(&self.handle.status().await.map_err(|_| Errno::Io)?))
    }
}

fn device(status: DeviceStatus, secrets: DeviceSecrets, clock: &WallClock) -> Device {
    let peers = status.peers.into_iter().zip(secrets.preshared_keys).map(|(peer, preshared_key)| Peer {
        public_key: peer.public_key,
        preshared_key,
        endpoint: peer.endpoint,
        last_handshake: peer.last_handshake.map_or(Duration::ZERO, |instant| clock.time_of(instant)),
        tx_bytes: peer.tx_bytes,
        rx_bytes: peer.rx_bytes,
        persistent_keepalive: peer.persistent_keepalive,
        allowed_ips: peer.allowed_ips,
    });
    Device {
        private_key: secrets.private_key,
        listen_port: status.listen_port,
        fwmark: status.fwmark,
        peers: peers.collect(),
    }
}
