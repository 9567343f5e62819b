//! Handshakes, packets, and what is refused: every backend alike.

mod common;

use std::time::Duration;

use common::{Classified, Pair, Received, Sent, classify, packet, private_key, secs};
use encrypt::{
    COOKIE_REPLY_LEN, DATA_OVERHEAD, INITIATION_LEN, Identity, PeerIndex, PresharedKey, PublicKey,
    REJECT_AFTER_TIME, RESPONSE_LEN, Reject, SealError, Session, SessionConfig, native::write_mac1,
};

macro_rules! all {
    ($module:ident, $identity:ty) => {
        for_backend!(
            $module,
            $identity,
            [
                packets_flow_both_ways_after_a_handshake,
                messages_have_the_lengths_of_the_protocol,
                a_second_initiation_waits_for_the_first,
                the_responder_may_not_seal_before_it_is_confirmed,
                a_late_answer_to_the_previous_initiation_counts,
                an_answer_that_a_newer_one_has_overtaken_is_refused,
                handshakes_that_cross_leave_both_sides_talking,
                old_session_packets_still_open_after_a_rekey,
                a_preshared_key_must_match,
                datagrams_for_another_key_fail_mac1,
                the_initiation_names_its_sender,
                a_replayed_initiation_is_refused,
                a_replayed_initiation_is_refused_whatever_the_preshared_key_became,
                a_session_goes_on_while_the_preshared_key_changes_and_the_next_handshake_uses_it,
                a_handshake_under_way_begins_again_when_the_preshared_key_changes,
                handshakes_that_fail_leave_the_session_alone_until_its_end,
                an_end_leaves_no_keys_and_no_timers_and_what_was_seen_stays_refused,
                a_replayed_response_is_refused,
                a_replayed_packet_is_refused,
                no_changed_byte_goes_unnoticed_in_data,
                no_changed_byte_goes_unnoticed_in_handshakes,
                padding_is_trimmed_and_content_must_be_ip,
                an_empty_message_is_a_keepalive,
                seal_wants_the_exact_length,
                a_counter_past_the_limit_is_refused_before_decryption,
                a_peer_that_lost_its_session_says_so,
                under_load_a_cookie_must_be_earned,
                a_forged_cookie_is_refused,
                sessions_can_be_sent_to_threads,
            ]
        );
    };
}

all!(deterministic, encrypt::deterministic::InsecureIdentity);
all!(boring, encrypt::boring::BoringIdentity);
all!(native, encrypt::native::NativeIdentity);

/// Where there is cryptography.
macro_rules! in_earnest {
    ($module:ident, $identity:ty) => {
        for_backend!($module, $identity, [no_handshake_with_a_key_of_low_order_begins_or_completes]);
    };
}

in_earnest!(boring_in_earnest, encrypt::boring::BoringIdentity);
in_earnest!(native_in_earnest, encrypt::native::NativeIdentity);

/// Where the library has its own ways.
macro_rules! as_boringtun {
    ($module:ident, $identity:ty) => {
        for_backend!(
            $module,
            $identity,
            [
                a_receiver_index_names_the_peer_and_counts_its_sessions,
                reordered_packets_are_accepted_within_a_window_of_1024,
            ]
        );
    };
}

as_boringtun!(deterministic_as_boringtun, encrypt::deterministic::InsecureIdentity);
as_boringtun!(boring_as_boringtun, encrypt::boring::BoringIdentity);

for_backend!(
    native_as_the_kernel,
    encrypt::native::NativeIdentity,
    [
        receiver_indices_tell_nothing,
        reordered_packets_are_accepted_within_a_window_of_8128,
        a_cookie_is_for_one_port,
        a_second_initiation_within_20_milliseconds_is_refused,
    ]
);

fn packets_flow_both_ways_after_a_handshake<I: Identity>() {
    let mut pair = Pair::<I>::new();
    assert_eq!(pair.a.seal(&packet(64), pair.now), Err(SealError::NoSession));
    pair.handshake();
    assert!(pair.a.session.is_live() && pair.b.session.is_live());
    assert!(!pair.a.session.is_initiating());
    for _ in 0..3 {
        pair.exchange();
    }
}

fn messages_have_the_lengths_of_the_protocol<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    assert_eq!((initiation.len(), &initiation[..4]), (INITIATION_LEN, &[1, 0, 0, 0][..]));

    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    assert_eq!((response.len(), &response[..4]), (RESPONSE_LEN, &[2, 0, 0, 0][..]));
    assert_eq!(response[8..12], initiation[4..8]);
    let class = pair.a.classify(&response, pair.b.address, pair.now);
    assert_eq!(class, Ok(Classified::ForPeer(PeerIndex::new(0x00ab_cdef).unwrap())));

    let confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
    assert_eq!((confirmation.len(), &confirmation[..4]), (DATA_OVERHEAD, &[4, 0, 0, 0][..]));
    assert_eq!(confirmation[4..8], response[4..8]);
    assert_eq!(confirmation[8..16], [0; 8]);
    let class = pair.b.classify(&confirmation, pair.a.address, pair.now);
    assert_eq!(class, Ok(Classified::ForPeer(PeerIndex::new(7).unwrap())));

    let sealed = pair.a.seal(&packet(48), pair.now).unwrap();
    assert_eq!((sealed.len(), sealed[8]), (48 + DATA_OVERHEAD, 1));
}

fn a_receiver_index_names_the_peer_and_counts_its_sessions<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    assert_eq!(initiation[5..8], [0xef, 0xcd, 0xab], "the peer's index is in the high 24 bits");
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    assert_eq!(response[5..8], [7, 0, 0]);
}

fn receiver_indices_tell_nothing<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        pair.advance(secs(6));
        let initiation = pair.a.initiate(pair.now).unwrap();
        let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
        let confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
        pair.b.receive(&confirmation, pair.a.address, pair.now);
        seen.extend([&initiation, &response].map(|message| message[5..8].to_vec()));
    }
    assert!(seen.len() > 38, "24 bits of 40 indices, drawn at random");
}

fn a_second_initiation_waits_for_the_first<I: Identity>() {
    let mut pair = Pair::<I>::new();
    assert!(!pair.a.session.is_initiating());
    assert!(pair.a.initiate(pair.now).is_some());
    assert!(pair.a.session.is_initiating());
    for _ in 0..3 {
        assert_eq!(pair.a.initiate(pair.now), None);
        pair.advance(secs(1));
    }
    pair.advance(secs(3));
    assert!(pair.a.initiate(pair.now).is_some(), "due for a retry");
}

fn the_responder_may_not_seal_before_it_is_confirmed<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    assert!(!pair.b.session.is_live());
    assert_eq!(pair.b.seal(&packet(64), pair.now), Err(SealError::NoSession));
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    // The confirmation was lost; the first packet does as well.
    pair.exchange();
}

fn a_late_answer_to_the_previous_initiation_counts<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let first = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&first, pair.a.address, pair.now).reply();
    pair.advance(secs(6));
    assert!(pair.a.initiate(pair.now).is_some(), "the answer was slow");
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    pair.exchange();
}

/// The peer has dropped that session, or soon will: sealing with it would cut the tunnel off.
fn an_answer_that_a_newer_one_has_overtaken_is_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let [overtaken, newer] = [0; 2].map(|_| {
        pair.advance(secs(6));
        let initiation = pair.a.initiate(pair.now).unwrap();
        pair.b.receive(&initiation, pair.a.address, pair.now).reply()
    });
    let confirmation = pair.a.receive(&newer, pair.b.address, pair.now).reply();
    assert_eq!(pair.b.receive(&confirmation, pair.a.address, pair.now), Received::Keepalive);
    let outcome = pair.a.receive(&overtaken, pair.b.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::NoSession));
    pair.exchange();
}

fn handshakes_that_cross_leave_both_sides_talking<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let from_a = pair.a.initiate(pair.now).unwrap();
    let from_b = pair.b.initiate(pair.now).unwrap();
    let to_b = pair.a.receive(&from_b, pair.b.address, pair.now).reply();
    let to_a = pair.b.receive(&from_a, pair.a.address, pair.now).reply();
    let confirm_a = pair.a.receive(&to_a, pair.b.address, pair.now).reply();
    let confirm_b = pair.b.receive(&to_b, pair.a.address, pair.now).reply();
    assert_eq!(pair.b.receive(&confirm_a, pair.a.address, pair.now), Received::Keepalive);
    assert_eq!(pair.a.receive(&confirm_b, pair.b.address, pair.now), Received::Keepalive);
    assert!(!pair.a.session.is_initiating() && !pair.b.session.is_initiating());
    for _ in 0..4 {
        pair.exchange();
    }
}

fn old_session_packets_still_open_after_a_rekey<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    for _ in 0..20 {
        let straggler = pair.a.seal(&packet(64), pair.now).unwrap();
        pair.advance(secs(10));
        pair.handshake();
        assert_eq!(pair.b.receive(&straggler, pair.a.address, pair.now), Received::Packet(packet(64)));
        pair.exchange();
    }
}

fn a_preshared_key_must_match<I: Identity>() {
    let key = |seed| Some(PresharedKey::from_bytes([seed; 32]));
    let mut same = Pair::<I>::with(key(9), key(9));
    same.handshake();
    same.exchange();

    for (psk_a, psk_b) in [(key(9), key(8)), (key(9), None), (None, key(8))] {
        let mut pair = Pair::<I>::with(psk_a, psk_b);
        let initiation = pair.a.initiate(pair.now).unwrap();
        let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
        let refused = pair.a.receive(&response, pair.b.address, pair.now);
        assert_eq!(refused, Received::Rejected(Reject::BadHandshake));
        assert!(!pair.a.session.is_live());
    }
}

fn no_handshake_with_a_key_of_low_order_begins_or_completes<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let honest = pair.b.session;
    let peer = PublicKey::from_bytes([0; 32]);
    let config = SessionConfig { peer, preshared_key: None, index: PeerIndex::new(9).unwrap() };
    pair.b.session = pair.b.identity.session(config, pair.now);
    assert_eq!(pair.b.initiate(pair.now), None, "to a peer");
    assert_eq!(
        pair.run(REJECT_AFTER_TIME, true),
        [(90, 'b', Sent::Expired)],
        "it is tried, but not in a loop"
    );
    pair.b.session = honest;

    let refused = Received::Rejected(Reject::BadHandshake);
    let initiation = pair.a.initiate(pair.now).unwrap();
    let mut forged = initiation.clone();
    forged[8..40].fill(0);
    write_mac1(&mut forged, &pair.b.identity.public_key());
    assert_eq!(
        pair.b.receive(&forged, pair.a.address, pair.now),
        refused,
        "as an initiation's ephemeral key"
    );
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    let mut forged = response.clone();
    forged[12..44].fill(0);
    write_mac1(&mut forged, &pair.a.identity.public_key());
    assert_eq!(pair.a.receive(&forged, pair.b.address, pair.now), refused, "as a response's");
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    pair.exchange();
}

fn datagrams_for_another_key_fail_mac1<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let mut stranger = I::new(&private_key(3), pair.now);
    let initiation = pair.a.initiate(pair.now).unwrap();
    assert_eq!(classify(&mut stranger, &initiation, pair.a.address, false, pair.now), Err(Reject::BadMac));
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    assert_eq!(classify(&mut stranger, &response, pair.b.address, false, pair.now), Err(Reject::BadMac));
}

fn the_initiation_names_its_sender<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    let class = pair.b.classify(&initiation, pair.a.address, pair.now);
    assert_eq!(class, Ok(Classified::Initiation(pair.a.identity.public_key())));

    // A caller that picks the wrong peer is told so.
    let other = SessionConfig {
        peer: private_key(4).public_key(),
        preshared_key: None,
        index: PeerIndex::new(8).unwrap(),
    };
    pair.b.renew_session(other, pair.now);
    assert_eq!(pair.b.open(&initiation, pair.now), Received::Rejected(Reject::BadHandshake));
}

fn a_replayed_initiation_is_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    let again = pair.b.receive(&initiation, pair.a.address, pair.now);
    assert_eq!(again, Received::Rejected(Reject::ReplayedHandshake));
}

fn a_replayed_initiation_is_refused_whatever_the_preshared_key_became<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let key = |seed| Some(PresharedKey::from_bytes([seed; 32]));
    let replay = |pair: &mut Pair<I>, initiation: &[u8]| {
        let outcome = pair.b.receive(initiation, pair.a.address, pair.now);
        assert_eq!(outcome, Received::Rejected(Reject::ReplayedHandshake));
    };
    let first = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&first, pair.a.address, pair.now).reply();
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    for seed in 1..4 {
        pair.b.set_preshared_key(key(seed), pair.now);
        replay(&mut pair, &first);
        replay(&mut pair, &first);
    }
    pair.a.set_preshared_key(key(3), pair.now);
    pair.advance(secs(6));
    let second = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&second, pair.a.address, pair.now).reply();
    let confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
    assert_eq!(pair.b.receive(&confirmation, pair.a.address, pair.now), Received::Keepalive);
    pair.exchange();
    replay(&mut pair, &first);
    replay(&mut pair, &second);
    pair.b.set_preshared_key(None, pair.now);
    replay(&mut pair, &first);
    replay(&mut pair, &second);
}

fn a_session_goes_on_while_the_preshared_key_changes_and_the_next_handshake_uses_it<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    // Several changes, so that the receiver indices of sessions from before come again.
    for seed in 1..6 {
        let key = Some(PresharedKey::from_bytes([seed; 32]));
        pair.exchange();
        let timeout = pair.a.session.poll_timeout();
        pair.a.set_preshared_key(key.clone(), pair.now);
        assert_eq!(pair.a.session.poll_timeout(), timeout, "nothing new is due");
        pair.exchange();
        pair.b.set_preshared_key(key, pair.now);
        pair.exchange();

        pair.advance(secs(6));
        let late = [pair.a.seal(&packet(64), pair.now).unwrap(), pair.b.seal(&packet(64), pair.now).unwrap()];
        pair.handshake();
        pair.exchange();
        let (a, b) = (pair.a.address, pair.b.address);
        assert_eq!(pair.b.receive(&late[0], a, pair.now), Received::Packet(packet(64)));
        assert_eq!(pair.a.receive(&late[1], b, pair.now), Received::Packet(packet(64)));
        assert!(matches!(pair.a.receive(&late[1], b, pair.now), Received::Rejected(_)), "once");
        pair.exchange();
    }
    pair.b.set_preshared_key(None, pair.now);
    pair.advance(secs(6));
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    let outcome = pair.a.receive(&response, pair.b.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::BadHandshake), "the new key was used");
}

fn a_handshake_under_way_begins_again_when_the_preshared_key_changes<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let key = Some(PresharedKey::from_bytes([1; 32]));
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    for endpoint in [&mut pair.a, &mut pair.b] {
        endpoint.set_preshared_key(key.clone(), pair.now);
    }
    let outcome = pair.a.receive(&response, pair.b.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::NoSession), "the answer to what was forgotten");
    assert!(pair.a.session.is_initiating());
    pair.advance(Duration::from_millis(20)); // the least time between two initiations that are answered
    assert_eq!(pair.run(secs(1), true), [(0, 'a', Sent::Initiation)]);
    pair.exchange();
}

fn handshakes_that_fail_leave_the_session_alone_until_its_end<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let began = pair.now;
    // One side changes, the other does not: nothing is agreed any more, whoever tries.
    pair.b.set_preshared_key(Some(PresharedKey::from_bytes([1; 32])), pair.now);
    for round in 0.. {
        pair.advance(secs(6));
        if pair.now - began >= REJECT_AFTER_TIME {
            break;
        }
        pair.exchange();
        let now = pair.now;
        let (from, to) = if round % 2 == 0 { (&mut pair.a, &mut pair.b) } else { (&mut pair.b, &mut pair.a) };
        let initiation = from.initiate(now).unwrap();
        let response = to.receive(&initiation, from.address, now).reply();
        let outcome = from.receive(&response, to.address, now);
        assert_eq!(outcome, Received::Rejected(Reject::BadHandshake));
    }
    assert_eq!(pair.a.seal(&packet(64), pair.now), Err(SealError::NoSession));
}

fn an_end_leaves_no_keys_and_no_timers_and_what_was_seen_stays_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let seen = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&seen, pair.a.address, pair.now).reply();
    let confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
    assert_eq!(pair.b.receive(&confirmation, pair.a.address, pair.now), Received::Keepalive);
    let late = pair.a.seal(&packet(64), pair.now).unwrap();
    for _ in 0..2 {
        pair.b.end(pair.now);
        assert!(!pair.b.session.is_live() && !pair.b.session.is_initiating());
        assert_eq!(pair.b.session.poll_timeout(), None, "nothing is pending");
        assert_eq!(pair.b.seal(&packet(64), pair.now), Err(SealError::NoSession));
        let outcome = pair.b.receive(&late, pair.a.address, pair.now);
        assert_eq!(outcome, Received::Rejected(Reject::NoSession));
        let outcome = pair.b.receive(&seen, pair.a.address, pair.now);
        assert_eq!(outcome, Received::Rejected(Reject::ReplayedHandshake));
    }
    // It may begin anew at once, and what it forgot is not answered.
    let initiation = pair.b.initiate(pair.now).unwrap();
    let response = pair.a.receive(&initiation, pair.b.address, pair.now).reply();
    pair.b.end(pair.now);
    let outcome = pair.b.receive(&response, pair.a.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::NoSession));
    pair.advance(secs(6));
    pair.handshake();
    pair.exchange();
}

fn a_replayed_response_is_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    let again = pair.a.receive(&response, pair.b.address, pair.now);
    assert_eq!(again, Received::Rejected(Reject::NoSession));
    pair.exchange();
}

fn a_replayed_packet_is_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    assert_eq!(pair.b.receive(&sealed, pair.a.address, pair.now), Received::Packet(packet(64)));
    for _ in 0..2 {
        let again = pair.b.receive(&sealed, pair.a.address, pair.now);
        assert_eq!(again, Received::Rejected(Reject::Replay));
    }
}

fn reordered_packets_are_accepted_within_a_window_of_1024<I: Identity>() {
    reordered_packets_are_accepted::<I>(900, 1030);
}

fn reordered_packets_are_accepted_within_a_window_of_8128<I: Identity>() {
    reordered_packets_are_accepted::<I>(8128, 8129);
}

/// `late` behind the newest is in time, `too_late` is not.
fn reordered_packets_are_accepted<I: Identity>(late: usize, too_late: usize) {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let mut sealed: Vec<_> = (0..=too_late).map(|_| pair.a.seal(&packet(32), pair.now).unwrap()).collect();
    for datagram in sealed.split_off(too_late - late).iter().rev() {
        assert_eq!(pair.b.receive(datagram, pair.a.address, pair.now), Received::Packet(packet(32)));
    }
    let refused = pair.b.receive(&sealed[0], pair.a.address, pair.now);
    assert_eq!(refused, Received::Rejected(Reject::Replay));
}

fn no_changed_byte_goes_unnoticed_in_data<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x10;
        let outcome = pair.b.receive(&changed, pair.a.address, pair.now);
        assert!(matches!(outcome, Received::Rejected(_)), "byte {at}: {outcome:?}");
    }
    assert_eq!(pair.b.receive(&sealed, pair.a.address, pair.now), Received::Packet(packet(64)));
}

fn no_changed_byte_goes_unnoticed_in_handshakes<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    // The last 16 bytes are mac2, which nobody reads while there is no load.
    for at in 0..INITIATION_LEN - 16 {
        let mut changed = initiation.clone();
        changed[at] ^= 1;
        let outcome = pair.b.receive(&changed, pair.a.address, pair.now);
        assert!(matches!(outcome, Received::Rejected(_)), "byte {at}: {outcome:?}");
    }
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    for at in 0..RESPONSE_LEN - 16 {
        let mut changed = response.clone();
        changed[at] ^= 1;
        let outcome = pair.a.receive(&changed, pair.b.address, pair.now);
        assert!(matches!(outcome, Received::Rejected(_)), "byte {at}: {outcome:?}");
    }
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    pair.exchange();
}

fn padding_is_trimmed_and_content_must_be_ip<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let mut padded = packet(60);
    padded.resize(64, 0);
    let sealed = pair.a.seal(&padded, pair.now).unwrap();
    assert_eq!(pair.b.receive(&sealed, pair.a.address, pair.now), Received::Packet(packet(60)));

    let mut longer_than_it_is = packet(64);
    longer_than_it_is[3] += 1;
    let mut no_header = packet(64);
    no_header[0] = 0x41;
    let short_v6 = [0x60; 39].to_vec();
    for bad in [longer_than_it_is, no_header, short_v6, vec![0; 64], vec![0x45; 3]] {
        let sealed = pair.a.seal(&bad, pair.now).unwrap();
        let outcome = pair.b.receive(&sealed, pair.a.address, pair.now);
        assert_eq!(outcome, Received::Rejected(Reject::NotIp), "{bad:?}");
        let again = pair.b.receive(&sealed, pair.a.address, pair.now);
        assert_eq!(again, Received::Rejected(Reject::Replay), "its counter is used up");
    }
    pair.exchange();
}

fn an_empty_message_is_a_keepalive<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let sealed = pair.a.seal(&[], pair.now).unwrap();
    assert_eq!(sealed.len(), DATA_OVERHEAD);
    assert_eq!(pair.b.receive(&sealed, pair.a.address, pair.now), Received::Keepalive);
}

fn seal_wants_the_exact_length<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    for room in [0, 31, 32, 64 + 31, 64 + 33, 2000] {
        let outcome = pair.a.session.seal(&packet(64), &mut vec![0; room], pair.now);
        assert_eq!(outcome, Err(SealError::WrongLength), "{room}");
    }
    assert_eq!(pair.a.seal(&packet(64), pair.now).unwrap()[8..16], 1u64.to_le_bytes(), "no counter was used");
}

fn a_counter_past_the_limit_is_refused_before_decryption<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let mut sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    for counter in [u64::MAX, u64::MAX - 1023, encrypt::REJECT_AFTER_MESSAGES] {
        sealed[8..16].copy_from_slice(&counter.to_le_bytes());
        let outcome = pair.b.receive(&sealed, pair.a.address, pair.now);
        assert_eq!(outcome, Received::Rejected(Reject::Replay));
    }
    sealed[8..16].copy_from_slice(&(encrypt::REJECT_AFTER_MESSAGES - 1).to_le_bytes());
    let outcome = pair.b.receive(&sealed, pair.a.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::BadTag));
}

fn a_peer_that_lost_its_session_says_so<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let (key_a, key_b) = (pair.a.identity.public_key(), pair.b.identity.public_key());
    let config = SessionConfig { peer: key_a, preshared_key: None, index: PeerIndex::new(7).unwrap() };
    pair.b.renew_session(config, pair.now);
    assert_eq!(key_b, pair.b.identity.public_key());
    let sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    let outcome = pair.b.receive(&sealed, pair.a.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::NoSession));
    // The next handshake mends it, from either side.
    let initiation = pair.b.initiate(pair.now).unwrap();
    let response = pair.a.receive(&initiation, pair.b.address, pair.now).reply();
    let confirmation = pair.b.receive(&response, pair.a.address, pair.now).reply();
    pair.a.receive(&confirmation, pair.b.address, pair.now);
    pair.exchange();
}

/// b is under load.
fn overloaded_pair<I: Identity>() -> Pair<I> {
    let mut pair = Pair::<I>::new();
    pair.b.under_load = true;
    pair
}

fn a_cookie_is_for_one_port<I: Identity>() {
    let mut pair = overloaded_pair::<I>();
    let first = pair.a.initiate(pair.now).unwrap();
    let reply = pair.b.receive(&first, pair.a.address, pair.now).reply();
    assert_eq!(pair.a.receive(&reply, pair.b.address, pair.now), Received::CookieStored);
    pair.advance(secs(6));
    let second = pair.a.initiate(pair.now).unwrap();
    let mut elsewhere = pair.a.address;
    elsewhere.set_port(elsewhere.port() + 1);
    let spoofed = pair.b.classify(&second, elsewhere, pair.now);
    assert!(matches!(spoofed, Ok(Classified::CookieReply(_))));
    assert_eq!(pair.b.receive(&second, pair.a.address, pair.now).reply().len(), RESPONSE_LEN);
}

fn a_second_initiation_within_20_milliseconds_is_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let first = pair.a.initiate(pair.now).unwrap();
    pair.b.receive(&first, pair.a.address, pair.now).reply();
    pair.a.end(pair.now);
    let second = pair.a.initiate(pair.now).unwrap();
    pair.advance(Duration::from_millis(19));
    let outcome = pair.b.receive(&second, pair.a.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::TooSoon));
    pair.advance(Duration::from_millis(1));
    pair.b.receive(&second, pair.a.address, pair.now).reply();
}

fn under_load_a_cookie_must_be_earned<I: Identity>() {
    let mut pair = overloaded_pair::<I>();
    let first = pair.a.initiate(pair.now).unwrap();
    let Received::CookieReply(reply) = pair.b.receive(&first, pair.a.address, pair.now) else {
        panic!("no cookie under load");
    };
    assert_eq!((reply.len(), &reply[..4]), (COOKIE_REPLY_LEN, &[3, 0, 0, 0][..]));
    assert_eq!(reply[4..8], first[4..8]);
    assert_eq!(pair.a.receive(&reply, pair.b.address, pair.now), Received::CookieStored);
    assert!(pair.a.session.is_initiating(), "the retry comes in its time");

    pair.advance(secs(6));
    let second = pair.a.initiate(pair.now).unwrap();
    let elsewhere = "198.51.100.9:1000".parse().unwrap();
    let spoofed = pair.b.classify(&second, elsewhere, pair.now);
    assert!(matches!(spoofed, Ok(Classified::CookieReply(_))), "a cookie is for one address");
    let response = pair.b.receive(&second, pair.a.address, pair.now).reply();
    assert_eq!(response.len(), RESPONSE_LEN);
    pair.a.receive(&response, pair.b.address, pair.now).reply();
    pair.exchange();
}

fn a_forged_cookie_is_refused<I: Identity>() {
    let mut pair = overloaded_pair::<I>();
    let initiation = pair.a.initiate(pair.now).unwrap();
    let reply = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    for at in 4..COOKIE_REPLY_LEN {
        let mut forged = reply.clone();
        forged[at] ^= 1;
        let outcome = pair.a.open(&forged, pair.now);
        assert!(matches!(outcome, Received::Rejected(_)), "byte {at}: {outcome:?}");
    }
    assert_eq!(pair.b.open(&reply, pair.now), Received::Rejected(Reject::NoSession));
}

fn sessions_can_be_sent_to_threads<I: Identity<Session: Send + 'static> + Send + 'static>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    std::thread::spawn(move || pair.exchange()).join().unwrap();
}
