//! Bytes from the network are hostile: nothing panics, and nothing but what the peer sealed comes out.

mod common;

use common::{Pair, Received, packet, secs};
use encrypt::{
    Identity, Session, boring::BoringIdentity, deterministic::InsecureIdentity, native::NativeIdentity,
};
use proptest::prelude::*;

/// What is done to a valid datagram.
#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: prop::sample::Index, mask: u8 },
    Overwrite { at: prop::sample::Index, bytes: Vec<u8> },
    Truncate(prop::sample::Index),
    Extend(Vec<u8>),
    Counter(u64),
    Receiver(u32),
}

impl Mutation {
    fn apply(&self, datagram: &mut Vec<u8>) {
        match self {
            Self::Flip { at, mask } => {
                if !datagram.is_empty() {
                    let at = at.index(datagram.len());
                    datagram[at] ^= mask;
                }
            }
            Self::Overwrite { at, bytes } => {
                let at = at.index(datagram.len() + 1);
                let end = datagram.len().min(at + bytes.len());
                datagram[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Self::Truncate(at) => datagram.truncate(at.index(datagram.len() + 1)),
            Self::Extend(bytes) => datagram.extend(bytes),
            Self::Counter(counter) => {
                if let Some(field) = datagram.get_mut(8..16) {
                    field.copy_from_slice(&counter.to_le_bytes());
                }
            }
            Self::Receiver(receiver) => {
                if let Some(field) = datagram.get_mut(4..8) {
                    field.copy_from_slice(&receiver.to_le_bytes());
                }
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let any_counter = prop_oneof![any::<u64>(), (0u64..2000).prop_map(|low| u64::MAX - low), 0u64..2000];
    prop_oneof![
        (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, mask)| Mutation::Flip { at, mask }),
        (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Mutation::Overwrite { at, bytes }),
        any::<prop::sample::Index>().prop_map(Mutation::Truncate),
        prop::collection::vec(any::<u8>(), 1..100).prop_map(Mutation::Extend),
        any_counter.prop_map(Mutation::Counter),
        // Every slot of the peer under attack, and strangers.
        prop_oneof![(0u32..256).prop_map(|slot| 7 << 8 | slot), any::<u32>()].prop_map(Mutation::Receiver),
    ]
}

/// Feeds a datagram to b in every way a caller may: classified first, or straight to the session.
fn feed<I: Identity>(pair: &mut Pair<I>, datagram: &[u8]) -> [Received; 2] {
    let now = pair.now;
    let classified = pair.b.receive(datagram, pair.a.address, now);
    let opened = pair.b.open(datagram, now);
    [classified, opened]
}

/// b in the state where the most can go wrong: several sessions, one of them unconfirmed, and a
/// handshake of its own.
fn busy_pair<I: Identity>() -> Pair<I> {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    pair.exchange();
    pair.advance(secs(6));
    pair.b.initiate(pair.now).unwrap();
    pair.advance(secs(6));
    pair.handshake();
    pair.advance(secs(6));
    pair.b.initiate(pair.now).unwrap();
    let unconfirmed = pair.a.initiate(pair.now).unwrap();
    pair.b.receive(&unconfirmed, pair.a.address, pair.now).reply();
    pair
}

fn arbitrary_bytes_come_to_nothing<I: Identity>(kind: u8, slot: u8, mut bytes: Vec<u8>, raw: bool) {
    let mut pair = busy_pair::<I>();
    if !raw && bytes.len() >= 8 {
        bytes[..8].copy_from_slice(&[kind, 0, 0, 0, slot, 7, 0, 0]);
    }
    for outcome in feed(&mut pair, &bytes) {
        assert!(matches!(outcome, Received::Rejected(_)), "{outcome:?}");
    }
    pair.exchange();
}

fn changed_messages_come_to_nothing<I: Identity>(which: usize, len: u16, mutations: &[Mutation]) {
    let mut pair = busy_pair::<I>();
    pair.advance(secs(6));
    let original = match which {
        0 => pair.a.initiate(pair.now).unwrap(),
        1 => {
            let initiation = pair.b.initiate(pair.now).unwrap();
            pair.a.receive(&initiation, pair.b.address, pair.now).reply()
        }
        _ => pair.a.seal(&packet(len), pair.now).unwrap(),
    };
    let mut changed = original.clone();
    mutations.iter().for_each(|mutation| mutation.apply(&mut changed));
    // mac2, the last 16 bytes of a handshake message, is not read while there is no load.
    let covered = if which < 2 { original.len() - 16 } else { original.len() };
    let same = changed.len() == original.len() && changed[..covered] == original[..covered];
    for outcome in feed(&mut pair, &changed) {
        assert!(same || matches!(outcome, Received::Rejected(_)), "{outcome:?}");
    }
    pair.b_to_a(); // if the handshake completed after all, this confirms it
    pair.exchange();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_datagrams_never_panic(
        kind in 0u8..6,
        slot: u8,
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        raw: bool,
    ) {
        arbitrary_bytes_come_to_nothing::<InsecureIdentity>(kind, slot, bytes.clone(), raw);
        arbitrary_bytes_come_to_nothing::<BoringIdentity>(kind, slot, bytes.clone(), raw);
        arbitrary_bytes_come_to_nothing::<NativeIdentity>(kind, slot, bytes, raw);
    }

    #[test]
    fn changed_messages_never_panic(
        which in 0usize..4,
        len in 20u16..1500,
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        changed_messages_come_to_nothing::<InsecureIdentity>(which, len, &mutations);
        changed_messages_come_to_nothing::<BoringIdentity>(which, len, &mutations);
        changed_messages_come_to_nothing::<NativeIdentity>(which, len, &mutations);
    }

    /// Whatever was sealed, only an IP packet of the length it claims comes out.
    #[test]
    fn authenticated_nonsense_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), version: u8) {
        fn check<I: Identity>(content: &[u8]) {
            let mut pair = Pair::<I>::new();
            pair.handshake();
            let sealed = pair.a.seal(content, pair.now).unwrap();
            match pair.b.receive(&sealed, pair.a.address, pair.now) {
                Received::Packet(packet) => assert!(packet.len() >= 20 && content.starts_with(&packet)),
                Received::Keepalive => assert!(content.is_empty()),
                other => assert_eq!(other, Received::Rejected(encrypt::Reject::NotIp)),
            }
            pair.exchange();
        }
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = [0x45, 0x60, 0x4f, *first][usize::from(version % 4)];
        }
        check::<InsecureIdentity>(&bytes);
        check::<BoringIdentity>(&bytes);
        check::<NativeIdentity>(&bytes);
    }
}

#[test]
fn every_length_of_every_type_is_survived() {
    fn check<I: Identity>() {
        let mut pair = busy_pair::<I>();
        for len in 0..2000 {
            for kind in 0..6 {
                let mut datagram = vec![0xa5; len];
                let header = [kind, 0, 0, 0, len as u8, 7, 0, 0];
                datagram.iter_mut().zip(header).for_each(|(byte, value)| *byte = value);
                for outcome in feed(&mut pair, &datagram) {
                    assert!(matches!(outcome, Received::Rejected(_)), "{kind} {len}: {outcome:?}");
                }
            }
        }
        pair.exchange();
        assert!(pair.b.session.is_live());
    }
    check::<InsecureIdentity>();
    check::<BoringIdentity>();
    check::<NativeIdentity>();
}
