use std::time::Duration;

use super::*;
use crate::{Identity, PeerIndex, PrivateKey, REJECT_AFTER_TIME};

struct Pair {
    identities: [BoringIdentity; 2],
    a: BoringSession,
    b: BoringSession,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
        let now = Instant::now();
        let keys = [1, 2].map(|seed| PrivateKey::from_bytes([seed; 32]));
        let mut identities = keys.each_ref().map(|key| BoringIdentity::new(key, now));
        let [a, b] = [0, 1].map(|own: usize| {
            let peer = keys[1 - own].public_key();
            let config = SessionConfig { peer, preshared_key: None, index: PeerIndex::MAX };
            identities[own].session(config, now)
        });
        Self { identities, a, b, now }
    }

    fn handshake(mut self) -> Self {
        let initiation = self.initiate().unwrap();
        self.answer(&initiation);
        self
    }

    fn initiate(&mut self) -> Option<[u8; INITIATION_LEN]> {
        let mut initiation = [0; INITIATION_LEN];
        self.a.initiate(&mut self.identities[0], &mut initiation, self.now).map(|_| initiation)
    }

    fn respond(&mut self, initiation: &[u8]) -> [u8; MAX_CONTROL_LEN] {
        let mut response = [0; MAX_CONTROL_LEN];
        self.b.answer(&mut self.identities[1], initiation, (), &mut response, self.now).unwrap();
        response
    }

    fn answer(&mut self, initiation: &[u8]) {
        let response = self.respond(initiation);
        let mut confirmation = [0; MAX_CONTROL_LEN];
        let [a, b] = &mut self.identities;
        self.a.read_response(a, &response[..92], &mut confirmation, self.now).unwrap();
        self.b.open(b, &mut confirmation[..32], self.now).unwrap();
    }

    /// Both, with their identities.
    fn ends(&mut self) -> [(&mut BoringSession, &mut BoringIdentity); 2] {
        let [a, b] = &mut self.identities;
        [(&mut self.a, a), (&mut self.b, b)]
    }
}

#[test]
fn a_silent_peer_costs_no_boringtun_state() {
    let mut pair = Pair::new();
    assert_eq!(pair.a.noise.states(), 0);
    assert_eq!(pair.a.seal(&[], &mut [0; DATA_OVERHEAD], pair.now), Err(SealError::NoSession));
    let now = pair.now;
    let [(a, identity), _] = pair.ends();
    assert_eq!(a.handle_timeout(identity, &mut [0; MAX_CONTROL_LEN], now), TimerAction::Idle);
    assert_eq!(pair.a.noise.states(), 0);
    assert_eq!(pair.handshake().a.noise.states(), 1);
}

#[test]
fn a_state_from_before_a_change_of_key_goes_when_nothing_needs_it() {
    let mut pair = Pair::new().handshake();
    let key = |seed| Some(PresharedKey::from_bytes([seed; 32]));
    for seed in 1..20 {
        let now = pair.now;
        for (session, identity) in pair.ends() {
            session.set_preshared_key(identity, key(seed), now);
            assert_eq!(session.noise.states(), 1, "that of the session: no handshake has begun since");
        }
    }
    for seed in 20..40 {
        // Answers that are lost leave a session each.
        pair.now += Duration::from_secs(6);
        let initiation = pair.initiate().unwrap();
        pair.respond(&initiation);
        let now = pair.now;
        for (session, identity) in pair.ends() {
            session.set_preshared_key(identity, key(seed), now);
            assert!((1..=4).contains(&session.noise.states()), "{}", session.noise.states());
        }
        let mut sealed = [0; DATA_OVERHEAD];
        pair.b.seal(&[], &mut sealed, pair.now).unwrap();
        let opened = pair.a.open(&mut pair.identities[0], &mut sealed, pair.now);
        assert_eq!(opened, Ok(Opened::Keepalive { confirms: false }), "the session in use is never given up");
    }
    pair.now += Duration::from_secs(6);
    let mut pair = pair.handshake();
    pair.now += REJECT_AFTER_TIME;
    let now = pair.now;
    for (session, identity) in pair.ends() {
        assert!(session.poll_timeout().unwrap() <= now);
        assert_eq!(session.handle_timeout(identity, &mut [0; MAX_CONTROL_LEN], now), TimerAction::Expired);
        session.handle_timeout(identity, &mut [0; MAX_CONTROL_LEN], now);
    }
    assert_eq!(pair.b.noise.states(), 1);
    assert_eq!(pair.a.noise.states(), 1);
}

#[test]
fn the_initiation_after_the_wall_clock_was_set_forward_has_a_new_timestamp() {
    let mut pair = Pair::new().handshake();
    let mut out = [0; MAX_CONTROL_LEN];
    for _ in 0..3 {
        pair.now += Duration::from_secs(6);
        pair.a.noise.set_wall_clock_forward(Duration::from_secs(3600));
        let before = pair.a.noise.states();
        let initiation = pair.initiate().unwrap();
        assert_eq!(pair.a.noise.states(), before + 1, "one began now, another has the session");
        pair.a.seal(&[], &mut out[..DATA_OVERHEAD], pair.now).unwrap();
        let opened = pair.b.open(&mut pair.identities[1], &mut out[..DATA_OVERHEAD], pair.now);
        assert_eq!(opened, Ok(Opened::Keepalive { confirms: false }), "the session goes on");
        pair.answer(&initiation);
    }
    pair.now += Duration::from_secs(6);
    let before = pair.a.noise.states();
    pair.initiate().unwrap();
    assert_eq!(pair.a.noise.states(), before, "nothing was set since");
}

#[test]
fn what_boringtun_wrote_by_itself_is_handed_out_at_once() {
    let mut pair = Pair::new().handshake();
    // boringtun's own timer cannot fire without sleeping; this is what its doing so amounts to.
    let mut message = [0; MAX_CONTROL_LEN];
    let len = pair.a.noise.write_initiation(&mut message).expect("an initiation");
    pair.a.keep(Pending { len, message }, pair.now);

    assert!(pair.a.is_initiating());
    assert_eq!(pair.a.poll_timeout(), Some(pair.now));
    assert_eq!(pair.initiate(), None, "not a second one");
    let mut out = [0; MAX_CONTROL_LEN];
    let action = pair.a.handle_timeout(&mut pair.identities[0], &mut out, pair.now);
    assert_eq!(action, TimerAction::Send { len: INITIATION_LEN, initiation: true });
    let action = pair.a.handle_timeout(&mut pair.identities[0], &mut [0; MAX_CONTROL_LEN], pair.now);
    assert_eq!(action, TimerAction::Idle);
    assert!(pair.a.poll_timeout() > Some(pair.now));
    pair.answer(&out);
    assert!(!pair.a.is_initiating());
}

#[test]
fn a_handshake_that_boringtun_gave_up_early_is_tried_again_at_once() {
    let mut pair = Pair::new();
    pair.initiate().unwrap();
    pair.a.timers.retry_at_once(pair.now);
    let mut out = [0; MAX_CONTROL_LEN];
    let action = pair.a.handle_timeout(&mut pair.identities[0], &mut out, pair.now);
    assert_eq!(action, TimerAction::SendUnheard { len: INITIATION_LEN });
    pair.answer(&out);
}

/// It would give up after 90 s, and drop the session.
#[test]
fn a_handshake_that_is_wanted_for_long_is_tried_by_a_new_state_before_boringtun_gives_up() {
    let mut pair = Pair::new().handshake();
    for _ in 0..24 {
        pair.now += Duration::from_secs(6);
        pair.initiate().unwrap();
        pair.a.keep_trying(pair.now);
    }
    assert_eq!(pair.a.noise.states(), 2, "one has the session, another makes the handshakes");
    let mut sealed = [0; DATA_OVERHEAD];
    pair.a.seal(&[], &mut sealed, pair.now).unwrap();
    let opened = pair.b.open(&mut pair.identities[1], &mut sealed, pair.now);
    assert_eq!(opened, Ok(Opened::Keepalive { confirms: false }), "the session goes on");
    pair.now += Duration::from_secs(6);
    let initiation = pair.initiate().unwrap();
    pair.answer(&initiation);
}

#[test]
fn a_session_that_boringtun_dropped_is_not_sealed_with() {
    let mut pair = Pair::new().handshake();
    // As its own timers would: it forgets all sessions.
    pair.a.noise.forget(pair.now);
    let mut out = [0; 64 + DATA_OVERHEAD];
    assert_eq!(pair.a.seal(&[0x45; 64], &mut out, pair.now), Err(SealError::NoSession));
    assert!(!pair.a.is_live());
}

#[test]
fn the_counter_in_the_message_is_what_counts() {
    let mut pair = Pair::new().handshake();
    let mut out = [0; DATA_OVERHEAD];
    pair.a.seal(&[], &mut out, pair.now).unwrap();
    assert_eq!(pair.a.sent, 2, "the confirmation and this one");
    pair.a.sent = REKEY_AFTER_MESSAGES;
    assert!(pair.a.wants_rekey());
    pair.a.sent = REJECT_AFTER_MESSAGES;
    assert_eq!(pair.a.seal(&[], &mut out, pair.now), Err(SealError::Exhausted));
    pair.now += Duration::from_secs(6);
    let mut pair = pair.handshake();
    assert!(!pair.a.wants_rekey());
    assert_eq!(pair.a.seal(&[], &mut out, pair.now), Ok(()));

    pair.b.sent = REJECT_AFTER_MESSAGES;
    assert_eq!(pair.b.seal(&[], &mut out, pair.now), Err(SealError::Exhausted));
    pair.now += Duration::from_secs(6);
    let now = pair.now;
    assert_eq!(pair.handshake().b.seal(&[], &mut out, now), Ok(()), "the responder as well");
}

#[test]
fn debug_prints_no_secret() {
    let pair = Pair::new();
    let text = format!("{:?}", pair.a);
    assert!(text.contains("PublicKey(") && !text.contains("preshared"), "{text}");
}
