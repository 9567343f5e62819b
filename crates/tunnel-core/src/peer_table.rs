//! All peers: by index, for datagrams and routes, and by public key, for handshakes and configuration.

use std::collections::{HashMap, VecDeque};

use encrypt::{PeerIndex, PublicKey};

/// How many freed slots rest before the oldest is given out again, so that datagrams still on their way to
/// a removed peer's sessions do not reach the sessions of a new one. (They could only fail to authenticate,
/// but would be counted as such.) A resting slot costs as much as an empty one.
const RESTING_SLOTS: usize = 64;

/// A slab of peers.
pub(crate) struct PeerTable<P> {
    slots: Vec<Option<Box<P>>>,
    /// Oldest first.
    free: VecDeque<PeerIndex>,
    by_key: HashMap<PublicKey, PeerIndex>,
}

impl<P> PeerTable<P> {
    /// The most peers that always fit: what the index holds, less the slots that rest.
    pub(crate) const CAPACITY: usize = PeerIndex::MAX.get() as usize - RESTING_SLOTS;

    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: VecDeque::new(), by_key: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn find(&self, key: &PublicKey) -> Option<PeerIndex> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn get(&self, index: PeerIndex) -> Option<&P> {
        self.slots.get(index.get() as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, index: PeerIndex) -> Option<&mut P> {
        self.slots.get_mut(index.get() as usize)?.as_deref_mut()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &P> {
        self.slots.iter().flatten().map(AsRef::as_ref)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.slots.iter_mut().flatten().map(AsMut::as_mut)
    }

    /// Adds a peer whose key is not in the table yet. `None` past [`CAPACITY`](Self::CAPACITY).
    pub(crate) fn insert(&mut self, key: PublicKey, peer: impl FnOnce(PeerIndex) -> P) -> Option<PeerIndex> {
        debug_assert!(!self.by_key.contains_key(&key));
        let index = self.vacant()?;
        *self.slots.get_mut(index.get() as usize)? = Some(Box::new(peer(index)));
        self.by_key.insert(key, index);
        Some(index)
    }

    /// Removes a peer; its index rests.
    pub(crate) fn remove(&mut self, key: &PublicKey) -> Option<Box<P>> {
        let index = self.by_key.remove(key)?;
        self.free.push_back(index);
        self.slots.get_mut(index.get() as usize)?.take()
    }

    fn vacant(&mut self) -> Option<PeerIndex> {
        if self.free.len() > RESTING_SLOTS {
            return self.free.pop_front();
        }
        let index = PeerIndex::new(u32::try_from(self.slots.len()).ok()?)?;
        self.slots.push(None);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        PublicKey::from_bytes(bytes)
    }

    #[test]
    fn a_freed_index_rests_before_it_is_given_out_again() {
        let mut table = PeerTable::new();
        let first = table.insert(key(0), |_| 0u32).unwrap();
        table.remove(&key(0));
        for n in 1..=RESTING_SLOTS as u32 {
            let index = table.insert(key(n), |_| n).unwrap();
            assert_ne!(index, first);
            table.remove(&key(n));
        }
        assert_eq!(table.insert(key(999), |_| 999).unwrap(), first, "oldest first");
        assert_eq!(table.slots.len(), RESTING_SLOTS + 1, "churn does not grow the slab");
        assert_eq!(table.get_mut(first), Some(&mut 999));
        assert_eq!(table.find(&key(999)), Some(first));
        assert_eq!(table.len(), 1);
    }
}
