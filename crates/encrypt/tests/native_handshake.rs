//! What the native handshake promises, and what it refuses.

mod support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use encrypt::{
    COOKIE_REPLY_LEN, INITIATION_LEN, PresharedKey, PrivateKey, PublicKey, RESPONSE_LEN, Reject,
    native::{Addressed, LocalIdentity, LowOrderKey, PeerHandshake},
    transport::KeyPair,
};
use proptest::prelude::*;
use rand_core::RngCore;
use support::{Seeded, start, wall, write_mac1};

/// One of two that know each other.
struct End {
    identity: LocalIdentity,
    peer: PeerHandshake,
    next_index: u32,
}

type Initiation = [u8; INITIATION_LEN];
type Response = [u8; RESPONSE_LEN];

impl End {
    fn initiate(&mut self, net: &mut Net) -> Initiation {
        let mut out = [0; INITIATION_LEN];
        self.next_index += 1;
        self.peer
            .initiate(&self.identity, self.next_index, net.wall, net.now, &mut net.rng, &mut out)
            .unwrap();
        out
    }

    fn respond(&mut self, initiation: &[u8], net: &mut Net) -> Result<(Response, KeyPair), Reject> {
        let Addressed::Initiation(initiation) = self.identity.verify_mac1(initiation)? else {
            return Err(Reject::Malformed);
        };
        let mut out = [0; RESPONSE_LEN];
        self.next_index += 1;
        let (known, handshakes) = (*self.peer.public_key(), &mut self.peer);
        let find = move |claimed: &PublicKey| (*claimed == known).then_some(((), handshakes));
        let answer =
            self.identity.respond(&initiation, find, self.next_index, net.now, &mut net.rng, &mut out);
        assert!(answer.is_ok() || out == [0; RESPONSE_LEN], "nothing is written for who is refused");
        answer.map(|((), keys)| (out, keys))
    }

    fn read_response(&mut self, response: &[u8]) -> Result<KeyPair, Reject> {
        let Addressed::Response(response) = self.identity.verify_mac1(response)? else {
            return Err(Reject::Malformed);
        };
        self.peer.read_response(&self.identity, &response)
    }
}

/// The time, and what comes from outside.
struct Net {
    now: Instant,
    wall: SystemTime,
    rng: Seeded,
}

impl Net {
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
    }
}

fn ends(psks: [Option<PresharedKey>; 2]) -> (End, End, Net) {
    let [a, b] = [1, 2].map(|seed| LocalIdentity::new(&PrivateKey::from_bytes([seed; 32])));
    let [psk_a, psk_b] = psks;
    let peer_a = PeerHandshake::new(b.public_key(), psk_a.as_ref());
    let peer_b = PeerHandshake::new(a.public_key(), psk_b.as_ref());
    let net = Net { now: start(), wall: wall(1_700_000_000), rng: Seeded(1) };
    (
        End { identity: a, peer: peer_a, next_index: 100 },
        End { identity: b, peer: peer_b, next_index: 200 },
        net,
    )
}

fn psk(seed: u8) -> Option<PresharedKey> {
    Some(PresharedKey::from_bytes([seed; 32]))
}

/// A message from each to the other.
#[track_caller]
fn assert_same_keys(a: &mut KeyPair, b: &mut KeyPair) {
    for _ in 0..2 {
        let mut datagram = [7; 64];
        a.keys().lease(1).unwrap().seal_train(&mut datagram, 64).unwrap();
        let opened = b.keys().open(&mut datagram).expect("the same keys");
        assert_eq!(b.commit(opened).unwrap().content(), 16..48);
        assert_eq!(datagram[16..48], [7; 32]);
        std::mem::swap(a, b);
    }
}

#[track_caller]
fn shake(a: &mut End, b: &mut End, net: &mut Net) {
    net.pass(Duration::from_secs(5));
    let initiation = a.initiate(net);
    let (response, mut bs) = b.respond(&initiation, net).unwrap();
    let mut as_ = a.read_response(&response).unwrap();
    assert_same_keys(&mut as_, &mut bs);
}

#[test]
fn either_may_initiate_with_and_without_a_pre_shared_key() {
    for key in [None, psk(9)] {
        let (mut a, mut b, mut net) = ends([key.clone(), key]);
        shake(&mut a, &mut b, &mut net);
        shake(&mut b, &mut a, &mut net);
        shake(&mut a, &mut b, &mut net);
    }
}

#[test]
fn two_that_initiate_at_once_get_two_sessions() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let (from_a, from_b) = (a.initiate(&mut net), b.initiate(&mut net));
    let (response_a, mut a_responds) = a.respond(&from_b, &mut net).unwrap();
    let (response_b, mut b_responds) = b.respond(&from_a, &mut net).unwrap();
    assert_same_keys(&mut a.read_response(&response_b).unwrap(), &mut b_responds);
    assert_same_keys(&mut b.read_response(&response_a).unwrap(), &mut a_responds);
}

#[test]
fn a_wrong_pre_shared_key_completes_nothing_until_it_is_right() {
    let (mut a, mut b, mut net) = ends([psk(1), psk(2)]);
    let initiation = a.initiate(&mut net);
    let (response, _) = b.respond(&initiation, &mut net).unwrap();
    assert_eq!(a.read_response(&response).unwrap_err(), Reject::BadHandshake);
    assert!(a.peer.pending().eq([101]), "the right response may still come");
    b.peer.set_preshared_key(psk(1).as_ref());
    net.pass(Duration::from_secs(5));
    shake(&mut a, &mut b, &mut net);
    // No initiation depends on the key, so one that both change counts for the handshake that is out.
    net.pass(Duration::from_secs(5));
    let initiation = a.initiate(&mut net);
    a.peer.set_preshared_key(psk(3).as_ref());
    b.peer.set_preshared_key(psk(3).as_ref());
    let (response, mut bs) = b.respond(&initiation, &mut net).unwrap();
    assert_same_keys(&mut a.read_response(&response).unwrap(), &mut bs);
    net.pass(Duration::from_secs(5));
    a.peer.set_preshared_key(None);
    b.peer.set_preshared_key(None);
    shake(&mut b, &mut a, &mut net);
}

#[test]
fn a_response_is_taken_once() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let initiation = a.initiate(&mut net);
    let (response, _) = b.respond(&initiation, &mut net).unwrap();
    a.read_response(&response).unwrap();
    assert_eq!(a.peer.pending().count(), 0);
    assert_eq!(a.read_response(&response).unwrap_err(), Reject::NoSession);
}

#[test]
fn a_late_response_counts_and_does_not_break_the_newer_initiation() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let [first, second, third] = [0; 3].map(|_| {
        net.pass(Duration::from_secs(5));
        a.initiate(&mut net)
    });
    assert!(a.peer.pending().eq([103, 102]), "two are out at most");
    let (too_late, _) = b.respond(&first, &mut net).unwrap();
    assert_eq!(a.read_response(&too_late).unwrap_err(), Reject::NoSession);
    for initiation in [second, third] {
        net.pass(Duration::from_secs(1));
        let (response, mut bs) = b.respond(&initiation, &mut net).unwrap();
        assert_same_keys(&mut a.read_response(&response).unwrap(), &mut bs);
        assert_eq!(a.read_response(&response).unwrap_err(), Reject::NoSession);
    }
}

#[test]
fn a_response_to_nobody_is_refused() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let initiation = a.initiate(&mut net);
    let (response, _) = b.respond(&initiation, &mut net).unwrap();
    a.peer.abandon();
    assert_eq!(a.read_response(&response).unwrap_err(), Reject::NoSession);
}

#[test]
fn no_initiation_is_taken_twice_nor_an_older_one_ever_whatever_changes() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let old = a.initiate(&mut net);
    net.pass(Duration::from_secs(5));
    let new = a.initiate(&mut net);
    b.respond(&new, &mut net).unwrap();
    let mut refuse = |b: &mut End, what: &str| {
        net.pass(Duration::from_secs(100_000));
        for initiation in [&old, &new] {
            assert_eq!(b.respond(initiation, &mut net).unwrap_err(), Reject::ReplayedHandshake, "{what}");
        }
    };
    refuse(&mut b, "at once");
    b.peer.set_preshared_key(psk(3).as_ref());
    refuse(&mut b, "another pre-shared key");
    b.peer.forget_identity();
    refuse(&mut b, "the private key was set again");
    b.peer.abandon();
    refuse(&mut b, "a handshake was given up");
}

#[test]
fn a_peer_is_answered_once_in_20_milliseconds() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let [first, second, third] = [0; 3].map(|_| a.initiate(&mut net));
    b.respond(&first, &mut net).unwrap();
    net.pass(Duration::from_millis(19));
    assert_eq!(b.respond(&third, &mut net).unwrap_err(), Reject::TooSoon);
    net.pass(Duration::from_millis(1));
    assert!(b.respond(&second, &mut net).is_ok(), "what came too soon was not taken note of");
    net.pass(Duration::from_millis(20));
    assert!(b.respond(&third, &mut net).is_ok());
}

#[test]
fn a_stranger_is_unknown_and_changes_nothing() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let mut stranger = End {
        identity: LocalIdentity::new(&PrivateKey::from_bytes([3; 32])),
        peer: PeerHandshake::new(b.identity.public_key(), None),
        next_index: 300,
    };
    let initiation = stranger.initiate(&mut net);
    assert_eq!(b.respond(&initiation, &mut net).unwrap_err(), Reject::UnknownPeer);
    shake(&mut a, &mut b, &mut net);
}

#[test]
fn a_clock_that_steps_back_by_years_shuts_nobody_out() {
    let (mut a, mut b, mut net) = ends([None, None]);
    shake(&mut a, &mut b, &mut net);
    net.wall = wall(0);
    shake(&mut a, &mut b, &mut net);
    net.wall = wall(4_000_000_000);
    shake(&mut a, &mut b, &mut net);
    net.wall = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    shake(&mut a, &mut b, &mut net);
}

/// What takes the place of a peer's handshakes, when our private key changes, goes on from their timestamps.
#[test]
fn timestamps_are_handed_on_in_both_directions() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let recorded = a.initiate(&mut net);
    shake(&mut a, &mut b, &mut net);
    for end in [&mut a, &mut b] {
        let stamps = end.peer.stamps();
        end.peer = PeerHandshake::new(*end.peer.public_key(), None);
        end.peer.remember(stamps);
        end.peer.remember(Default::default());
        assert_eq!(end.peer.stamps(), stamps);
    }
    assert_eq!(b.respond(&recorded, &mut net).unwrap_err(), Reject::ReplayedHandshake);
    net.wall = wall(10);
    shake(&mut a, &mut b, &mut net);
}

/// A router without a battery starts in 1970; its peer remembers stamps of before.
#[test]
fn a_clock_that_is_set_after_the_start_counts_with_the_next_try() {
    let (mut a, mut b, mut net) = ends([None, None]);
    shake(&mut a, &mut b, &mut net);
    a.peer = PeerHandshake::new(b.identity.public_key(), None);
    net.wall = wall(10);
    net.pass(Duration::from_secs(5));
    let initiation = a.initiate(&mut net);
    assert_eq!(b.respond(&initiation, &mut net).unwrap_err(), Reject::ReplayedHandshake);
    net.wall = wall(1_700_000_100);
    shake(&mut a, &mut b, &mut net);
}

/// Every encoding of a point of low order (RFC 7748 §6.1, cr.yp.to/ecdh.html), also those with the ignored bit set.
fn low_order_keys() -> Vec<[u8; 32]> {
    let eight = *b"\xe0\xeb\x7a\x7c\x3b\x41\xb8\xae\x16\x56\xe3\xfa\xf1\x9f\xc4\x6a\xda\x09\x8d\xeb\x9c\x32\xb1\xfd\x86\x62\x05\x16\x5f\x49\xb8\x00";
    let other = *b"\x5f\x9c\x95\xbc\xa3\x50\x8c\x24\xb1\xd0\xb1\x55\x9c\x83\xef\x5b\x04\x44\x5c\xc4\x58\x1c\x8e\x86\xd8\x22\x4e\xdd\xd0\x9f\x11\x57";
    let mut near_p = [[0xff; 32]; 3];
    for (key, low) in near_p.iter_mut().zip([0xec, 0xed, 0xee]) {
        key[0] = low;
        key[31] = 0x7f;
    }
    let mut one = [0; 32];
    one[0] = 1;
    let keys = [[0; 32], one, eight, other].into_iter().chain(near_p);
    keys.flat_map(|key| {
        let mut with_bit = key;
        with_bit[31] |= 0x80;
        [key, with_bit]
    })
    .collect()
}

#[test]
fn no_handshake_with_a_low_order_key_begins_or_completes() {
    let (mut a, mut b, mut net) = ends([None, None]);
    for key in low_order_keys() {
        let mut out = [0; INITIATION_LEN];
        let mut peer = PeerHandshake::new(PublicKey::from_bytes(key), None);
        let initiated = peer.initiate(&a.identity, 1, net.wall, net.now, &mut net.rng, &mut out);
        assert_eq!(
            (initiated, out, peer.pending().count()),
            (Err(LowOrderKey), [0; INITIATION_LEN], 0),
            "{key:02x?}"
        );

        // As an ephemeral key, in both messages.
        let mut initiation = a.initiate(&mut net);
        let (mut response, _) = {
            net.pass(Duration::from_secs(1));
            b.respond(&initiation, &mut net).unwrap()
        };
        initiation[8..40].copy_from_slice(&key);
        write_mac1(&mut initiation, b.identity.public_key());
        assert_eq!(b.respond(&initiation, &mut net).unwrap_err(), Reject::BadHandshake, "{key:02x?}");
        response[12..44].copy_from_slice(&key);
        write_mac1(&mut response, a.identity.public_key());
        assert_eq!(a.read_response(&response).unwrap_err(), Reject::BadHandshake, "{key:02x?}");
    }
    shake(&mut a, &mut b, &mut net);
}

const HERE: &str = "192.0.2.1:51820";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn proves(end: &mut End, message: &[u8], from: &str, net: &mut Net) -> bool {
    let message = message.to_vec();
    let addressed = end.identity.verify_mac1(&message).unwrap();
    end.identity.proves_address(addressed, address(from), net.now, &mut net.rng)
}

fn cookie_reply(end: &mut End, message: &[u8], from: &str, net: &mut Net) -> [u8; COOKIE_REPLY_LEN] {
    let message = message.to_vec();
    let addressed = end.identity.verify_mac1(&message).unwrap();
    let mut out = [0; COOKIE_REPLY_LEN];
    end.identity.write_cookie_reply(addressed, address(from), net.now, &mut net.rng, &mut out);
    assert_eq!(out[4..8], message[4..8], "for the sender's index");
    out
}

#[test]
fn a_cookie_proves_address_and_port_for_120_seconds() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let first = a.initiate(&mut net);
    assert!(!proves(&mut b, &first, HERE, &mut net));
    let reply = cookie_reply(&mut b, &first, HERE, &mut net);
    a.peer.read_cookie_reply(&reply, net.now).unwrap();
    net.pass(Duration::from_secs(5));
    let second = a.initiate(&mut net);
    assert!(proves(&mut b, &second, HERE, &mut net));
    for elsewhere in ["192.0.2.1:51821", "192.0.2.2:51820", "[2001:db8::1]:51820"] {
        assert!(!proves(&mut b, &second, elsewhere, &mut net), "{elsewhere}");
    }
    net.pass(Duration::from_secs(114));
    let third = a.initiate(&mut net);
    assert!(proves(&mut b, &third, HERE, &mut net), "119 s old");
    net.pass(Duration::from_secs(1));
    assert!(!proves(&mut b, &third, HERE, &mut net), "its maker has another secret now");
    assert_eq!(a.initiate(&mut net)[132..], [0; 16], "and its holder uses it no more");
}

#[test]
fn responses_carry_cookies_too() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let initiation = a.initiate(&mut net);
    let (response, _) = b.respond(&initiation, &mut net).unwrap();
    let reply = cookie_reply(&mut a, &response, HERE, &mut net);
    b.peer.read_cookie_reply(&reply, net.now).unwrap();
    net.pass(Duration::from_secs(1));
    let again = a.initiate(&mut net);
    let (response, _) = b.respond(&again, &mut net).unwrap();
    assert!(proves(&mut a, &response, HERE, &mut net));
    a.read_response(&response).unwrap();
}

#[test]
fn a_cookie_out_of_the_blue_or_for_another_message_is_refused() {
    let (mut a, mut b, mut net) = ends([None, None]);
    let other = a.initiate(&mut net);
    let reply = cookie_reply(&mut b, &other, HERE, &mut net);
    a.peer = PeerHandshake::new(b.identity.public_key(), None);
    assert_eq!(a.peer.read_cookie_reply(&reply, net.now).unwrap_err(), Reject::NoSession);
    let message = a.initiate(&mut net);
    assert_eq!(a.peer.read_cookie_reply(&reply, net.now).unwrap_err(), Reject::BadTag);
    let reply = cookie_reply(&mut b, &message, HERE, &mut net);
    a.peer.read_cookie_reply(&reply, net.now).unwrap();
    assert_eq!(a.peer.read_cookie_reply(&reply, net.now).unwrap_err(), Reject::NoSession, "once is enough");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_everywhere(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0u8..6,
        len in prop::sample::select(vec![0, 32, 64, 92, 148, 149]),
        raw: bool,
    ) {
        let (mut a, mut b, mut net) = ends([None, None]);
        let initiation = a.initiate(&mut net);
        if !raw {
            bytes.resize(len, 0xa5);
            bytes.iter_mut().zip([kind, 0, 0, 0, 101, 0, 0, 0, 101]).for_each(|(byte, value)| *byte = value);
            // Whoever knows the public key gets past mac1.
            if bytes.len() >= 92 {
                write_mac1(&mut bytes, a.identity.public_key());
            }
        }
        prop_assert!(a.respond(&bytes, &mut net).is_err());
        prop_assert!(a.read_response(&bytes).is_err());
        prop_assert!(a.peer.read_cookie_reply(&bytes, net.now).is_err());
        let (response, mut bs) = b.respond(&initiation, &mut net).unwrap();
        assert_same_keys(&mut a.read_response(&response).unwrap(), &mut bs);
    }

    #[test]
    fn a_changed_message_changes_nothing(
        at: prop::sample::Index,
        mask in 1u8..,
        mac1_too: bool,
        seed: u64,
    ) {
        let (mut a, mut b, mut net) = ends([psk(5), psk(5)]);
        net.rng = Seeded(seed);
        let change = |message: &[u8], receiver: PublicKey| {
            let mut changed = message.to_vec();
            changed[at.index(message.len() - 16)] ^= mask; // all but mac2, which is read under load alone
            if mac1_too {
                write_mac1(&mut changed, receiver);
            }
            changed
        };
        let initiation = a.initiate(&mut net);
        let changed = change(&initiation, b.identity.public_key());
        // The index of the sender is covered by mac1 alone, as the paper has it: whoever changes it gets a response that
        // leads to no session.
        let harmless = changed[..4] == initiation[..4] && changed[8..116] == initiation[8..116] && mac1_too;
        prop_assert_eq!(b.respond(&changed, &mut net).is_ok(), harmless);
        if harmless {
            net.pass(Duration::from_secs(5));
            shake(&mut a, &mut b, &mut net);
            return Ok(());
        }
        let (response, mut bs) = b.respond(&initiation, &mut net).unwrap();
        let changed = change(&response, a.identity.public_key());
        let harmless = changed[..4] == response[..4] && changed[8..60] == response[8..60] && mac1_too;
        let read = a.read_response(&changed);
        prop_assert_eq!(read.is_ok(), harmless);
        if !harmless {
            assert_same_keys(&mut a.read_response(&response).unwrap(), &mut bs);
        }
    }

    #[test]
    fn a_changed_cookie_reply_changes_nothing(at: prop::sample::Index, mask in 1u8.., seed: u64) {
        let (mut a, mut b, mut net) = ends([None, None]);
        net.rng = Seeded(seed);
        let initiation = a.initiate(&mut net);
        let reply = cookie_reply(&mut b, &initiation, HERE, &mut net);
        let mut changed = reply;
        let at = at.index(reply.len());
        changed[at] ^= mask;
        // The receiver index is the owner's to look the peer up by; nothing else of the reply is free.
        prop_assert_eq!(a.peer.read_cookie_reply(&changed, net.now).is_ok(), (4..8).contains(&at));
        if !(4..8).contains(&at) {
            a.peer.read_cookie_reply(&reply, net.now).unwrap();
        }
    }
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let run = || {
        let (mut a, mut b, mut net) = ends([psk(1), psk(1)]);
        net.rng = Seeded(77);
        let initiation = a.initiate(&mut net);
        let (response, _) = b.respond(&initiation, &mut net).unwrap();
        let reply = cookie_reply(&mut b, &initiation, HERE, &mut net);
        (initiation, response, reply, net.rng.next_u64())
    };
    assert_eq!(run(), run());
}

#[test]
fn debug_shows_no_secret() {
    let (mut a, mut b, mut net) = ends([psk(0x5a), psk(0x5a)]);
    let initiation = a.initiate(&mut net);
    let (_, keys) = b.respond(&initiation, &mut net).unwrap();
    let shown = format!("{:?} {:?} {:?} {:?}", a.identity, a.peer, keys, keys.keys().lease(1));
    for secret in ["90, 90", "5a5a", "01, 01", "0101"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
