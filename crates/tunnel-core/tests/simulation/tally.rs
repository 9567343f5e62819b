//! What befell the nodes: days on which nothing happens prove nothing.

use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Default)]
pub(crate) struct Tally {
    events: BTreeMap<&'static str, u64>,
    /// The longest that a tunnel took to come back.
    pub(crate) back_after: Duration,
    /// The most that a tunnel held, bytes.
    pub(crate) held: i64,
    /// The most that it held once it had come to rest, beyond what it holds after a good day.
    pub(crate) grown: i64,
}

impl Tally {
    pub(crate) fn count(&mut self, event: &'static str, times: u64) {
        *self.events.entry(event).or_default() += times;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.events.iter().for_each(|(event, times)| self.count(event, *times));
        self.back_after = self.back_after.max(other.back_after);
        self.held = self.held.max(other.held);
        self.grown = self.grown.max(other.grown);
    }

    /// Every kind of event happens in ten days, on average.
    pub(crate) fn assert_bad_enough(&self, days: u64) {
        println!("{days} days: {self:#?}");
        let rare = self.events.iter().filter(|(_, times)| **times < days / 10);
        assert_eq!(rare.collect::<Vec<_>>(), [], "in {days} days: {:?}", self.events);
    }
}
