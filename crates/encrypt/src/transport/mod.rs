//! What any core may do to a batch of data messages, and the one step that only the owner of a peer may do.
//!
//! * [`TransportKeys`] are the keys of one session. Shared in an `Arc`; all methods take `&self`, read no clock, take no lock
//!   and allocate nothing.
//! * [`TransportKeys::lease`] sets counters aside, and [`Lease::seal_train`] seals a train of datagrams with them, in place.
//! * [`Leases`] are those of a batch that grows datagram by datagram, with whatever sessions' keys, and is sealed as a whole.
//! * [`TransportKeys::open_train`] authenticates a train in place. What it gives is [`Unchecked`]: authentic, but
//!   perhaps seen before.
//! * [`TrainOpening`] does so for a train as it comes from the network, with datagrams of any session and of none.
//! * [`ReplayWindow::commit`] turns that into [`Fresh`], in order of arrival, on the owner's thread. Nothing may be
//!   learned from, or done with, a message before that.
//!
//! A *train* is what one UDP GSO send or GRO receive carries: datagrams of `stride` bytes back to back, of which the
//! last may be shorter. A lone datagram is a train of one.

mod cipher;
mod keys;
mod leases;
mod opening;
mod sealing;
mod train;
mod window;

pub use self::{
    cipher::HAS_CIPHER,
    keys::{KeyPair, LeaseError, TransportKeys},
    leases::Leases,
    opening::{Fresh, Unchecked},
    sealing::{Lease, TrainError},
    train::{Arrived, TrainOpening},
    window::ReplayWindow,
};

/// Bytes before the content of a data message: type, receiver index, counter (§5.4.6).
pub const DATA_HEADER_LEN: usize = 16;
/// Bytes behind the content of a data message: the authentication tag (§5.4.6).
pub const DATA_TAG_LEN: usize = 16;
