//! The keys of one session, shared by all who seal and open with it.

use std::{fmt, sync::Arc};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Fresh, Lease, ReplayWindow, Unchecked, cipher::CipherKey};
use crate::{
    KEY_LEN, REJECT_AFTER_MESSAGES, Reject,
    wipe::{self, with_clean_stack},
};

/// A counter that no lease can start from: see [`TransportKeys::revoke`].
const REVOKED: u64 = u64::MAX;

/// The keys of one session once its handshake is done (§5.4.5), and the next counter to seal with.
///
/// To be shared in an [`Arc`]; both keys are overwritten when the last holder drops it.
pub struct TransportKeys {
    local_index: u32,
    pub(super) remote_index: u32,
    pub(super) sealing: CipherKey,
    pub(super) opening: CipherKey,
    /// The next counter that nobody has leased; [`REVOKED`] once there are no more leases.
    next: AtomicU64,
}

/// Why no counters were leased. No counter moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The session would send more than REJECT_AFTER_MESSAGES messages (§6.2): it needs new keys.
    #[error("the session has sent all the messages it may: it needs new keys")]
    Exhausted,
    /// The owner revoked the keys.
    #[error("the keys were revoked")]
    Revoked,
}

impl TransportKeys {
    /// Sets the next `datagrams` counters aside, all of them or none. Any thread may call it; that the session is young
    /// enough to send is for the owner of the peer to know.
    ///
    /// A lease that is dropped leaves a gap in the counters, which is what a lost datagram leaves too. A peer takes
    /// counters out of order only as far as its replay window reaches (boringtun: 1,024): lease no more than a few
    /// hundred ahead of what is sent.
    ///
    /// # Errors
    /// The counters would pass REJECT_AFTER_MESSAGES, or the keys are revoked. No counter moved.
    pub fn lease(self: &Arc<Self>, datagrams: usize) -> Result<Lease, LeaseError> {
        let first = self.take(datagrams)?;
        Ok(Lease::new(Arc::clone(self), first, datagrams))
    }

    /// Takes the next counters for the one who asks; gives the first.
    #[inline]
    pub(super) fn take(&self, counters: usize) -> Result<u64, LeaseError> {
        let end_after = |next: u64| {
            let end = next.checked_add(u64::try_from(counters).ok()?)?;
            (end <= REJECT_AFTER_MESSAGES).then_some(end)
        };
        // Only this one word tells who has which counter: nothing else is published by it.
        self.next.fetch_update(Relaxed, Relaxed, end_after).map_err(|next| match next {
            REVOKED => LeaseError::Revoked,
            _ => LeaseError::Exhausted,
        })
    }

    /// From now on nobody leases. Leases that are out may still seal, and received messages still open.
    pub fn revoke(&self) {
        self.next.swap(REVOKED, Relaxed); // an exchange, so that it has its place among the leases
    }

    /// How many counters were leased: by REKEY_AFTER_MESSAGES (§6.2) the session wants to be renewed. `u64::MAX` once revoked.
    pub fn leased(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// As if so many counters had been leased.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn set_leased(&self, counters: u64) {
        self.next.store(counters, Relaxed);
    }

    /// The receiver index of messages to us: ours.
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The receiver index of messages from us: the peer's.
    pub const fn remote_index(&self) -> u32 {
        self.remote_index
    }
}

impl fmt::Debug for TransportKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportKeys")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("leased", &self.leased())
            .finish_non_exhaustive()
    }
}

/// What the owner of a peer has of one session: its keys, and the replay window that only the owner moves.
///
/// Dropping it revokes the keys.
#[derive(Debug)]
pub struct KeyPair {
    keys: Arc<TransportKeys>,
    window: ReplayWindow,
}

impl KeyPair {
    /// Wraps the keys that a handshake agreed on. `local_index` is the receiver index of messages to us, `remote_index`
    /// that of messages from us. The two 32-byte keys are the caller's to wipe.
    pub fn new(
        local_index: u32,
        remote_index: u32,
        sealing: &[u8; KEY_LEN],
        opening: &[u8; KEY_LEN],
    ) -> Self {
        let keys = with_clean_stack::<{ wipe::DATA }, _>(|| {
            Arc::new(TransportKeys {
                local_index,
                remote_index,
                sealing: CipherKey::new(sealing),
                opening: CipherKey::new(opening),
                next: AtomicU64::new(0),
            })
        });
        Self { keys, window: ReplayWindow::new(local_index) }
    }

    /// The keys, to lease from, and to clone for whoever opens.
    pub const fn keys(&self) -> &Arc<TransportKeys> {
        &self.keys
    }

    /// Finds out whether an authentic message is new; see [`ReplayWindow::commit`].
    ///
    /// # Errors
    /// [`Reject::Replay`], or [`Reject::NoSession`] if it was opened with other keys.
    pub fn commit(&mut self, opened: Unchecked) -> Result<Fresh, Reject> {
        self.window.commit(opened)
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.keys.revoke();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn keys_at(counter: u64) -> KeyPair {
        let pair = KeyPair::new(1, 2, &[1; KEY_LEN], &[2; KEY_LEN]);
        pair.keys.set_leased(counter);
        pair
    }

    #[test]
    fn leases_follow_each_other_without_gap_or_overlap() {
        let pair = keys_at(0);
        let [first, second] = [45, 3].map(|datagrams| pair.keys().lease(datagrams).unwrap());
        assert_eq!((first.counters(), second.counters()), (0..45, 45..48));
        assert_eq!(pair.keys().leased(), 48);
    }

    #[test]
    fn a_lease_past_the_message_limit_is_refused_and_moves_no_counter() {
        let pair = keys_at(REJECT_AFTER_MESSAGES - 10);
        for too_many in [11, 12, usize::MAX] {
            assert_eq!(pair.keys().lease(too_many).unwrap_err(), LeaseError::Exhausted);
            assert_eq!(pair.keys().leased(), REJECT_AFTER_MESSAGES - 10);
        }
        let last = pair.keys().lease(10).unwrap();
        assert_eq!(last.counters().end, REJECT_AFTER_MESSAGES, "the limit itself is never a counter");
        assert_eq!(pair.keys().lease(1).unwrap_err(), LeaseError::Exhausted);
    }

    #[test]
    fn revoked_keys_lease_nothing_though_a_lease_that_is_out_still_seals() {
        let pair = keys_at(7);
        let out = pair.keys().lease(1).unwrap();
        let keys = Arc::clone(pair.keys());
        drop(pair);
        for datagrams in [0, 1, usize::MAX] {
            assert_eq!(keys.lease(datagrams).unwrap_err(), LeaseError::Revoked);
        }
        out.seal_train(&mut [0; 64], 64).unwrap();
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p encrypt --lib --release loom`: every order in which two threads can meet.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    fn all_orders(test: impl Fn(Arc<TransportKeys>) + Send + Sync + 'static) {
        loom::model(move || {
            let pair = KeyPair::new(1, 2, &[1; KEY_LEN], &[2; KEY_LEN]);
            test(Arc::clone(pair.keys()));
        });
    }

    #[test]
    fn loom_no_counter_is_leased_twice() {
        all_orders(|keys| {
            let other = Arc::clone(&keys);
            let thread = loom::thread::spawn(move || [2, 1].map(|n| other.lease(n).unwrap().counters()));
            let ours = [1, 2].map(|n| keys.lease(n).unwrap().counters());
            let mut leased: Vec<u64> = thread.join().unwrap().into_iter().chain(ours).flatten().collect();
            leased.sort_unstable();
            assert_eq!(leased, (0..6).collect::<Vec<_>>());
        });
    }

    #[test]
    fn loom_nothing_is_leased_after_a_revocation() {
        all_orders(|keys| {
            let other = Arc::clone(&keys);
            let thread = loom::thread::spawn(move || {
                other.revoke();
                assert_eq!(other.lease(1).unwrap_err(), LeaseError::Revoked);
            });
            let before = keys.lease(1).is_ok();
            let after = keys.lease(1).is_ok();
            assert!(before || !after, "once revoked, revoked for ever");
            thread.join().unwrap();
            assert_eq!(keys.lease(1).unwrap_err(), LeaseError::Revoked);
        });
    }

    #[test]
    fn loom_the_limit_holds_for_two_that_ask_at_once() {
        all_orders(|keys| {
            keys.next.store(REJECT_AFTER_MESSAGES - 3, Relaxed);
            let other = Arc::clone(&keys);
            let thread = loom::thread::spawn(move || other.lease(2).is_ok());
            let ours = keys.lease(2).is_ok();
            assert!(ours ^ thread.join().unwrap(), "there is room for one of them, whole");
            assert_eq!(keys.leased(), REJECT_AFTER_MESSAGES - 1);
        });
    }
}
