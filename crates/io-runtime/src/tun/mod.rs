//! The TUN side, behind one small interface with two arrangements: [`Inline`] reads and writes the device
//! from the drive loop, [`Threads`] has a thread for each direction.

mod frames;
mod inline;
mod merging;
#[cfg(test)]
mod tests;
mod threads;

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use nix::libc;
use tun_device::{CoalesceConfig, CoalesceCounters, Coalescer, TunDevice, VNET_HEADER_LEN};

use self::merging::Merging;
pub(crate) use self::{inline::Inline, threads::Threads};
use crate::{Error, IoCounters, alarm::Arrival};

/// What the drive loop knows of the TUN. No call blocks for longer than a system call takes.
pub(crate) trait TunPort {
    /// The next frame from the TUN: a virtio-net header and a packet, in memory the loop may use up.
    /// `None` when there is none now.
    ///
    /// # Errors
    /// [`Error::DeviceGone`], or what else ends the data plane.
    fn next_frame(&mut self, counters: &mut IoCounters) -> Result<Option<&mut [u8]>, Error>;

    /// Where to put the next packet for the TUN: a coalescer with room for it. `None` while the TUN takes
    /// nothing more.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    fn output(&mut self, now: Instant, counters: &mut IoCounters) -> Result<Option<&mut Coalescer>, Error>;

    /// Writes what is in the coalescer.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    fn flush(&mut self, now: Instant, counters: &mut IoCounters) -> Result<(), Error>;

    /// Brings the counters up to date, but for what is being written at this moment.
    fn settle(&mut self, now: Instant, counters: &mut IoCounters);

    /// The descriptor that becomes readable, edge-triggered, when there may be a frame. `None` where threads
    /// hand them over, and ring the loop's alarm.
    fn source(&self) -> Option<BorrowedFd<'_>>;

    /// True when a thread has handed over what [`next_frame`](Self::next_frame) (for frames) or
    /// [`output`](Self::output) (for room) will find.
    fn has_arrived(&self, arrival: Arrival) -> bool;

    /// True when a thread has ended: [`next_frame`](Self::next_frame) will say why, after the frames that are left.
    fn has_ended(&self) -> bool;

    /// Whether merging rests, for TCP and for UDP, because the kernel refused a super-packet.
    fn resting(&self) -> (bool, bool);

    /// When to try [`flush`](Self::flush) again although nothing else happens.
    fn retry_at(&self) -> Option<Instant>;

    /// Ends the arrangement's threads and waits for them.
    ///
    /// # Errors
    /// [`Error::Panicked`] if one of them did.
    fn close(self) -> Result<(), Error>;
}

/// Pause after the device took nothing. The kernel's TUN never does that; others may.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// Reads that may fail in a row before the device is given up. One may fail because of its frame.
const READ_FAILURES: u64 = 64;

/// Reads one frame; `None` when there is none now. Frames that cannot be read are counted in `lost`.
fn read_frame(device: &impl TunDevice, buf: &mut [u8], lost: &mut u64) -> Result<Option<usize>, Error> {
    let mut failures = 0;
    loop {
        match device.recv(buf) {
            Ok(len) => return Ok(Some(len)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::UnexpectedEof => return Err(Error::DeviceGone),
                io::ErrorKind::Interrupted => {}
                _ if failures < READ_FAILURES => {
                    tracing::debug!(%error, "a TUN read failed");
                    failures += 1;
                    *lost += 1;
                }
                _ => return Err(Error::Device(error.into())),
            },
        }
    }
}

/// Keeps the error, and gives the one at which a coalescer stops instead of dropping the frame and going on.
fn stop_for(error: io::Error, kept: &mut Option<io::Error>) -> io::Error {
    *kept = Some(error);
    io::ErrorKind::UnexpectedEof.into()
}

/// A coalescer, and what it has done that is not counted yet.
#[derive(Debug)]
struct Outlet {
    coalescer: Coalescer,
    counted: CoalesceCounters,
    writes: u64,
    bytes: u64,
}

/// How a flush ended.
#[derive(Debug)]
enum Flushed {
    /// Everything is written.
    All,
    /// The device takes no more now; the rest is still there.
    Blocked,
    /// The device is gone.
    Gone,
    /// Writing is forbidden, to this program or altogether.
    Refused(io::Error),
}

impl Outlet {
    fn new(config: CoalesceConfig) -> Self {
        let coalescer = Coalescer::new(config);
        Self { coalescer, counted: CoalesceCounters::default(), writes: 0, bytes: 0 }
    }

    fn flush(&mut self, device: &impl TunDevice) -> Flushed {
        let mut refusal = None;
        loop {
            let result = self.coalescer.flush(|frame| {
                self.writes += 1;
                if let Err(error) = device.send(frame) {
                    let is_refused = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
                    return Err(if is_refused { stop_for(error, &mut refusal) } else { error });
                }
                self.bytes += frame.len().saturating_sub(VNET_HEADER_LEN) as u64;
                Ok(())
            });
            match result {
                Ok(()) => return Flushed::All,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::UnexpectedEof => return refusal.map_or(Flushed::Gone, Flushed::Refused),
                    _ => return Flushed::Blocked,
                },
            }
        }
    }

    /// Moves what happened since the last time into the loop's counters, and lets `merging` learn from it.
    fn settle(&mut self, merging: &mut Merging, now: Instant, counters: &mut IoCounters) {
        let (before, after) = (self.counted, *self.coalescer.counters());
        for (protocol, is_new) in ["TCP", "UDP"].into_iter().zip(merging.learn(&before, &after, now)) {
            if is_new {
                tracing::info!(
                    "the kernel refused merged {protocol} packets: they are written one by one for now"
                );
            }
        }
        counters.traffic.tun_writes += std::mem::take(&mut self.writes);
        counters.traffic.tun_bytes_written += std::mem::take(&mut self.bytes);
        counters.traffic.tun_packets_written += after.packets - before.packets;
        counters.traffic.tun_super_frames_written += after.super_frames() - before.super_frames();
        counters.traffic.tun_frames_replayed += after.replayed - before.replayed;
        counters.drops.tun_down += after.dropped_down - before.dropped_down;
        counters.drops.tun_refused += after.dropped_error - before.dropped_error;
        self.counted = after;
    }
}
