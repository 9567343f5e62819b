use super::*;

struct Ends {
    identities: [InsecureIdentity; 2],
    a: InsecureSession,
    b: InsecureSession,
    now: Instant,
}

fn pair() -> Ends {
    #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
    let now = Instant::now();
    let keys = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
    let mut identities = keys.each_ref().map(|key| InsecureIdentity::new(key, now));
    let [mut a, mut b] = [0, 1].map(|own: usize| {
        let peer = keys[1 - own].public_key();
        let config = SessionConfig { peer, preshared_key: None, index: PeerIndex::MAX };
        identities[own].session(config, now)
    });
    let [id_a, id_b] = &mut identities;
    let mut initiation = [0; INITIATION_LEN];
    a.initiate(id_a, &mut initiation, now).unwrap();
    let mut response = [0; MAX_CONTROL_LEN];
    let (_, claim) = id_b.claim(&initiation).unwrap();
    b.answer(id_b, &initiation, claim, &mut response, now).unwrap();
    let mut confirmation = [0; MAX_CONTROL_LEN];
    a.read_response(id_a, &response[..RESPONSE_LEN], &mut confirmation, now).unwrap();
    b.open(id_b, &mut confirmation[..DATA_OVERHEAD], now).unwrap();
    Ends { identities, a, b, now }
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
    let Ends { identities: [_, mut identity], mut a, mut b, now } = pair();
    let mut open = |counter| b.open(&mut identity, &mut forge(&mut a, counter), now);
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
    let Ends { identities: [mut identity, _], mut a, now, .. } = pair();
    let mut out = [0; DATA_OVERHEAD];
    a.set_messages_sent(REKEY_AFTER_MESSAGES - 1);
    assert!(!a.wants_rekey());
    assert_eq!(a.seal(&[], &mut out, now), Ok(()));
    assert!(a.wants_rekey());
    a.set_messages_sent(REJECT_AFTER_MESSAGES - 1);
    assert_eq!(a.seal(&[], &mut out, now), Ok(()));
    assert_eq!(a.seal(&[], &mut out, now), Err(SealError::Exhausted));
    let now = now + crate::REKEY_TIMEOUT;
    assert!(a.initiate(&mut identity, &mut [0; INITIATION_LEN], now).is_some());
}
