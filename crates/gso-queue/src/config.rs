//! What a queue is told when it is made, and the constants behind the defaults.

/// The most segments one send may carry: `UDP_MAX_SEGMENTS` of Linux ≥ 6.9 (include/linux/udp.h).
pub const MAX_SEGMENTS: usize = 128;

/// What every kernel with `UDP_SEGMENT` takes: `UDP_MAX_SEGMENTS` of Linux 4.18 – 6.8.
pub const DEFAULT_SEGMENTS: usize = 64;

/// One buffer holds the longest UDP payload, so that no batch is cut short by its buffer. Bytes.
pub const DEFAULT_BUFFER_BYTES: usize = 64 * 1024;

/// Two ticks' worth of 64 KiB TUN frames (50 a tick by default), and some for small batches.
pub const DEFAULT_BUFFERS: usize = 128;

/// What a queue with the default configuration may hold, bytes: a sixth of the daemon's 48 MB.
const MEMORY_BUDGET: usize = 8 * 1024 * 1024;

const _: () = assert!(QueueConfig::DEFAULT.memory_bound() <= MEMORY_BUDGET);
const _: () = assert!(DEFAULT_BUFFER_BYTES >= crate::MAX_PAYLOAD_V4);
const _: () = assert!(DEFAULT_SEGMENTS <= MAX_SEGMENTS);

/// How long a batch may grow and how many may exist. Values out of range are moved into it by
/// [`GsoQueue::new`](crate::GsoQueue::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Datagrams in one batch, 1 to [`MAX_SEGMENTS`]. With 1, every datagram leaves alone.
    pub max_segments: usize,
    /// Buffers in the pool, at least 1. Each batch holds one, from its first datagram until it is
    /// recycled or dropped. Allocated when first needed, then kept.
    pub buffers: usize,
    /// Bytes of one buffer, at least 1: the longest batch, and so also the longest datagram.
    /// [`Destination::max_payload`](crate::Destination::max_payload) bounds both as well. A relay of many
    /// small flows may want more and smaller buffers in the same memory.
    pub buffer_bytes: usize,
}

impl QueueConfig {
    /// 64 segments, 128 buffers of 64 KiB.
    pub const DEFAULT: Self =
        Self { max_segments: DEFAULT_SEGMENTS, buffers: DEFAULT_BUFFERS, buffer_bytes: DEFAULT_BUFFER_BYTES };

    /// The most bytes of datagrams that the queue, and all batches popped from it, can hold together.
    pub const fn memory_bound(&self) -> usize {
        self.buffers.saturating_mul(self.buffer_bytes)
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a queue has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounters {
    /// Datagrams appended.
    pub datagrams: u64,
    /// Bytes of those datagrams (UDP payload).
    pub bytes: u64,
    /// Batches opened. `datagrams / batches` is what GSO makes of the traffic.
    pub batches: u64,
    /// Batches that a shorter last datagram sealed.
    pub sealed_by_shorter: u64,
    /// Batches left behind because the next datagram to the same remote address needed another source
    /// address or other ECN bits.
    pub left_for_other_header: u64,
    /// Batches left behind because the next datagram was longer than their segments.
    pub left_for_longer: u64,
    /// Batches left behind at the segment cap.
    pub left_at_segment_cap: u64,
    /// Batches left behind at the byte cap.
    pub left_at_byte_cap: u64,
    /// Appends refused with [`AppendError::Full`](crate::AppendError::Full).
    pub refused_full: u64,
}
