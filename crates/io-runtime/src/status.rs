//! What the data plane tells about itself.

use std::{fmt, time::Instant};

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use tun_device::Offloads;
use tunnel_core::PeerStatus;

use crate::{Arrangement, Backend, IoCounters};

/// The keys that people gave the device; see [`Handle::status_with_secrets`](crate::Handle::status_with_secrets).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceSecrets {
    /// Our private key, if set.
    pub private_key: Option<PrivateKey>,
    /// The pre-shared keys of [`DeviceStatus::peers`], in their order.
    pub preshared_keys: Vec<Option<PresharedKey>>,
}

/// Everything at one instant that is no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// Our public key, if there is a private key.
    pub public_key: Option<PublicKey>,
    /// The UDP port we listen on while the interface is up.
    pub listen_port: u16,
    /// SO_MARK of our sockets, 0 for none.
    pub fwmark: u32,
    /// Inner MTU, bytes.
    pub mtu: usize,
    /// The interface is up; see [`Handle::set_link_up`](crate::Handle::set_link_up).
    pub link_up: bool,
    /// Peers, in order of creation.
    pub peers: Vec<PeerStatus>,
    /// The clock reading that goes with the peers' `last_handshake`.
    pub now: Instant,
    /// What the tunnel counted.
    pub core: tunnel_core::Counters,
    /// What the I/O side counted.
    pub io: IoCounters,
    /// Which fast paths are on.
    pub features: Features,
}

/// Which fast paths are on, and why the others are off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// How threads share the work; never [`Arrangement::Auto`] here.
    pub arrangement: Arrangement,
    /// Threads that help the loop.
    pub crew: usize,
    /// Handshakes and keys; `None` for a backend that is the caller's own ([`spawn_with`](crate::spawn_with)).
    pub backend: Option<Backend>,
    /// There is an IPv6 socket beside the IPv4 one.
    pub ipv6: bool,
    /// Batches leave with `UDP_SEGMENT`.
    pub udp_gso: Feature,
    /// Datagrams per send, at most.
    pub udp_gso_segments: usize,
    /// Batches arrive with `UDP_GRO`.
    pub udp_gro: Feature,
    /// TCP segments are written to the TUN as super-packets.
    pub tun_coalesce_tcp: Feature,
    /// UDP datagrams are written to the TUN as super-packets.
    pub tun_coalesce_udp: Feature,
    /// The loop's thread is scheduled as `SCHED_BATCH`.
    pub sched_batch: Feature,
    /// What the TUN device gives and takes.
    pub tun_offloads: Offloads,
    /// Kernel send buffer of each UDP socket, bytes, as read back.
    pub udp_send_buffer: usize,
    /// Kernel receive buffer of each UDP socket, bytes, as read back.
    pub udp_recv_buffer: usize,
}

/// A fast path: on, or off for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// In use.
    On,
    /// Switched off by its setting.
    Disabled,
    /// This kernel or device does not have it.
    Unsupported,
    /// The kernel refused it, so it is off for the session.
    Refused,
    /// This kernel (Linux 7.0 – 7.1.4) corrupts UDP GSO trains of equal segments.
    KernelBug,
    /// Off for a while: the kernel refused what it had offered. It is tried again.
    Resting,
    /// Off for a while: another program keeps the processor busy that this thread runs on.
    Yielding,
    /// Whoever started us has chosen otherwise.
    Overruled,
}

impl Feature {
    /// True when in use.
    pub fn is_on(self) -> bool {
        self == Self::On
    }

    /// The same, or resting if it is on but `rests`.
    pub(crate) fn or_resting(self, rests: bool) -> Self {
        if self.is_on() && rests { Self::Resting } else { self }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Disabled => "off (switched off)",
            Self::Unsupported => "off (not supported here)",
            Self::Refused => "off (refused by the kernel)",
            Self::KernelBug => "off (Linux 7.0 to 7.1.4 corrupts UDP GSO)",
            Self::Resting => "resting (refused by the kernel; tried again)",
            Self::Yielding => "off for now (another program keeps the processor busy)",
            Self::Overruled => "off (started with another policy)",
        })
    }
}
