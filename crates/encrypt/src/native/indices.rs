//! Receiver indices: random numbers of 32 bits that name a session or a handshake of ours.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use rand_core::CryptoRngCore;

/// How often a number is drawn before giving up. Fewer than half of all numbers are taken, so sixty-four wrong ones in a
/// row come of a broken source of random numbers only.
const DRAWS: usize = 64;

/// Finds what a receiver index stands for. Its size is bounded.
///
/// An index says nothing of its peer or of when it was given, and somebody who can send us datagrams without seeing ours
/// hits none of a few thousand but by chance. One that was removed is drawn again as rarely as any other.
#[derive(Debug)]
pub struct IndexTable<T> {
    entries: HashMap<u32, T, BuildHasherDefault<IndexHasher>>,
    capacity: usize,
}

impl<T> IndexTable<T> {
    /// The most entries that a table may be given room for.
    pub const MAX_CAPACITY: usize = 1 << 31;

    /// A table of at most `capacity` entries, which is cut down to [`MAX_CAPACITY`](Self::MAX_CAPACITY). A peer needs
    /// up to six: previous, current and next session, two initiations that are out, and what is about to replace one of them.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::default(), capacity: capacity.min(Self::MAX_CAPACITY) }
    }

    /// A random index that is not taken. Taking it is [`insert`](Self::insert)'s. `None` if the table is full.
    pub fn vacant(&self, rng: &mut dyn CryptoRngCore) -> Option<u32> {
        let has_room = self.entries.len() < self.capacity;
        let mut draws = std::iter::repeat_with(|| rng.next_u32()).take(DRAWS);
        draws.find(|index| has_room && !self.entries.contains_key(index))
    }

    /// Takes an index. False, and nothing changed, if it is taken or the table is full.
    pub fn insert(&mut self, index: u32, value: T) -> bool {
        let may = self.entries.len() < self.capacity && !self.entries.contains_key(&index);
        if may {
            self.entries.insert(index, value);
        }
        may
    }

    /// What an index stands for.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(&index)
    }

    /// Frees an index.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        self.entries.remove(&index)
    }

    /// How many indices are taken.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The keys in the table are random and ours, so nobody can choose them to collide, and one multiplication spreads them.
#[derive(Debug, Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(self.0 as u32 ^ u32::from(*byte)));
    }

    fn write_u32(&mut self, index: u32) {
        // 2^64 divided by the golden ratio.
        self.0 = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use rand_core::{CryptoRng, RngCore};

    use super::*;

    /// Gives the numbers of a list, then its last one for ever.
    struct Listed(Vec<u32>);

    impl RngCore for Listed {
        fn next_u32(&mut self) -> u32 {
            if self.0.len() > 1 { self.0.remove(0) } else { self.0[0] }
        }
        fn next_u64(&mut self) -> u64 {
            u64::from(self.next_u32())
        }
        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.next_u32() as u8);
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
            self.fill_bytes(bytes);
            Ok(())
        }
    }

    impl CryptoRng for Listed {}

    #[test]
    fn a_taken_index_is_never_drawn() {
        let mut table = IndexTable::new(10);
        assert!(table.insert(5, 'a'));
        assert_eq!(table.vacant(&mut Listed(vec![5, 5, 6])), Some(6));
        assert!(!table.insert(5, 'b'), "not even by who insists");
        assert_eq!((table.get(5), table.get(6)), (Some(&'a'), None));
        assert_eq!(table.remove(5), Some('a'));
        assert_eq!(table.vacant(&mut Listed(vec![5])), Some(5));
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut table = IndexTable::new(2);
        assert!(table.insert(1, ()) && table.insert(2, ()));
        assert_eq!(table.vacant(&mut Listed(vec![3])), None);
        assert!(!table.insert(3, ()));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn random_numbers_that_are_none_end_nothing_but_the_draw() {
        let mut table = IndexTable::new(10);
        table.insert(5, ());
        assert_eq!(table.vacant(&mut Listed(vec![5])), None);
    }
}
