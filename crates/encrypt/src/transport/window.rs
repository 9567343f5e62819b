//! Which counters were received (RFC 6479: a ring of bits that moves by whole words).

use super::{Fresh, Unchecked};
use crate::Reject;

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = 128;

/// The replay window of one session (§5.4.6): 8,192 bits as the kernel's (`COUNTER_BITS_TOTAL`, drivers/net/wireguard/peer.h).
///
/// One word of it is always being moved into, so a counter may lag behind the newest one by up to
/// [`SIZE`](Self::SIZE).
#[derive(Debug)]
pub struct ReplayWindow {
    /// The receiver index of the keys that it belongs to.
    index: u32,
    /// One more than the highest counter committed.
    next: u64,
    /// Boxed, so that a session that is not there costs its peer no kilobyte.
    bits: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    /// How far behind the newest counter another may lag and still be taken.
    pub const SIZE: u64 = (WORDS as u64 - 1) * WORD_BITS;

    /// An empty window for the session with this receiver index.
    pub fn new(index: u32) -> Self {
        Self { index, next: 0, bits: Box::new([0; WORDS]) }
    }

    /// Takes note of a message, and tells whether it is new. Messages are committed in order of arrival.
    ///
    /// # Errors
    /// [`Reject::Replay`] for a counter that was committed before or lies too far back; [`Reject::NoSession`] for a message
    /// that was opened with other keys. The window is as it was.
    pub fn commit(&mut self, opened: Unchecked) -> Result<Fresh, Reject> {
        if opened.index != self.index {
            return Err(Reject::NoSession);
        }
        if !self.take(opened.counter) {
            return Err(Reject::Replay);
        }
        Ok(Fresh { len: opened.len })
    }

    /// True if `counter` was new. It is less than REJECT_AFTER_MESSAGES, so nothing here overflows.
    fn take(&mut self, counter: u64) -> bool {
        let is_newest = counter >= self.next;
        if is_newest {
            self.move_to(counter);
        } else if self.next - 1 - counter > Self::SIZE {
            return false;
        }
        let word = &mut self.bits[slot(counter)];
        let bit = 1 << (counter % WORD_BITS);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Makes `counter` the newest one: the words between are of counters that nobody has received yet.
    fn move_to(&mut self, counter: u64) {
        // Before the first counter the word that it belongs to is as clear as all others.
        let newest = self.next.saturating_sub(1) / WORD_BITS;
        let words = (counter / WORD_BITS - newest).min(WORDS as u64);
        for ahead in 1..=words {
            self.bits[(newest + ahead) as usize % WORDS] = 0;
        }
        self.next = counter + 1;
    }
}

const fn slot(counter: u64) -> usize {
    (counter / WORD_BITS) as usize % WORDS
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::REJECT_AFTER_MESSAGES;

    fn commit(window: &mut ReplayWindow, counter: u64) -> Result<Fresh, Reject> {
        window.commit(Unchecked { index: 7, counter, len: 0 })
    }

    /// What a window is to do, said as plainly as can be.
    #[derive(Default)]
    struct Model {
        seen: HashSet<u64>,
        highest: Option<u64>,
    }

    impl Model {
        fn take(&mut self, counter: u64) -> bool {
            let lag = self.highest.map_or(0, |highest| highest.saturating_sub(counter));
            let is_new = lag <= ReplayWindow::SIZE && self.seen.insert(counter);
            self.highest = self.highest.max(is_new.then_some(counter));
            is_new
        }
    }

    #[test]
    fn each_counter_is_taken_once_and_up_to_8128_late() {
        let mut window = ReplayWindow::new(7);
        assert_eq!(ReplayWindow::SIZE, 8128);
        for counter in [0, 1, 9, 8, 7, 70, 69, 8128, 8129, 1 << 40, (1 << 40) - 8128] {
            assert!(commit(&mut window, counter).is_ok(), "{counter}");
            assert_eq!(commit(&mut window, counter), Err(Reject::Replay), "{counter}");
        }
        assert_eq!(commit(&mut window, (1 << 40) - 8129), Err(Reject::Replay), "one too late");
        assert_eq!(commit(&mut window, 3), Err(Reject::Replay));
    }

    #[test]
    fn the_last_counter_there_is_can_be_taken() {
        let mut window = ReplayWindow::new(7);
        for counter in [REJECT_AFTER_MESSAGES - 1, REJECT_AFTER_MESSAGES - 8129] {
            assert!(commit(&mut window, counter).is_ok());
            assert_eq!(commit(&mut window, counter), Err(Reject::Replay));
        }
        assert_eq!(commit(&mut window, REJECT_AFTER_MESSAGES - 8130), Err(Reject::Replay));
    }

    #[test]
    fn a_message_of_other_keys_leaves_the_window_alone() {
        let mut window = ReplayWindow::new(8);
        assert_eq!(commit(&mut window, 1 << 50), Err(Reject::NoSession));
        assert_eq!(window.next, 0);
    }

    /// Steps of every size that matters: within a word, over words, nearly and more than the whole window.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![
            4 => -3i64..=3,
            3 => -130i64..=130,
            2 => -8300i64..=8300,
            1 => 8000i64..=8300,
            1 => -8300i64..=-8000,
            1 => 0i64..1 << 40,
        ]
    }

    proptest! {
        #[test]
        fn it_is_as_a_set_that_forgets(
            start in prop_oneof![0u64..20_000, any::<u64>()],
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let (mut window, mut model) = (ReplayWindow::new(7), Model::default());
            let mut counter = start % REJECT_AFTER_MESSAGES;
            for step in steps {
                let is_new = commit(&mut window, counter).is_ok();
                prop_assert_eq!(is_new, model.take(counter), "{}", counter);
                counter = counter.saturating_add_signed(step).min(REJECT_AFTER_MESSAGES - 1);
            }
        }
    }
}
