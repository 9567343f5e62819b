//! Opening a train in place: authentication only.

use std::ops::Range;

use super::{DATA_HEADER_LEN, TransportKeys, cipher::Cipher};
use crate::{
    REJECT_AFTER_MESSAGES, Reject,
    wipe::{self, with_clean_stack},
    wire::Message,
};

/// An authentic message that may have been received before. It tells nothing; only
/// [`ReplayWindow::commit`](super::ReplayWindow::commit) makes something of it.
#[derive(Debug)]
#[must_use = "a message that is not committed is lost"]
pub struct Unchecked {
    pub(super) index: u32,
    pub(super) counter: u64,
    pub(super) len: usize,
}

impl Unchecked {
    /// The receiver index that it was sent to.
    pub(crate) const fn receiver(&self) -> u32 {
        self.index
    }
}

/// An authentic message that was never received before.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a message that was committed is to be delivered"]
pub struct Fresh {
    pub(super) len: usize,
}

impl Fresh {
    /// Where in its datagram the plaintext lies, padding included.
    pub const fn content(&self) -> Range<usize> {
        DATA_HEADER_LEN..DATA_HEADER_LEN + self.len
    }

    /// True for a message without content.
    pub const fn is_keepalive(&self) -> bool {
        self.len == 0
    }
}

impl TransportKeys {
    /// Authenticates and decrypts one datagram in place. The plaintext then begins 16 bytes in; it is nobody's before
    /// the message is committed.
    ///
    /// # Errors
    /// * [`Reject::Malformed`]: not a data message. It is as it was.
    /// * [`Reject::NoSession`]: for other keys than these. It is as it was.
    /// * [`Reject::Replay`]: its counter is past REJECT_AFTER_MESSAGES (§6.2). It is as it was.
    /// * [`Reject::BadTag`]: not authentic. Its content was overwritten with zeros.
    pub fn open(&self, datagram: &mut [u8]) -> Result<Unchecked, Reject> {
        with_clean_stack::<{ wipe::DATA }, _>(|| self.open_one(&self.opening.make_ready(), datagram))
    }

    /// As [`open`](Self::open) for each datagram of `train`, which are `stride` bytes long each but the last. Calls `each`
    /// with where the datagram lies and what came of it, in order. A stride of 0 stands for one datagram.
    pub fn open_train(
        &self,
        train: &mut [u8],
        stride: usize,
        mut each: impl FnMut(Range<usize>, Result<Unchecked, Reject>),
    ) {
        let stride = if stride == 0 { train.len().max(1) } else { stride };
        with_clean_stack::<{ wipe::DATA }, _>(|| {
            let cipher = self.opening.make_ready();
            let mut start = 0;
            for datagram in train.chunks_mut(stride) {
                let place = start..start + datagram.len();
                start = place.end;
                each(place, self.open_one(&cipher, datagram));
            }
        });
    }

    pub(super) fn open_one(&self, cipher: &Cipher, datagram: &mut [u8]) -> Result<Unchecked, Reject> {
        let Message::Data { receiver, counter } = Message::parse(datagram)? else {
            return Err(Reject::Malformed);
        };
        if receiver != self.local_index() {
            return Err(Reject::NoSession);
        }
        // No peer seals with such a counter, and no window arithmetic ever sees one.
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Reject::Replay);
        }
        match cipher.open(counter, &mut datagram[DATA_HEADER_LEN..]) {
            Ok(len) => Ok(Unchecked { index: receiver, counter, len }),
            Err(_) => Err(Reject::BadTag),
        }
    }
}
