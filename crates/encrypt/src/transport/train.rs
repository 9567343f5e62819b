//! Opening a train whose datagrams may be of any session, or of none.

use std::{fmt, ops::Range, sync::Arc};

use super::{TransportKeys, Unchecked};
use crate::{
    PeerIndex, Reject,
    wipe::{self, with_clean_stack},
    wire::Message,
};

/// A train that was received, on its way through three steps: whoever owns the peers [looks up](Self::prepare) which keys each
/// datagram is for, anybody [opens](Self::run) them, and the owner takes the results [one by one](Self::take_next), in order of
/// arrival.
///
/// The kernel puts datagrams of one address into a train, and these may be of several sessions, handshakes, or garbage. What
/// is not for known keys stays as it came, to be received by itself in its turn: a response that makes keys may come before
/// the first message under them.
///
/// To be used again: what has been allocated is kept.
#[derive(Default)]
pub struct TrainOpening {
    stride: usize,
    /// Datagrams that follow each other and are for the same keys.
    runs: Vec<Run>,
    /// One for each datagram.
    outcomes: Vec<Outcome>,
    /// The first datagram that was not taken out yet, and where it begins.
    next: usize,
    at: usize,
    len: usize,
}

struct Run {
    keys: Arc<TransportKeys>,
    peer: PeerIndex,
    /// The first datagram's number in the train.
    first: usize,
    datagrams: usize,
}

#[derive(Debug)]
enum Outcome {
    /// Not opened.
    Apart,
    Opened(PeerIndex, Result<Unchecked, Reject>),
}

/// The next datagram of a train, and what came of it.
#[derive(Debug)]
#[must_use = "a datagram that is not taken further is lost"]
pub struct Arrived {
    /// Where it lies in the train.
    pub place: Range<usize>,
    /// Whose keys it was opened with, and what that gave. `None` if it was not opened, and is as it came.
    pub opened: Option<(PeerIndex, Result<Unchecked, Reject>)>,
}

impl TrainOpening {
    /// With room for so many datagrams: a train that has no more allocates nothing, whosesoever they are.
    pub fn with_capacity(datagrams: usize) -> Self {
        let (runs, outcomes) = (Vec::with_capacity(datagrams), Vec::with_capacity(datagrams));
        Self { runs, outcomes, ..Self::default() }
    }

    /// Begins with a train of datagrams of `stride` bytes, of which the last may be shorter; a stride of 0 stands for one datagram.
    /// Forgets the train before. `keys_of` tells whose a receiver index is, and the keys that open what is sent to it, if
    /// there are any.
    pub fn prepare(
        &mut self,
        train: &[u8],
        stride: usize,
        mut keys_of: impl FnMut(u32) -> Option<(PeerIndex, Arc<TransportKeys>)>,
    ) {
        self.clear();
        self.stride = if stride == 0 { train.len().max(1) } else { stride };
        self.len = train.len();
        // An empty datagram is one, too.
        let datagrams = train.len().div_ceil(self.stride).max(1);
        self.outcomes.resize_with(datagrams, || Outcome::Apart);

        let mut of = None;
        for (number, datagram) in train.chunks(self.stride).enumerate() {
            let Ok(Message::Data { receiver, .. }) = Message::parse(datagram) else {
                of = None;
                continue;
            };
            if of == Some(receiver)
                && let Some(run) = self.runs.last_mut()
            {
                run.datagrams += 1;
                continue;
            }
            of = keys_of(receiver).map(|(peer, keys)| {
                self.runs.push(Run { keys, peer, first: number, datagrams: 1 });
                receiver
            });
        }
    }

    /// Opens in place what is for known keys: authentication only. `train` is the one that it was prepared for. Any thread may.
    pub fn run(&mut self, train: &mut [u8]) {
        if self.runs.is_empty() {
            return;
        }
        let Self { stride, runs, outcomes, .. } = self;
        with_clean_stack::<{ wipe::DATA }, _>(|| {
            for Run { keys, peer, first, datagrams } in runs.drain(..) {
                let cipher = keys.opening.make_ready();
                let datagrams = train.chunks_mut(*stride).zip(&mut *outcomes).skip(first).take(datagrams);
                for (datagram, outcome) in datagrams {
                    *outcome = Outcome::Opened(peer, keys.open_one(&cipher, datagram));
                }
            }
        });
    }

    /// The next datagram, in order of arrival. `None` when all were taken.
    pub fn take_next(&mut self) -> Option<Arrived> {
        let outcome = self.outcomes.get_mut(self.next)?;
        let opened = match std::mem::replace(outcome, Outcome::Apart) {
            Outcome::Apart => None,
            Outcome::Opened(peer, result) => Some((peer, result)),
        };
        let place = self.at..self.len.min(self.at + self.stride);
        self.next += 1;
        self.at = place.end;
        Some(Arrived { place, opened })
    }

    /// True when all datagrams were taken, and before there are any.
    pub const fn is_done(&self) -> bool {
        self.next == self.outcomes.len()
    }

    /// Forgets the train.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.outcomes.clear();
        (self.next, self.at, self.len) = (0, 0, 0);
    }
}

impl fmt::Debug for TrainOpening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainOpening")
            .field("stride", &self.stride)
            .field("datagrams", &self.outcomes.len())
            .field("taken", &self.next)
            .finish_non_exhaustive()
    }
}
