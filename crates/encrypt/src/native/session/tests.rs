use std::sync::{Arc, Weak};

use super::*;
use crate::{Identity, PrivateKey, PublicKey, REJECT_AFTER_MESSAGES, transport::TransportKeys};

struct End {
    identity: NativeIdentity,
    session: NativeSession,
}

struct Pair {
    a: End,
    b: End,
    now: Instant,
}

impl End {
    fn new(private: &PrivateKey, peer: PublicKey, now: Instant) -> Self {
        let mut identity = NativeIdentity::new(private, now);
        let index = PeerIndex::new(1).unwrap();
        let session = identity.session(SessionConfig { peer, preshared_key: None, index }, now);
        Self { identity, session }
    }

    fn seal(&mut self, now: Instant) -> Result<[u8; DATA_OVERHEAD], SealError> {
        let mut out = [0; DATA_OVERHEAD];
        self.session.seal(&[], &mut out, now).map(|()| out)
    }

    fn open(&mut self, message: &[u8], now: Instant) -> Result<Opened, Reject> {
        self.session.open(&mut self.identity, &mut message.to_vec(), now)
    }

    /// Of the pairs that there are, where they lie.
    fn pairs(&self) -> Vec<Weak<TransportKeys>> {
        self.session.keys().map(|keys| Arc::downgrade(keys.pair.keys())).collect()
    }

    fn current(&self) -> &Arc<TransportKeys> {
        self.session.current.as_ref().expect("it is live").pair.keys()
    }
}

impl Pair {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
        let now = Instant::now();
        let [a, b] = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
        Self { a: End::new(&a, b.public_key(), now), b: End::new(&b, a.public_key(), now), now }
    }

    /// An initiation of a's, and b's response.
    fn ask(&mut self) -> [u8; MAX_CONTROL_LEN] {
        self.now += Duration::from_secs(6); // the time to the next try, with any jitter
        let (mut initiation, mut response) = ([0; INITIATION_LEN], [0; MAX_CONTROL_LEN]);
        self.a.session.initiate(&mut self.a.identity, &mut initiation, self.now).unwrap();
        let (_, claim) = self.b.identity.claim(&initiation).unwrap();
        self.b.session.answer(&mut self.b.identity, &initiation, claim, &mut response, self.now).unwrap();
        response
    }

    fn handshake(&mut self) {
        let response = self.ask();
        let mut confirmation = [0; MAX_CONTROL_LEN];
        let response = &response[..RESPONSE_LEN];
        self.a.session.read_response(&mut self.a.identity, response, &mut confirmation, self.now).unwrap();
        let opened = self.b.open(&confirmation[..DATA_OVERHEAD], self.now);
        assert_eq!(opened, Ok(Opened::Keepalive { confirms: true }));
    }
}

/// And so wiped: they are when their last holder lets go.
#[test]
fn a_pair_that_is_replaced_is_gone_at_once_with_its_index() {
    let mut pair = Pair::new();
    let mut all = Vec::new();
    for sessions in 1..6 {
        pair.handshake();
        for end in [&pair.a, &pair.b] {
            all.extend(end.pairs());
            assert_eq!(end.pairs().len(), sessions.min(2), "a previous and a current one");
            assert_eq!(end.identity.indices.len(), sessions.min(2));
        }
        let alive = all.iter().filter(|keys| keys.strong_count() > 0).count();
        // Each was seen in two rounds, as current and as previous.
        assert_eq!(alive, if sessions == 1 { 2 } else { 6 });
    }
    for unanswered in 1..4 {
        let before = pair.b.pairs();
        pair.ask();
        assert_eq!(pair.b.pairs().len(), 2, "a current and a next one: the previous made room");
        assert_eq!(before.iter().filter(|keys| keys.strong_count() > 0).count(), 1);
        assert_eq!(pair.b.identity.indices.len(), 2);
        assert_eq!(pair.a.identity.indices.len(), 2 + unanswered.min(2), "two of ours are out at most");
    }
}

#[test]
fn a_session_is_renewed_after_so_many_messages_by_either_end_and_sends_no_more_than_it_may() {
    let mut pair = Pair::new();
    pair.handshake();
    for (sender, receiver) in [(0, 1), (1, 0)] {
        let ends = [&mut pair.a, &mut pair.b];
        ends[sender].current().set_leased(REKEY_AFTER_MESSAGES - 1);
        assert!(!ends[sender].session.wants_rekey());
        let sealed = ends[sender].seal(pair.now).unwrap();
        assert!(ends[sender].session.wants_rekey());
        assert_eq!(ends[receiver].open(&sealed, pair.now), Ok(Opened::Keepalive { confirms: false }));

        ends[sender].current().set_leased(REJECT_AFTER_MESSAGES - 1);
        let last = ends[sender].seal(pair.now).unwrap();
        assert_eq!(last[8..16], (REJECT_AFTER_MESSAGES - 1).to_le_bytes());
        for _ in 0..3 {
            assert_eq!(ends[sender].seal(pair.now), Err(SealError::Exhausted));
        }
        let mut past = last;
        for counter in [REJECT_AFTER_MESSAGES, u64::MAX] {
            past[8..16].copy_from_slice(&counter.to_le_bytes());
            assert_eq!(ends[receiver].open(&past, pair.now), Err(Reject::Replay));
        }
        assert_eq!(ends[receiver].open(&last, pair.now), Ok(Opened::Keepalive { confirms: false }));
        assert_eq!(ends[receiver].open(&last, pair.now), Err(Reject::Replay));
    }
    // New keys begin from zero.
    pair.handshake();
    assert!(!pair.a.session.wants_rekey() && !pair.b.session.wants_rekey());
    let sealed = pair.b.seal(pair.now).unwrap();
    assert_eq!(pair.a.open(&sealed, pair.now), Ok(Opened::Keepalive { confirms: false }));
}
