//! Super-packets, without a device: splitting them into plain packets, and merging plain packets back.
//!
//! Pure functions over byte slices. Every byte is taken to be hostile: what does not parse is a
//! [`Malformed`] or travels on as the plain packet it came as.

mod checksum;
mod coalesce;
mod flow;
mod frame;
mod ip;
mod segment;
mod virtio;

pub use self::{
    coalesce::{CoalesceConfig, CoalesceCounters, Coalescer, Full, SuperPackets},
    segment::Segments,
    virtio::{GsoType, VnetHeader},
};

/// Why a frame cannot be taken apart. Each is a drop counter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Shorter than a virtio-net header and one byte of packet.
    #[error("the frame is shorter than its virtio-net header")]
    ShortFrame,
    /// Neither IPv4 nor IPv6.
    #[error("the frame holds no IP packet")]
    NotIp,
    /// The IP header's lengths exceed the frame or contradict each other.
    #[error("the IP header's length is impossible")]
    BadLength,
    /// A super-packet whose transport header is cut off, is not what the GSO type says, or is a fragment.
    #[error("the super-packet's headers do not fit its GSO type")]
    BadTransport,
    /// A GSO type that we never ask for.
    #[error("unknown GSO type")]
    UnknownGsoType,
    /// A super-packet with segments of zero bytes.
    #[error("the super-packet's segment size is zero")]
    ZeroGsoSize,
    /// The checksum to complete lies outside the packet.
    #[error("the checksum to complete lies outside the packet")]
    BadChecksumRange,
}
