//! Merging decrypted packets into super-packets on their way to the TUN.

use std::{collections::VecDeque, io, ops::Range};

use super::{
    flow::{self, FlowKey, Hosts, Packet, Protocol},
    frame::{Frame, MAX_PACKET_LEN, Run},
    segment::Segmenter,
};
use crate::{Offloads, VNET_HEADER_LEN};

/// How a [`Coalescer`] merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceConfig {
    /// Merge TCP segments.
    pub tso: bool,
    /// Merge UDP datagrams.
    pub uso: bool,
    /// Flows that may grow at the same time; a further one ends the oldest.
    pub max_flows: usize,
    /// Frames held at most; each has a buffer of its own of about 64 KiB, touched only as far as used.
    pub max_frames: usize,
    /// Segments of a UDP super-packet: Linux before 6.9 refuses more than 64 (`UDP_MAX_SEGMENTS`).
    pub max_udp_segments: usize,
    /// Segments of a TCP super-packet. The kernel has no limit; this bounds what one frame of tiny segments
    /// costs to split again.
    pub max_tcp_segments: usize,
}

impl CoalesceConfig {
    /// Merges what the device takes.
    pub fn for_device(offloads: Offloads) -> Self {
        Self { tso: offloads.tso, uso: offloads.uso, ..Self::default() }
    }
}

impl Default for CoalesceConfig {
    fn default() -> Self {
        Self {
            tso: true,
            uso: true,
            max_flows: 16,
            max_frames: DEFAULT_FRAMES,
            max_udp_segments: 64,
            max_tcp_segments: 128,
        }
    }
}

/// What a [`Coalescer`] has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoalesceCounters {
    /// Packets taken.
    pub packets: u64,
    /// Of these, packets appended to a frame that was there.
    pub merged: u64,
    /// Frames written, each by one system call.
    pub frames: u64,
    /// Super-packets of TCP segments.
    pub tcp: SuperPackets,
    /// Super-packets of UDP datagrams.
    pub udp: SuperPackets,
    /// Super-packets of which the packets were written one by one.
    pub replayed: u64,
    /// Frames or replayed packets dropped because the interface is down.
    pub dropped_down: u64,
    /// Frames or replayed packets dropped on any other write error.
    pub dropped_error: u64,
}

/// What became of the super-packets of one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuperPackets {
    /// Written as they are.
    pub written: u64,
    /// Refused by the kernel.
    pub refused: u64,
}

impl CoalesceCounters {
    /// Super-packets written as they are.
    pub const fn super_frames(&self) -> u64 {
        self.tcp.written + self.udp.written
    }

    const fn super_packets(&mut self, protocol: Protocol) -> &mut SuperPackets {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        }
    }

    fn count_drop(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::NetworkDown => self.dropped_down += 1,
            _ => self.dropped_error += 1,
        }
    }
}

/// No frame is free for the packet, and nothing of it was taken: flush, then push it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coalescer is full: flush it, then push the packet again")]
pub struct Full;

/// Merges runs of TCP segments and UDP datagrams into super-packets.
///
/// ```text
/// loop { push(packet), from where it was decrypted -> until the input is used up or is_full() } -> flush(write)
/// ```
///
/// * A packet's payload is copied once, behind its run; only the first packet of a frame is copied whole.
/// * Packets of one flow leave in the order in which they were pushed. Flows may overtake each other
///   within one flush.
/// * Only segments whose checksums verify are merged, and only if [`Segments`](super::Segments) gives back
///   the very packets; all else leaves as it came. (One exception: the IPv4 identifications of packets
///   with DF set, which nobody may read, RFC 6864 §4.1, come back numbered one after the other.)
/// * Memory is fixed when it is made.
#[derive(Debug)]
pub struct Coalescer {
    config: CoalesceConfig,
    /// `max_frames` buffers of [`STRIDE`] bytes.
    memory: Box<[u8]>,
    free: Vec<usize>,
    /// Frames in the order of their first packets.
    queue: VecDeque<Frame>,
    /// The serial number of the queue's front.
    front: u64,
    /// Which queued frames may still grow, oldest first.
    flows: Vec<OpenFlow>,
    replay: Option<Replay>,
    counters: CoalesceCounters,
}

#[derive(Debug)]
struct OpenFlow {
    key: FlowKey,
    /// Serial number of its newest frame.
    frame: u64,
}

/// The queue's front frame, refused as a whole, on its way packet by packet.
#[derive(Debug)]
struct Replay {
    segmenter: Segmenter,
    /// The packet to be written next, if one was made already.
    packet: Option<Range<usize>>,
}

/// Bytes in front of each frame, so that IP headers are aligned to 16 bytes.
const LEAD: usize = 6;
/// Bytes per buffer: the longest frame, rounded up to whole cache lines, and off 4 KiB multiples so that
/// the buffers' heads do not share cache sets.
const STRIDE: usize = (LEAD + VNET_HEADER_LEN + MAX_PACKET_LEN).next_multiple_of(64);
/// One receive batch's worth of packets that do not merge; 2 MiB.
const DEFAULT_FRAMES: usize = 32;

const _: () = assert!(DEFAULT_FRAMES * STRIDE <= 4 << 20, "a coalescer must fit its 4 MiB budget");
const _: () = assert!(!STRIDE.is_multiple_of(4096), "buffer heads must not share cache sets");

impl Coalescer {
    /// Allocates all its memory. At least one frame is held, whatever `max_frames` says.
    pub fn new(config: CoalesceConfig) -> Self {
        let config = CoalesceConfig { max_frames: config.max_frames.max(1), ..config };
        Self {
            config,
            memory: vec![0; config.max_frames * STRIDE].into_boxed_slice(),
            free: (0..config.max_frames).rev().collect(),
            queue: VecDeque::with_capacity(config.max_frames),
            front: 0,
            flows: Vec::with_capacity(config.max_flows),
            replay: None,
            counters: CoalesceCounters::default(),
        }
    }

    /// Takes a packet of at most 65,535 bytes, from wherever it lies.
    ///
    /// # Errors
    /// [`Full`] if it can neither be merged nor have a frame of its own. Nothing changed then.
    pub fn push(&mut self, packet: &[u8]) -> Result<(), Full> {
        debug_assert!(packet.len() <= MAX_PACKET_LEN, "longer than any datagram's content");
        let config = self.config;
        match flow::classify(packet, |protocol| config.merges(protocol)) {
            Packet::Segment(segment) => {
                if self.try_merge(&segment, packet) {
                    self.counters.packets += 1;
                    self.counters.merged += 1;
                    return Ok(());
                }
                let key = segment.key;
                let frame = self.start_frame(packet, Some(Run::new(segment)))?;
                self.end_flow(&key);
                self.open_flow(OpenFlow { key, frame });
            }
            Packet::Alone(key) => {
                self.start_frame(packet, None)?;
                self.end_flow(&key);
            }
            Packet::Hosts(hosts) => {
                self.start_frame(packet, None)?;
                self.end_flows_between(&hosts);
            }
            Packet::Other => {
                self.start_frame(packet, None)?;
            }
        }
        Ok(())
    }

    /// Writes every frame, in order, through `write`, which gets a virtio-net header and a packet.
    ///
    /// A super-packet refused with EINVAL is written again packet by packet, and its protocol is not merged
    /// from then on, until [`set_merging`](Self::set_merging) says so. On other errors the frame is dropped
    /// and counted.
    ///
    /// # Errors
    /// `WouldBlock`, `Interrupted` and `UnexpectedEof` end the flush. What was not written stays, without
    /// loss or repetition, for the next flush.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while let Some(frame) = self.queue.front() {
            if self.replay.is_none() && self.is_allowed(frame) {
                self.write_front(&mut write)?;
            } else {
                self.replay_front(&mut write)?;
            }
        }
        Ok(())
    }

    /// Whether the next packet may be refused: flush now.
    pub fn is_full(&self) -> bool {
        self.queue.len() == self.config.max_frames
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What is merged now: as configured, less what the kernel has refused.
    pub const fn config(&self) -> &CoalesceConfig {
        &self.config
    }

    /// Merges TCP segments and UDP datagrams from now on, or does not: how a caller, who has a clock, tries
    /// again after a refusal. Super-packets that wait are written by the new rule.
    pub const fn set_merging(&mut self, tso: bool, uso: bool) {
        self.config.tso = tso;
        self.config.uso = uso;
    }

    /// Counters since it was made.
    pub const fn counters(&self) -> &CoalesceCounters {
        &self.counters
    }

    fn try_merge(&mut self, segment: &flow::Segment, packet: &[u8]) -> bool {
        // The newest flow is the likeliest.
        let Some(open) = self.flows.iter().rfind(|open| open.key == segment.key) else { return false };
        let index = (open.frame - self.front) as usize;
        let frame = &mut self.queue[index];
        let Some(run) = &mut frame.run else { return false };
        let max_segments = match segment.key.protocol() {
            Protocol::Tcp => self.config.max_tcp_segments,
            Protocol::Udp => self.config.max_udp_segments,
        };
        let into = &mut self.memory[packet_range(frame.buffer, MAX_PACKET_LEN)];
        let Some(new_len) = run.try_append(segment, packet, into, frame.len, max_segments) else {
            return false;
        };
        frame.len = new_len;
        true
    }

    /// Makes the packet a frame of its own, behind all others. Gives its serial number.
    fn start_frame(&mut self, packet: &[u8], run: Option<Run>) -> Result<u64, Full> {
        let packet = &packet[..packet.len().min(MAX_PACKET_LEN)];
        let buffer = self.free.pop().ok_or(Full)?;
        self.memory[packet_range(buffer, packet.len())].copy_from_slice(packet);
        let serial = self.front + self.queue.len() as u64;
        self.queue.push_back(Frame { buffer, len: packet.len(), run });
        self.counters.packets += 1;
        Ok(serial)
    }

    fn open_flow(&mut self, flow: OpenFlow) {
        if self.config.max_flows == 0 {
            return;
        }
        if self.flows.len() >= self.config.max_flows {
            self.flows.remove(0);
        }
        self.flows.push(flow);
    }

    fn end_flow(&mut self, key: &FlowKey) {
        self.flows.retain(|open| open.key != *key);
    }

    fn end_flows_between(&mut self, hosts: &Hosts) {
        self.flows.retain(|open| open.key.hosts != *hosts);
    }

    /// Whether the frame may be written as it is: the kernel may have refused its kind since it was merged.
    fn is_allowed(&self, frame: &Frame) -> bool {
        !frame.is_super() || frame.protocol().is_some_and(|protocol| self.config.merges(protocol))
    }

    fn write_front(&mut self, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let frame = &self.queue[0];
        let bytes = &mut self.memory[frame_range(frame.buffer, frame.len)];
        frame.finish(bytes);
        let result = write(bytes);
        match result {
            Err(error) if ends_flush(&error) => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && frame.is_super() => {
                self.refuse_front();
                return Ok(()); // the next round replays it
            }
            Err(error) => self.counters.count_drop(&error),
            Ok(()) => {
                self.counters.frames += 1;
                if let Some(protocol) = frame.protocol().filter(|_| frame.is_super()) {
                    self.counters.super_packets(protocol).written += 1;
                }
            }
        }
        self.pop_front();
        Ok(())
    }

    /// The kernel takes no super-packets of this kind: make none for now.
    fn refuse_front(&mut self) {
        let Some(protocol) = self.queue[0].protocol() else { return };
        self.counters.super_packets(protocol).refused += 1;
        match protocol {
            Protocol::Tcp => self.config.tso = false,
            Protocol::Udp => self.config.uso = false,
        }
    }

    fn replay_front(&mut self, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let frame = &self.queue[0];
        let bytes = &mut self.memory[frame_range(frame.buffer, frame.len)];
        let replay = match &mut self.replay {
            Some(replay) => replay,
            none => {
                frame.finish(bytes);
                let segmenter = Segmenter::new(bytes).unwrap_or(Segmenter::Done);
                self.counters.replayed += 1;
                none.insert(Replay { segmenter, packet: None })
            }
        };
        while let Some(packet) = replay.packet.take().or_else(|| replay.segmenter.next(bytes)) {
            // The virtio-net header goes over the tail of the packet before, which is written.
            let range = packet.start - VNET_HEADER_LEN..packet.end;
            bytes[range.start..packet.start].fill(0);
            match write(&bytes[range]) {
                Err(error) if ends_flush(&error) => {
                    replay.packet = Some(packet);
                    return Err(error);
                }
                Err(error) => self.counters.count_drop(&error),
                Ok(()) => self.counters.frames += 1,
            }
        }
        self.pop_front();
        Ok(())
    }

    fn pop_front(&mut self) {
        self.replay = None;
        let Some(frame) = self.queue.pop_front() else { return };
        self.free.push(frame.buffer);
        let serial = self.front;
        self.front += 1;
        self.flows.retain(|open| open.frame != serial);
    }
}

impl CoalesceConfig {
    fn merges(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.tso,
            Protocol::Udp => self.uso,
        }
    }
}

/// Errors that say nothing about the frame: it must be kept.
fn ends_flush(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof
    )
}

/// Where a buffer's packet lies.
fn packet_range(buffer: usize, len: usize) -> Range<usize> {
    let start = buffer * STRIDE + LEAD + VNET_HEADER_LEN;
    start..start + len
}

/// Where a buffer's virtio-net header and packet lie.
fn frame_range(buffer: usize, len: usize) -> Range<usize> {
    let start = buffer * STRIDE + LEAD;
    start..start + VNET_HEADER_LEN + len
}
