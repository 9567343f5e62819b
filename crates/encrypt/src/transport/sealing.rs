//! Sealing a train in place with counters that were leased for it.

use std::{fmt, ops::Range, sync::Arc};

use super::{DATA_HEADER_LEN, DATA_TAG_LEN, TransportKeys, cipher::Cipher};
use crate::{
    DATA_OVERHEAD,
    wipe::{self, with_clean_stack},
    wire::TYPE_DATA,
};

/// Counters that only their holder may seal with, each once. `Send`, so that any core may; not `Clone`, and consumed
/// by sealing, so that no counter is used twice: what could not be sent is sent again as it was sealed, or dropped.
///
/// ```compile_fail,E0382
/// # fn seal(lease: encrypt::transport::Lease, train: &mut [u8]) {
/// let _ = lease.seal_train(train, 1452);
/// let _ = lease.seal_train(train, 1452); // the counters are used up
/// # }
/// ```
#[must_use = "the counters of a lease that is dropped are never used"]
pub struct Lease {
    keys: Arc<TransportKeys>,
    first: u64,
    datagrams: usize,
}

/// The train does not fit the lease. The caller's fault; the train is as it was, and the counters are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a train has as many datagrams as were leased, each of at least {DATA_OVERHEAD} bytes")]
pub struct TrainError;

impl Lease {
    pub(super) const fn new(keys: Arc<TransportKeys>, first: u64, datagrams: usize) -> Self {
        Self { keys, first, datagrams }
    }

    /// How many datagrams it is for.
    pub const fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Its counters.
    pub const fn counters(&self) -> Range<u64> {
        self.first..self.first + self.datagrams as u64
    }

    /// Seals `train` in place (§5.4.6): datagrams of `stride` bytes, of which the last may be shorter, each 16 bytes of room
    /// for the header, the padded plaintext, and 16 bytes of room for the tag. The first datagram takes the lowest counter.
    ///
    /// # Errors
    /// The train has not as many datagrams as were leased, or one is too short. Nothing was sealed.
    pub fn seal_train(self, train: &mut [u8], stride: usize) -> Result<(), TrainError> {
        let as_many_as_leased = stride > 0 && train.len().div_ceil(stride) == self.datagrams;
        let last = train.len() - train.len().saturating_sub(1) / stride.max(1) * stride;
        let long_enough = self.datagrams == 0 || last >= DATA_OVERHEAD;
        if !(as_many_as_leased && long_enough) {
            return Err(TrainError);
        }
        with_clean_stack::<{ wipe::DATA }, _>(|| {
            let cipher = self.keys.sealing.make_ready();
            for (datagram, counter) in train.chunks_mut(stride).zip(self.counters()) {
                self.keys.seal(&cipher, counter, datagram);
            }
        });
        Ok(())
    }
}

impl TransportKeys {
    /// `datagram` is at least [`DATA_OVERHEAD`] bytes long.
    pub(super) fn seal(&self, cipher: &Cipher, counter: u64, datagram: &mut [u8]) {
        let Some((header, rest)) = datagram.split_first_chunk_mut() else { return };
        let Some((content, tag)) = rest.split_last_chunk_mut::<DATA_TAG_LEN>() else { return };
        self.write_header(counter, header);
        cipher.seal(counter, content, tag);
    }

    /// Writes the header of a message from us (§5.4.6).
    pub(crate) fn write_header(&self, counter: u64, header: &mut [u8; DATA_HEADER_LEN]) {
        header[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("counters", &self.counters()).finish_non_exhaustive()
    }
}
