//! The TUN trait. A *frame* is what one read or write carries: a 10-byte virtio-net header and an IP
//! packet, which may be a super-packet of up to 64 KiB.

use std::{io, sync::Arc};

/// Length of `struct virtio_net_hdr` (linux/virtio_net.h), in front of every frame, bytes.
pub const VNET_HEADER_LEN: usize = 10;

/// The longest frame: a 65,535-byte IP packet and its virtio-net header.
pub const MAX_FRAME_LEN: usize = VNET_HEADER_LEN + 65_535;

/// What the device accepts and produces beyond plain packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Packets may carry partial checksums (`TUN_F_CSUM`).
    pub checksum: bool,
    /// TCP super-packets over IPv4 and IPv6 (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tso: bool,
    /// UDP super-packets over IPv4 and IPv6 (`TUN_F_USO4`, `TUN_F_USO6`, Linux ≥ 6.2).
    pub uso: bool,
}

impl Offloads {
    /// Plain packets only.
    pub const NONE: Self = Self { checksum: false, tso: false, uso: false };
    /// Everything Linux offers.
    pub const ALL: Self = Self { checksum: true, tso: true, uso: true };
}

/// A TUN device, or something that behaves as one. All calls take `&self`: one thread may read while
/// another writes. Calls never block: they answer `WouldBlock`.
pub trait TunDevice: Send + Sync + 'static {
    /// The interface's name.
    fn name(&self) -> &str;

    /// The offloads in force.
    fn offloads(&self) -> Offloads;

    /// Reads one frame, virtio-net header first (zeros where the device has none), into `buf`, which
    /// should be [`MAX_FRAME_LEN`] bytes. Gives the frame's length.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `UnexpectedEof` once the device is gone for good.
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes one frame, virtio-net header first.
    ///
    /// # Errors
    /// `WouldBlock`; `InvalidInput` (EINVAL) when the kernel refuses this kind of super-packet;
    /// `NetworkDown` while the interface is down (drop the frame, the device lives); `UnexpectedEof` once it
    /// is gone for good. Nothing was written then.
    fn send(&self, frame: &[u8]) -> io::Result<()>;
}

/// Shared between a reading and a writing thread.
impl<D: TunDevice + ?Sized> TunDevice for Arc<D> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn offloads(&self) -> Offloads {
        (**self).offloads()
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        (**self).recv(buf)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        (**self).send(frame)
    }
}
