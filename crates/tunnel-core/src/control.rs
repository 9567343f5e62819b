//! Handshake messages and keepalives that found the sink full.
//!
//! A session has already counted them as sent, so they are kept for a moment rather than lost; past the
//! bound they are dropped, and the handshake's own retries heal that.

use std::collections::VecDeque;

use encrypt::{MAX_CONTROL_LEN, PeerIndex};
use gso_queue::{AppendError, DatagramSink, Destination};

use crate::{Sealing, SinkFull};

/// How many messages are kept. The sink is full only while the socket is, for milliseconds, in which no more
/// than a few timers fire; a flood of handshakes should be shed.
const MAX_KEPT: usize = 64;

/// A short message on its way to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlMessage {
    pub(crate) peer: PeerIndex,
    pub(crate) to: Destination,
    len: usize,
    bytes: [u8; MAX_CONTROL_LEN],
}

impl ControlMessage {
    /// Copies `message`, which is at most [`MAX_CONTROL_LEN`] bytes: `None` if it is longer.
    pub(crate) fn new(peer: PeerIndex, to: Destination, message: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_CONTROL_LEN];
        bytes.get_mut(..message.len())?.copy_from_slice(message);
        Some(Self { peer, to, len: message.len(), bytes })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Messages kept for the next time the sink has room, oldest first.
#[derive(Debug, Default)]
pub(crate) struct ControlQueue {
    kept: VecDeque<ControlMessage>,
}

impl ControlQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// False when the queue is full.
    pub(crate) fn push(&mut self, message: ControlMessage) -> bool {
        let has_room = self.kept.len() < MAX_KEPT;
        if has_room {
            self.kept.push_back(message);
        }
        has_room
    }

    pub(crate) fn front(&self) -> Option<&ControlMessage> {
        self.kept.front()
    }

    pub(crate) fn pop(&mut self) {
        self.kept.pop_front();
    }

    /// Drops what was for a peer that is gone.
    pub(crate) fn forget(&mut self, peer: PeerIndex) {
        self.kept.retain(|message| message.peer != peer);
    }
}

/// Appends a copy of `message`, which is short enough for any sink.
pub(crate) fn append<S: DatagramSink<Sealing>>(
    to: Destination,
    message: &[u8],
    sink: &mut S,
) -> Result<(), SinkFull> {
    let copied = sink.append(to, message.len(), |slot| {
        slot.bytes.copy_from_slice(message);
        Ok::<(), std::convert::Infallible>(())
    });
    match copied {
        Err(AppendError::Full) => Err(SinkFull),
        _ => Ok(()),
    }
}
