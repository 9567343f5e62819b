//! Handshakes have a budget: a thousand peers that rekey, or a flood of initiations, may not stop the packets.
//!
//! Every step of a handshake has a price, and so has every timer. In one turn of the caller's loop, which is one value of
//! `now`, only so much of it is done; the rest waits in a bounded backlog, or among the deadlines. How long the backlog is
//! tells whether we are under load, and then alone senders must prove their address before anything is computed for them.

mod backlog;
mod budget;
mod intake;
mod load;
mod token_bucket;

use self::{backlog::Backlog, load::Load, token_bucket::TokenBuckets};
pub(crate) use self::{
    budget::{Budget, Cost},
    token_bucket::Source,
};

/// What handshakes are decided by, but for the budget, which timers take from, too.
#[derive(Debug)]
pub(crate) struct Handshakes {
    backlog: Backlog,
    load: Load,
    /// Of proven addresses, while we are under load.
    buckets: TokenBuckets,
}

impl Handshakes {
    /// With a backlog of so many messages.
    pub(crate) fn new(backlog: usize) -> Self {
        Self { backlog: Backlog::new(backlog), load: Load::new(backlog), buckets: TokenBuckets::default() }
    }

    /// Whether messages wait.
    pub(crate) fn are_waiting(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Drops all messages that wait, and gives how many there were.
    pub(crate) fn clear(&mut self) -> u64 {
        self.backlog.clear() as u64
    }
}
