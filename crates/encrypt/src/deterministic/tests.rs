use super::*;

fn pair() -> (InsecureSession, InsecureSession, Instant) {
    #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
    let now = Instant::now();
    let keys = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
    let session = |own: usize| {
        let peer = keys[1 - own].public_key();
        let config = SessionConfig { peer, preshared_key: None, index: PeerIndex::MAX };
        InsecureIdentity::new(&keys[own], now).session(config, now)
    };
    let (mut a, mut b) = (session(0), session(1));
    let from = "192.0.2.1:1".parse().unwrap();
    let mut initiation = [0; INITIATION_LEN];
    a.initiate(&mut initiation, now).unwrap();
    let mut response = [0; MAX_CONTROL_LEN];
    b.open(&initiation, &mut response, from, now).unwrap();
    let mut confirmation = [0; MAX_CONTROL_LEN];
    a.open(&response[..RESPONSE_LEN], &mut confirmation, from, now).unwrap();
    b.open(&confirmation[..DATA_OVERHEAD], &mut response, from, now).unwrap();
    (a, b, now)
}

/// What nothing but a peer's own fault could seal: an authentic message with this counter.
fn forge(a: &mut InsecureSession, counter: u64) -> [u8; DATA_OVERHEAD] {
    let slot = a.sealing().unwrap();
    let mut message = [0; DATA_OVERHEAD];
    message[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
    message[4..8].copy_from_slice(&slot.remote.to_le_bytes());
    message[8..16].copy_from_slice(&counter.to_le_bytes());
    message[16..].copy_from_slice(&checksum(&[&slot.send, &counter.to_le_bytes(), &[]]));
    message
}

#[test]
fn authentic_counters_at_the_limit_are_refused() {
    let (mut a, mut b, now) = pair();
    let from = "192.0.2.1:1".parse().unwrap();
    let mut out = [0; MAX_CONTROL_LEN];
    let mut open = |counter| b.open(&forge(&mut a, counter), &mut out, from, now);
    for counter in [u64::MAX, u64::MAX - 1023, REJECT_AFTER_MESSAGES] {
        assert_eq!(open(counter), Err(Reject::Replay));
    }
    assert_eq!(
        open(REJECT_AFTER_MESSAGES - 1),
        Ok(Opened::Keepalive { confirms: false }),
        "the last one that is allowed"
    );
    assert_eq!(open(5), Err(Reject::Replay), "far behind the window now");
}

#[test]
fn message_counts_ask_for_a_new_session_and_then_insist() {
    let (mut a, _, now) = pair();
    let mut out = [0; DATA_OVERHEAD];
    a.set_messages_sent(REKEY_AFTER_MESSAGES - 1);
    assert!(!a.wants_rekey());
    assert_eq!(a.seal(&[], &mut out, now), Ok(()));
    assert!(a.wants_rekey());
    a.set_messages_sent(REJECT_AFTER_MESSAGES - 1);
    assert_eq!(a.seal(&[], &mut out, now), Ok(()));
    assert_eq!(a.seal(&[], &mut out, now), Err(SealError::Exhausted));
    assert!(a.initiate(&mut [0; INITIATION_LEN], now).is_some());
}
