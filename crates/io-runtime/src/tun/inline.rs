//! The drive loop reads and writes the device itself: no hops, no wake-ups between threads.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use tun_device::{CoalesceConfig, Coalescer, MAX_FRAME_LEN, TunDevice, VNET_HEADER_LEN};

use super::{Flushed, Merging, Outlet, RETRY_PAUSE, TunPort, read_frame};
use crate::{Error, IoCounters, alarm::Arrival};

/// See the module.
#[derive(Debug)]
pub(crate) struct Inline<D> {
    device: Arc<D>,
    buffer: Box<[u8]>,
    outlet: Outlet,
    merging: Merging,
    /// The device took nothing: leave it alone until then.
    blocked_until: Option<Instant>,
}

impl<D: TunDevice + AsFd> Inline<D> {
    pub(crate) fn new(device: Arc<D>, coalesce: CoalesceConfig) -> Self {
        let buffer = vec![0; MAX_FRAME_LEN].into_boxed_slice();
        let merging = Merging::new(&coalesce);
        Self { device, buffer, outlet: Outlet::new(coalesce), merging, blocked_until: None }
    }
}

impl<D: TunDevice + AsFd> TunPort for Inline<D> {
    fn next_frame(&mut self, counters: &mut IoCounters) -> Result<Option<&mut [u8]>, Error> {
        counters.traffic.tun_reads += 1;
        let read = read_frame(&*self.device, &mut self.buffer, &mut counters.drops.tun_unreadable)?;
        let Some(len) = read else { return Ok(None) };
        counters.traffic.tun_frames_read += 1;
        counters.traffic.tun_bytes_read += len.saturating_sub(VNET_HEADER_LEN) as u64;
        Ok(Some(&mut self.buffer[..len]))
    }

    fn output(&mut self, now: Instant, counters: &mut IoCounters) -> Result<Option<&mut Coalescer>, Error> {
        if self.outlet.coalescer.is_full() {
            self.flush(now, counters)?;
        }
        if self.merging.is_due(now) {
            self.merging.try_again(now);
            self.merging.apply_to(&mut self.outlet.coalescer);
        }
        let has_room = !self.outlet.coalescer.is_full();
        Ok(has_room.then_some(&mut self.outlet.coalescer))
    }

    fn flush(&mut self, now: Instant, counters: &mut IoCounters) -> Result<(), Error> {
        if self.outlet.coalescer.is_empty() || self.blocked_until.is_some_and(|then| now < then) {
            return Ok(());
        }
        let flushed = self.outlet.flush(&*self.device);
        self.settle(now, counters);
        self.blocked_until = matches!(flushed, Flushed::Blocked).then(|| now + RETRY_PAUSE);
        match flushed {
            Flushed::All | Flushed::Blocked => Ok(()),
            Flushed::Gone => Err(Error::DeviceGone),
            Flushed::Refused(error) => Err(Error::Device(error.into())),
        }
    }

    fn settle(&mut self, now: Instant, counters: &mut IoCounters) {
        self.outlet.settle(&mut self.merging, now, counters);
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn has_arrived(&self, _: Arrival) -> bool {
        false
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn resting(&self) -> (bool, bool) {
        self.merging.resting()
    }

    fn retry_at(&self) -> Option<Instant> {
        self.blocked_until
    }

    fn close(self) -> Result<(), Error> {
        Ok(())
    }
}
