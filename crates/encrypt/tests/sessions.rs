//! Which of a peer's sessions seals, which still open, and what names them: the native backend keeps three pairs of keys as the
//! kernel does, and its receiver indices name nothing else while anything could still be addressed by them.

mod common;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use common::{Endpoint, Pair, Received, packet, private_key, secs};
use encrypt::{
    Identity, PeerIndex, Reject, Session, SessionConfig,
    native::{CryptoRng, Environment, NativeIdentity, RngCore, RngError},
};
use support::{Seeded, wall};

/// The receiver index in a data message.
fn receiver(datagram: &[u8]) -> [u8; 4] {
    datagram[4..8].try_into().unwrap()
}

/// The index in a handshake message that answers to it are to have.
fn sender(message: &[u8]) -> [u8; 4] {
    message[4..8].try_into().unwrap()
}

for_backend!(
    deterministic,
    encrypt::deterministic::InsecureIdentity,
    [a_responder_seals_with_the_session_it_has_until_the_next_is_confirmed]
);
for_backend!(
    boring,
    encrypt::boring::BoringIdentity,
    [a_responder_seals_with_the_session_it_has_until_the_next_is_confirmed]
);
for_backend!(
    native,
    encrypt::native::NativeIdentity,
    [
        a_responder_seals_with_the_session_it_has_until_the_next_is_confirmed,
        of_earlier_sessions_one_still_opens,
        an_unconfirmed_session_replaces_the_previous_and_the_next_at_once,
    ]
);

fn a_responder_seals_with_the_session_it_has_until_the_next_is_confirmed<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let before = receiver(&pair.b.seal(&packet(64), pair.now).unwrap());
    pair.advance(secs(6));
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    for _ in 0..3 {
        assert_eq!(receiver(&pair.b.seal(&packet(64), pair.now).unwrap()), before);
        pair.exchange();
    }
    let confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
    assert_eq!(receiver(&pair.b.seal(&packet(64), pair.now).unwrap()), before, "under way is not confirmed");
    pair.b.receive(&confirmation, pair.a.address, pair.now);
    assert_eq!(receiver(&pair.b.seal(&packet(64), pair.now).unwrap()), sender(&initiation));
    pair.exchange();
}

fn of_earlier_sessions_one_still_opens<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let late: Vec<_> = (0..3)
        .map(|_| {
            pair.advance(secs(6));
            pair.handshake();
            [pair.a.seal(&packet(64), pair.now).unwrap(), pair.b.seal(&packet(64), pair.now).unwrap()]
        })
        .collect();
    for (sessions_ago, [from_a, from_b]) in late.iter().rev().enumerate() {
        let expected = match sessions_ago {
            0 | 1 => Received::Packet(packet(64)),
            _ => Received::Rejected(Reject::NoSession),
        };
        assert_eq!(pair.b.receive(from_a, pair.a.address, pair.now), expected, "{sessions_ago} ago");
        assert_eq!(pair.a.receive(from_b, pair.b.address, pair.now), expected, "{sessions_ago} ago");
    }
}

/// As `add_new_keypair` in drivers/net/wireguard/noise.c.
fn an_unconfirmed_session_replaces_the_previous_and_the_next_at_once<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let [previous, other] = [0; 2].map(|_| pair.a.seal(&packet(64), pair.now).unwrap());
    pair.advance(secs(6));
    pair.handshake();
    let current = pair.a.seal(&packet(64), pair.now).unwrap();
    assert_eq!(pair.b.receive(&other, pair.a.address, pair.now), Received::Packet(packet(64)));

    // Two responses of b's, of which a takes the first: b has replaced that session by the second.
    let [first, second] = [0; 2].map(|_| {
        pair.advance(secs(6));
        let initiation = pair.a.initiate(pair.now).unwrap();
        pair.b.receive(&initiation, pair.a.address, pair.now).reply()
    });
    let outcome = pair.b.receive(&previous, pair.a.address, pair.now);
    assert_eq!(
        outcome,
        Received::Rejected(Reject::NoSession),
        "it made room for the one that is unconfirmed"
    );
    assert_eq!(pair.b.receive(&current, pair.a.address, pair.now), Received::Packet(packet(64)));
    let lost = pair.a.receive(&first, pair.b.address, pair.now).reply();
    let outcome = pair.b.receive(&lost, pair.a.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::NoSession), "replaced before it was confirmed");
    let confirmation = pair.a.receive(&second, pair.b.address, pair.now).reply();
    assert_eq!(pair.b.receive(&confirmation, pair.a.address, pair.now), Received::Keepalive);
    pair.exchange();
}

/// Numbers below a bound that a test moves; keys are random all the same.
struct Narrow {
    bound: Arc<AtomicU32>,
    rng: Seeded,
}

impl RngCore for Narrow {
    fn next_u32(&mut self) -> u32 {
        self.rng.next_u32() % self.bound.load(Relaxed)
    }
    fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Narrow {}

/// Pairs whose `b`s are sessions of one identity, and what bounds that one's random numbers.
fn pairs_with_one_hub(count: u8) -> (Vec<Pair<NativeIdentity>>, NativeIdentity, Arc<AtomicU32>) {
    let bound = Arc::new(AtomicU32::new(u32::MAX));
    let rng = Box::new(Narrow { bound: Arc::clone(&bound), rng: Seeded(7) });
    let now = common::start();
    let environment = Environment {
        rng,
        wall: Box::new(move |at| wall(1_700_000_000) + at.saturating_duration_since(now)),
    };
    let mut hub = NativeIdentity::with(&private_key(2), environment);
    let pairs = (0..count).map(|number| {
        let mut pair = Pair::<NativeIdentity>::new();
        pair.now = now;
        let private = private_key(10 + number);
        let mut identity = NativeIdentity::new(&private, now);
        let config =
            |peer| SessionConfig { peer, preshared_key: None, index: PeerIndex::new(number.into()).unwrap() };
        let session = identity.session(config(hub.public_key()), now);
        pair.a = Endpoint { identity, session, address: pair.a.address, under_load: false };
        pair.b.session = hub.session(config(private.public_key()), now);
        pair
    });
    (pairs.collect(), hub, bound)
}

/// Thirteen numbers for three peers, which name up to twelve things at a time: each number comes again and again.
#[test]
fn an_index_in_use_is_given_to_nothing_else_though_the_random_numbers_repeat() {
    let (mut pairs, mut hub, bound) = pairs_with_one_hub(3);
    bound.store(13, Relaxed);
    let mut rng = Seeded(1);
    let mut handshakes = 0;
    for _ in 0..400 {
        let number = rng.below(pairs.len());
        let now = pairs[number].now + secs(6);
        pairs.iter_mut().for_each(|pair| pair.now = now);
        let pair = &mut pairs[number];
        std::mem::swap(&mut pair.b.identity, &mut hub);
        let late = pair.a.seal(&packet(64), now).ok();
        // Handshakes from either side, and initiations of the hub's that are lost.
        let kind = rng.below(3);
        let initiation = if kind == 0 { pair.a.initiate(now) } else { pair.b.initiate(now) };
        let done = match (kind, initiation) {
            (0, Some(initiation)) => match pair.b.receive(&initiation, pair.a.address, now) {
                Received::Rejected(reject) => {
                    assert_eq!(reject, Reject::UnderLoad);
                    false
                }
                answer => {
                    let confirmation = pair.a.receive(&answer.reply(), pair.b.address, now).reply();
                    pair.b.receive(&confirmation, pair.a.address, now) == Received::Keepalive
                }
            },
            (1, Some(initiation)) => {
                let response = pair.a.receive(&initiation, pair.b.address, now).reply();
                let confirmation = pair.b.receive(&response, pair.a.address, now).reply();
                pair.a.receive(&confirmation, pair.b.address, now) == Received::Keepalive
            }
            _ => false,
        };
        handshakes += u32::from(done);
        // What was under way finds its session.
        if let Some(late) = late {
            let received = pair.b.receive(&late, pair.a.address, now);
            assert!(matches!(received, Received::Packet(_)), "{received:?}");
        }
        std::mem::swap(&mut pair.b.identity, &mut hub);
        // And so does what all others send.
        for pair in &mut pairs {
            let Ok(sealed) = pair.a.seal(&packet(32), now) else { continue };
            std::mem::swap(&mut pair.b.identity, &mut hub);
            assert_eq!(pair.b.receive(&sealed, pair.a.address, now), Received::Packet(packet(32)));
            std::mem::swap(&mut pair.b.identity, &mut hub);
        }
    }
    assert!(handshakes > 100, "{handshakes}");
}

#[test]
fn without_a_free_index_there_is_no_handshake_and_the_session_goes_on() {
    let (mut pairs, hub, bound) = pairs_with_one_hub(1);
    let mut pair = pairs.remove(0);
    pair.b.identity = hub;
    bound.store(1, Relaxed);
    pair.handshake();
    pair.advance(secs(6));
    let initiation = pair.a.initiate(pair.now).unwrap();
    let outcome = pair.b.receive(&initiation, pair.a.address, pair.now);
    assert_eq!(outcome, Received::Rejected(Reject::UnderLoad), "its only number is taken");
    assert_eq!(pair.b.initiate(pair.now), None);
    assert!(pair.b.session.poll_timeout() > Some(pair.now), "tried again, but not in a loop");
    pair.exchange();
    bound.store(u32::MAX, Relaxed);
    pair.advance(Duration::from_millis(5_500));
    let (sent, _) = pair.b.run_timers(pair.now);
    let response = pair.a.receive(&sent[0], pair.b.address, pair.now).reply();
    let confirmation = pair.b.receive(&response, pair.a.address, pair.now).reply();
    assert_eq!(pair.a.receive(&confirmation, pair.b.address, pair.now), Received::Keepalive);
    pair.exchange();
}
