//! WireGuard's timers (§6) in simulated time: every backend alike.

mod common;

use std::time::Duration;

use common::{Pair, Received, Sent, packet, secs};
use encrypt::{
    Identity, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT,
    Reject, SealError, Session, deterministic::InsecureIdentity,
};
use proptest::prelude::*;

macro_rules! all {
    ($module:ident, $identity:ty) => {
        for_backend!(
            $module,
            $identity,
            [
                a_peer_that_was_never_used_has_no_deadline,
                an_unanswered_handshake_is_retried_and_given_up_once,
                a_packet_that_waits_prolongs_the_try,
                traffic_on_an_old_session_prolongs_the_try_to_renew_it,
                the_packet_after_giving_up_starts_afresh,
                the_initiator_renews_when_it_sends_on_an_old_session,
                the_responder_does_not_renew_by_age,
                the_initiator_renews_when_it_receives_near_the_end,
                a_session_ends_after_three_minutes,
                a_responder_that_never_spoke_ends_its_session_too,
                a_session_that_ends_while_a_handshake_runs_is_not_reported,
                an_idle_session_sends_nothing_and_comes_to_rest,
                received_data_is_answered_within_ten_seconds,
                silence_after_sending_starts_a_handshake,
                an_answer_ends_the_silence,
                both_sides_survive_an_hour_of_traffic,
                initiations_are_five_seconds_apart,
                what_is_not_authentic_moves_no_timer,
            ]
        );
    };
}

all!(deterministic, encrypt::deterministic::InsecureIdentity);
all!(boring, encrypt::boring::BoringIdentity);
all!(native, encrypt::native::NativeIdentity);

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Waiting for the deadlines does what asking every second would do: no deadline is late.
    #[test]
    fn no_deadline_is_late(steps in prop::collection::vec((0u8..7, 0u64..200), 1..40)) {
        type Log = Vec<(usize, u64, Sent)>;
        fn simulate(steps: &[(u8, u64)], patient: bool) -> Log {
            let mut pair = Pair::<InsecureIdentity>::new();
            let mut log = Log::new();
            for (at, (action, pause)) in steps.iter().enumerate() {
                let mut up = true;
                match action {
                    0 | 1 => pair.try_send('a'),
                    2 => pair.try_send('b'),
                    3 => drop(pair.a.seal(&packet(64), pair.now)),
                    4 => drop(pair.b.initiate(pair.now)),
                    5 => up = false,
                    _ => {}
                }
                for second in 0..*pause {
                    let events =
                        if patient { pair.run(secs(1), up) } else { pair.run_by_the_second(secs(1), up) };
                    log.extend(events.into_iter().map(|(_, name, what)| {
                        (at, second << 1 | u64::from(name == 'b'), what)
                    }));
                }
            }
            log
        }
        prop_assert_eq!(simulate(&steps, true), simulate(&steps, false));
    }
}

use Sent::{Expired, Initiation, Keepalive};

fn a_peer_that_was_never_used_has_no_deadline<I: Identity>() {
    let mut pair = Pair::<I>::new();
    assert_eq!(pair.a.session.poll_timeout(), None);
    pair.advance(secs(100_000));
    assert_eq!(pair.a.run_timers(pair.now), (vec![], 0));
    assert_eq!(pair.a.session.poll_timeout(), None);
}

fn an_unanswered_handshake_is_retried_and_given_up_once<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.a.initiate(pair.now).unwrap();
    let log = pair.run(secs(3600), false);
    let (last, retries) = log.split_last().unwrap();
    assert_eq!(*last, (REKEY_ATTEMPT_TIME.as_secs(), 'a', Expired));
    assert!(retries.iter().all(|(_, who, what)| (*who, *what) == ('a', Initiation)), "{retries:?}");
    let pauses = retries.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(pauses.clone().all(|pause| (5..=6).contains(&pause)), "{retries:?}");
    assert!((16..=17).contains(&retries.len()), "{retries:?}");
    assert!(!pair.a.session.is_initiating() && !pair.a.session.is_live());
    assert_eq!(pair.a.session.poll_timeout(), None);
}

fn a_packet_that_waits_prolongs_the_try<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.a.initiate(pair.now).unwrap();
    for _ in 0..3 {
        let log = pair.run(REKEY_ATTEMPT_TIME - secs(1), false);
        assert!(log.iter().all(|event| event.2 == Initiation), "{log:?}");
        pair.a.session.keep_trying(pair.now);
    }
    let log = pair.run(secs(3600), false);
    assert_eq!(log.last(), Some(&(REKEY_ATTEMPT_TIME.as_secs(), 'a', Expired)), "from the last one on");
    pair.a.session.keep_trying(pair.now);
    assert_eq!(pair.a.session.poll_timeout(), None, "there is nothing to prolong");
}

fn traffic_on_an_old_session_prolongs_the_try_to_renew_it<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.advance(REKEY_AFTER_TIME - REKEY_TIMEOUT);
    for _ in 0..13 {
        let _ = pair.a.seal(&packet(64), pair.now);
        pair.run(REKEY_TIMEOUT, false);
    }
    let log = pair.run(secs(80), false);
    assert!(log.iter().all(|event| event.2 == Initiation), "{log:?}");
    assert!(pair.a.session.is_initiating(), "the session's last packet came 60 s after the first try");
    let log = pair.run(secs(20), false);
    assert_eq!(log.last().map(|event| event.2), Some(Expired), "{log:?}");
}

fn the_packet_after_giving_up_starts_afresh<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.a.initiate(pair.now).unwrap();
    pair.run(REKEY_ATTEMPT_TIME + REKEY_TIMEOUT, false);
    pair.handshake();
    pair.exchange();
    // And the other way round: a renewal that was given up while the session still lived. It goes on to its end.
    let began = pair.now;
    pair.a.seal(&packet(64), pair.now).unwrap();
    let log = pair.run(secs(15) + REKEY_ATTEMPT_TIME, false);
    assert_eq!(log.last().map(|event| event.2), Some(Expired), "{log:?}");
    pair.exchange();
    pair.now = began + REJECT_AFTER_TIME;
    assert_eq!(pair.a.seal(&packet(64), pair.now), Err(SealError::NoSession));
    pair.handshake();
    pair.exchange();
}

fn the_initiator_renews_when_it_sends_on_an_old_session<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.run(REKEY_AFTER_TIME - secs(1), true);
    pair.exchange();
    assert_eq!(pair.run(secs(1), true), [], "not yet");
    pair.a_to_b();
    assert!(pair.a.session.poll_timeout().is_some_and(|at| at <= pair.now), "due at once");
    assert_eq!(pair.run(secs(0), true), [(0, 'a', Initiation)]);
    // The new session is three minutes from its end, the old one was one.
    pair.exchange();
    pair.run(REKEY_AFTER_TIME - secs(1), true);
    assert!(pair.a.session.is_live());
    pair.exchange();
}

fn the_responder_does_not_renew_by_age<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.advance(REKEY_AFTER_TIME + secs(1));
    pair.b_to_a();
    assert_eq!(pair.run(secs(5), true), []);
}

fn the_initiator_renews_when_it_receives_near_the_end<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.advance(secs(164));
    pair.b_to_a();
    assert_eq!(pair.run(secs(1), true), [], "not yet");
    pair.b_to_a();
    assert_eq!(pair.run(secs(0), false), [(0, 'a', Initiation)]);
    pair.b_to_a();
    assert_eq!(pair.run(secs(0), false), [], "once is enough");
}

fn a_session_ends_after_three_minutes<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.advance(REJECT_AFTER_TIME - secs(1));
    let late = pair.b.seal(&packet(64), pair.now).unwrap();
    pair.advance(secs(1));
    assert_eq!(pair.a.seal(&packet(64), pair.now), Err(SealError::NoSession));
    let outcome = pair.a.receive(&late, pair.b.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::NoSession));
    let (sent, expired) = pair.a.run_timers(pair.now);
    assert_eq!((sent.len(), expired), (0, 1));
    assert!(!pair.a.session.is_live());
    assert_eq!(pair.a.run_timers(pair.now), (vec![], 0), "reported once");
    pair.handshake();
    pair.exchange();
}

fn a_responder_that_never_spoke_ends_its_session_too<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let log = pair.run(secs(200), true);
    assert_eq!(log, [(180, 'a', Expired), (180, 'b', Expired)]);
}

fn a_session_that_ends_while_a_handshake_runs_is_not_reported<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.advance(REJECT_AFTER_TIME - secs(2));
    pair.a.seal(&packet(64), pair.now).unwrap();
    let log = pair.run(secs(20), false);
    assert!(log.iter().any(|event| event.1 == 'a'), "{log:?}");
    assert!(log.iter().all(|event| event.1 == 'b' || event.2 == Initiation), "{log:?}");
}

fn an_idle_session_sends_nothing_and_comes_to_rest<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.exchange();
    let log = pair.run(secs(3600), true);
    // b sent last, so a owes it one keepalive; then both sessions end.
    assert_eq!(log, [(10, 'a', Keepalive), (180, 'a', Expired), (180, 'b', Expired)]);
    assert_eq!((pair.a.session.poll_timeout(), pair.b.session.poll_timeout()), (None, None));
}

fn received_data_is_answered_within_ten_seconds<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.a_to_b();
    pair.advance(secs(3));
    pair.a_to_b();
    assert_eq!(pair.run(KEEPALIVE_TIMEOUT, true), [(7, 'b', Keepalive)]);
    assert_eq!(pair.run(secs(60), true), [], "a keepalive is not answered");
}

fn silence_after_sending_starts_a_handshake<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.advance(secs(30));
    pair.a.seal(&packet(64), pair.now).unwrap();
    assert_eq!(pair.run(secs(14), false), []);
    pair.a.seal(&packet(64), pair.now).unwrap();
    assert_eq!(pair.run(secs(1), true), [(1, 'a', Initiation)]);
    assert!(!pair.a.session.is_initiating());
    pair.exchange();
}

fn an_answer_ends_the_silence<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.a_to_b();
    let log = pair.run(secs(30), true);
    assert_eq!(log, [(10, 'b', Keepalive)]);
}

fn both_sides_survive_an_hour_of_traffic<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let mut initiations = 0;
    for _ in 0..3600 {
        pair.exchange();
        let log = pair.run(secs(1), true);
        initiations += log.iter().filter(|event| event.2 == Initiation).count();
        assert!(log.iter().all(|event| event.2 == Initiation), "{log:?}");
    }
    assert_eq!(initiations, 29, "one every two minutes");
}

/// Whatever happens, and however often the callers ask (§6.1).
fn initiations_are_five_seconds_apart<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let mut sent_at = Vec::new();
    let mut note = |initiations: usize, now| sent_at.extend((0..initiations).map(|_| now));
    // Given up after 90 s, up to five after the last try; and asked for at once, and ever again.
    for _ in 0..3000 {
        note(pair.a.initiate(pair.now).iter().len(), pair.now);
        let (messages, _) = pair.a.run_timers(pair.now);
        note(messages.len(), pair.now);
        pair.advance(Duration::from_millis(100));
    }
    // Then the peer is there; the session is young when the link to it goes, with something sent on it all the time.
    pair.advance(secs(6));
    note(1, pair.now);
    pair.handshake();
    for _ in 0..1500 {
        let _ = pair.a.seal(&packet(64), pair.now);
        let (messages, _) = pair.a.run_timers(pair.now);
        note(messages.iter().filter(|message| message[0] == 1).count(), pair.now);
        pair.advance(Duration::from_millis(100));
    }
    let pauses = sent_at.windows(2).map(|pair| pair[1] - pair[0]);
    let shortest = pauses.min().expect("many");
    assert!(shortest >= REKEY_TIMEOUT, "{shortest:?}");
    assert!(sent_at.len() > 70, "{} of them", sent_at.len());
}

fn what_is_not_authentic_moves_no_timer<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    let confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
    pair.b.receive(&confirmation, pair.a.address, pair.now);
    // a waits for a sign of life, and b owes one.
    let sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    pair.b.receive(&sealed, pair.a.address, pair.now);
    let answer = pair.b.seal(&packet(64), pair.now).unwrap(); // is lost
    let mut forged = answer.clone();
    forged[20] ^= 1;
    let again = pair.a.seal(&packet(64), pair.now).unwrap();
    pair.b.receive(&again, pair.a.address, pair.now);
    for second in 0..15 {
        for bad in [&initiation, &response, &confirmation, &sealed, &again, &forged] {
            for end in [&mut pair.a, &mut pair.b] {
                let outcome = end.receive(bad, end.address, pair.now);
                assert!(matches!(outcome, Received::Rejected(_)), "{outcome:?}");
            }
        }
        let expected: &[_] = if second == 10 { &[(0, 'b', Keepalive)] } else { &[] };
        assert_eq!(pair.run(secs(0), false), expected, "{second}");
        pair.advance(secs(1));
    }
    assert_eq!(pair.run(secs(0), false), [(0, 'a', Initiation)], "nothing was heard");
}

/// Two that lost each other at the same moment do not keep on colliding (§6.1).
#[test]
fn tries_come_a_random_moment_after_five_seconds() {
    fn pauses<I: Identity>() -> Vec<Duration> {
        let mut pair = Pair::<I>::new();
        pair.a.initiate(pair.now).unwrap();
        let (mut pauses, mut last) = (Vec::new(), pair.now);
        while pauses.len() < 15 {
            pair.now = pair.a.session.poll_timeout().expect("it is tried");
            let (sent, _) = pair.a.run_timers(pair.now);
            pauses.extend(sent.iter().map(|_| pair.now - std::mem::replace(&mut last, pair.now)));
        }
        pauses
    }
    for mut pauses in
        [pauses::<encrypt::boring::BoringIdentity>(), pauses::<encrypt::native::NativeIdentity>()]
    {
        assert!(pauses.iter().all(|pause| (5000..=5333).contains(&pause.as_millis())), "{pauses:?}");
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 5, "{pauses:?}");
    }
}
