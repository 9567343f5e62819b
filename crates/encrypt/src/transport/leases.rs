//! The leases of a batch: datagrams that are laid out one by one, and sealed all together later.

use std::{fmt, sync::Arc};

use super::{LeaseError, TransportKeys};
use crate::{
    DATA_OVERHEAD,
    wipe::{self, with_clean_stack},
};

/// Which datagrams of a batch are to be sealed, with which keys and counters: in runs, for most often the next datagram is of
/// the same session, and its counter the next one. A run holds its session's keys once, and makes the cipher's key once.
///
/// `Send`, so that any core may seal the batch; not `Clone`, and empty after [`seal`](Self::seal), so that no counter is used
/// twice. What has been allocated is kept for the next batch.
#[derive(Default)]
#[must_use = "what is leased and not sealed leaves as plaintext"]
pub struct Leases {
    runs: Vec<Run>,
}

/// Counters that follow each other, for datagrams that do.
struct Run {
    keys: Arc<TransportKeys>,
    first: u64,
    /// The first datagram's number in the batch.
    segment: usize,
    datagrams: usize,
}

impl Run {
    /// True if it would take in a datagram with this number and counter.
    fn goes_on_with(&self, keys: &Arc<TransportKeys>, segment: usize, counter: u64) -> bool {
        let follows =
            self.segment + self.datagrams == segment && self.first + self.datagrams as u64 == counter;
        follows && Arc::ptr_eq(&self.keys, keys)
    }
}

impl Leases {
    /// Leases one counter for the datagram with this number in the batch, which is that of none before. Gives the counter.
    ///
    /// # Errors
    /// Those of [`TransportKeys::lease`]. Nothing has changed.
    #[inline]
    pub fn push(&mut self, keys: &Arc<TransportKeys>, segment: usize) -> Result<u64, LeaseError> {
        let counter = keys.take(1)?;
        match self.runs.last_mut() {
            Some(last) if last.goes_on_with(keys, segment, counter) => last.datagrams += 1,
            _ => {
                let keys = Arc::clone(keys);
                self.runs.push(Run { keys, first: counter, segment, datagrams: 1 });
            }
        }
        Ok(counter)
    }

    /// Seals in place (§5.4.6) what there are leases for, and uses these up. `datagrams` are those of the batch, `segment_len`
    /// bytes each but for the last, which may be shorter: each that is leased for has 16 bytes of room for the header, the padded
    /// plaintext, and 16 bytes of room for the tag. All others are left alone.
    pub fn seal(&mut self, datagrams: &mut [u8], segment_len: usize) {
        if self.runs.is_empty() {
            return;
        }
        with_clean_stack::<{ wipe::DATA }, _>(|| {
            for run in self.runs.drain(..) {
                let cipher = run.keys.sealing.make_ready();
                let datagrams =
                    datagrams.chunks_mut(segment_len.max(1)).skip(run.segment).take(run.datagrams);
                for (datagram, counter) in datagrams.zip(run.first..) {
                    debug_assert!(datagram.len() >= DATA_OVERHEAD, "there is no room for header and tag");
                    run.keys.seal(&cipher, counter, datagram);
                }
            }
        });
    }

    /// Gives the leases up: their counters are never used, as if the datagrams had been lost.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// True if there is nothing to seal.
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.runs.iter().map(|run| (run.segment, run.first..run.first + run.datagrams as u64));
        f.debug_map().entries(runs).finish()
    }
}
