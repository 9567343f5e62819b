//! One sealed datagram as a value.

use std::{fmt, time::Instant};

use crate::{DATA_OVERHEAD, SealError, Session, padded_len};

/// One sealed datagram as a value: no single encrypt buffer.
///
/// A tunnel that owns one buffer to encrypt into can have one datagram at a time: its result borrows
/// the buffer, so it must be sent before the next packet is sealed, and batching is over before it
/// began. An `EncryptedPacket` holds its bytes itself, on the stack or wherever it is moved to, so many
/// can exist at once and none borrows the session. It never allocates.
///
/// It is for people who use sessions without a queue. With one, sealing straight into the queue's slot
/// saves this type's copy.
///
/// ```
/// # use encrypt::{EncryptedPacket, SealError, Session};
/// # use std::time::Instant;
/// fn seal_all<S: Session>(
///     session: &mut S,
///     packets: &[&[u8]],
///     now: Instant,
/// ) -> Result<Vec<EncryptedPacket>, SealError> {
///     packets.iter().map(|packet| EncryptedPacket::seal(session, packet, now)).collect()
/// }
/// ```
#[derive(Clone)]
pub struct EncryptedPacket {
    len: usize,
    bytes: [u8; Self::CAPACITY],
}

impl EncryptedPacket {
    /// The longest packet it takes: 1,500 bytes, which is Ethernet's MTU and so the most that a path without
    /// jumbo frames carries. Tunnels over such paths have an MTU of 1,440 or less.
    pub const MAX_PLAINTEXT: usize = 1500;
    /// Bytes of room: the longest packet, and what a data message adds to it.
    pub const CAPACITY: usize = Self::MAX_PLAINTEXT + DATA_OVERHEAD;
    /// The tunnel MTU, bytes, that [`seal`](Self::seal) stops padding at: `wg-quick`'s default.
    pub const DEFAULT_MTU: usize = 1420;

    /// Pads and seals one packet for a tunnel with the default MTU. An empty one is a keepalive.
    ///
    /// # Errors
    /// As [`seal_with_mtu`](Self::seal_with_mtu).
    pub fn seal<S: Session>(session: &mut S, plaintext: &[u8], now: Instant) -> Result<Self, SealError> {
        Self::seal_with_mtu(session, plaintext, Self::DEFAULT_MTU, now)
    }

    /// Pads a packet as [`padded_len`] says, and seals it.
    ///
    /// # Errors
    /// [`SealError::TooLong`] for more than [`MAX_PLAINTEXT`](Self::MAX_PLAINTEXT) bytes; otherwise those
    /// of [`Session::seal`]. No counter was used then.
    pub fn seal_with_mtu<S: Session>(
        session: &mut S,
        plaintext: &[u8],
        mtu: usize,
        now: Instant,
    ) -> Result<Self, SealError> {
        if plaintext.len() > Self::MAX_PLAINTEXT {
            return Err(SealError::TooLong);
        }
        let len = padded_len(plaintext.len(), mtu.min(Self::MAX_PLAINTEXT));
        let mut padding = [0; Self::MAX_PLAINTEXT];
        let padded = if len == plaintext.len() {
            plaintext
        } else {
            padding[..plaintext.len()].copy_from_slice(plaintext);
            &padding[..len]
        };
        let mut packet = Self { len: len + DATA_OVERHEAD, bytes: [0; Self::CAPACITY] };
        session.seal(padded, &mut packet.bytes[..packet.len], now)?;
        Ok(packet)
    }
}

/// The datagram.
impl AsRef<[u8]> for EncryptedPacket {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for EncryptedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedPacket").field("len", &self.len).finish_non_exhaustive()
    }
}
