//! What crosses from the reader thread to the loop: many frames in one pooled buffer.

use std::ops::Range;

use tun_device::{MAX_FRAME_LEN, TunDevice, VNET_HEADER_LEN};

use super::read_frame;
use crate::{Error, IoCounters};

/// Bytes of one buffer: a frame is read while the longest one would fit, so 64 KiB of small frames can
/// gather before a buffer counts as full.
pub(super) const BUFFER_BYTES: usize = 2 * MAX_FRAME_LEN;

/// Frames read in one go, in order.
#[derive(Debug)]
pub(super) struct FrameBatch {
    memory: Box<[u8]>,
    /// Where the frames lie; never more than the capacity it was made with.
    frames: Vec<Range<usize>>,
    /// Frames taken out so far.
    taken: usize,
    reads: u64,
    lost: u64,
}

impl FrameBatch {
    pub(super) fn new(max_frames: usize) -> Self {
        Self {
            memory: vec![0; BUFFER_BYTES].into_boxed_slice(),
            frames: Vec::with_capacity(max_frames.max(1)),
            taken: 0,
            reads: 0,
            lost: 0,
        }
    }

    /// Reads until the device has no more or there is no room. True if the device has no more.
    pub(super) fn fill(&mut self, device: &impl TunDevice) -> Result<bool, Error> {
        while self.frames.len() < self.frames.capacity() {
            let start = self.frames.last().map_or(0, |frame| frame.end);
            let room = &mut self.memory[start..];
            if room.len() < MAX_FRAME_LEN {
                return Ok(false);
            }
            self.reads += 1;
            let Some(len) = read_frame(device, room, &mut self.lost)? else { return Ok(true) };
            self.frames.push(start..start + len.min(MAX_FRAME_LEN));
        }
        Ok(false)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.frames.len()
    }

    /// The next frame.
    pub(super) fn take(&mut self) -> Option<&mut [u8]> {
        let frame = self.frames.get(self.taken)?.clone();
        self.taken += 1;
        Some(&mut self.memory[frame])
    }

    /// Adds what was read to the loop's counters.
    pub(super) fn count(&self, counters: &mut IoCounters) {
        let bytes: usize = self.frames.iter().map(|frame| frame.len().saturating_sub(VNET_HEADER_LEN)).sum();
        counters.traffic.tun_reads += self.reads;
        counters.traffic.tun_frames_read += self.frames.len() as u64;
        counters.traffic.tun_bytes_read += bytes as u64;
        counters.drops.tun_unreadable += self.lost;
    }

    /// Ready to be filled again.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        (self.taken, self.reads, self.lost) = (0, 0, 0);
    }
}
