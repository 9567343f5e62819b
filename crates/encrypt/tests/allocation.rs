//! Sealing, opening and committing allocate nothing, and no handshake message makes us allocate before it is authentic.

mod support;

use allocation_counter::{CountingAllocator, on_this_thread};
use encrypt::{
    INITIATION_LEN, PeerIndex, PrivateKey, RESPONSE_LEN, Reject,
    native::{Addressed, LocalIdentity, PeerHandshake},
    transport::{KeyPair, Leases, TrainOpening},
};
use support::{Seeded, start, wall};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn allocations_in(work: impl FnOnce()) -> u64 {
    let before = on_this_thread();
    work();
    on_this_thread() - before
}

#[test]
fn a_train_is_sealed_opened_and_committed_without_an_allocation() {
    let a = KeyPair::new(1, 2, &[1; 32], &[2; 32]);
    let mut b = KeyPair::new(2, 1, &[2; 32], &[1; 32]);
    let mut train = vec![7; 45 * 1452];
    let keys = std::sync::Arc::clone(b.keys());
    let mut fresh = 0;
    let allocated = allocations_in(|| {
        a.keys().lease(45).unwrap().seal_train(&mut train, 1452).unwrap();
        keys.open_train(&mut train, 1452, |_, opened| fresh += u32::from(b.commit(opened.unwrap()).is_ok()));
    });
    assert_eq!((allocated, fresh), (0, 45));
}

#[test]
fn leases_that_have_sealed_once_allocate_nothing_more() {
    let pairs = [KeyPair::new(1, 2, &[1; 32], &[2; 32]), KeyPair::new(3, 4, &[1; 32], &[2; 32])];
    let mut leases = Leases::default();
    let mut batch = vec![7; 45 * 1452];
    let mut round = || {
        // Two sessions in turn: the most runs that there can be.
        for segment in 0..45 {
            leases.push(pairs[segment % 2].keys(), segment).unwrap();
        }
        leases.seal(&mut batch, 1452);
    };
    assert!(allocations_in(&mut round) > 0, "the first round grows");
    assert_eq!(allocations_in(round), 0);
}

#[test]
fn a_train_that_was_opened_once_makes_the_next_allocate_nothing() {
    let a = [KeyPair::new(1, 2, &[1; 32], &[2; 32]), KeyPair::new(3, 4, &[1; 32], &[2; 32])];
    let mut b = [KeyPair::new(2, 1, &[2; 32], &[1; 32]), KeyPair::new(4, 3, &[2; 32], &[1; 32])];
    let mut opening = TrainOpening::default();
    let mut train = vec![7; 45 * 1452];
    let mut fresh = 0;
    let mut round = |grows| {
        // Two sessions in turn: the most runs that there can be.
        for (at, datagram) in train.chunks_mut(1452).enumerate() {
            a[at % 2].keys().lease(1).unwrap().seal_train(datagram, 1452).unwrap();
        }
        let allocated = allocations_in(|| {
            opening.prepare(&train, 1452, |receiver| {
                let peer = receiver / 2 - 1;
                Some((PeerIndex::new(peer).unwrap(), std::sync::Arc::clone(b[peer as usize].keys())))
            });
            opening.run(&mut train);
            while let Some(arrived) = opening.take_next() {
                let (peer, opened) = arrived.opened.unwrap();
                fresh += u32::from(b[peer.get() as usize].commit(opened.unwrap()).is_ok());
            }
        });
        assert_eq!(allocated > 0, grows);
    };
    [true, false, false].into_iter().for_each(&mut round);
    assert_eq!(fresh, 3 * 45);
}

#[test]
fn what_strangers_and_forgers_send_allocates_nothing() {
    let [ours, theirs] = [1, 2].map(|seed| LocalIdentity::new(&PrivateKey::from_bytes([seed; 32])));
    let mut ours = ours;
    let (now, mut rng) = (start(), Seeded(1));
    let mut to_us = PeerHandshake::new(ours.public_key(), None);
    let mut to_them = PeerHandshake::new(theirs.public_key(), None);
    let mut initiation = [0; INITIATION_LEN];
    to_us.initiate(&theirs, 1, wall(1_700_000_000), now, &mut rng, &mut initiation).unwrap();
    let mut forged = initiation;
    forged[100] ^= 1; // the timestamp
    support::write_mac1(&mut forged, ours.public_key());

    let mut response = [0; RESPONSE_LEN];
    let mut reply = [0; 64];
    let allocated = allocations_in(|| {
        let Ok(Addressed::Initiation(message)) = ours.verify_mac1(&initiation) else { panic!() };
        let unknown = ours.respond::<()>(&message, |_| None, 2, now, &mut rng, &mut response);
        assert!(matches!(unknown, Err(Reject::UnknownPeer)));
        let Ok(Addressed::Initiation(message)) = ours.verify_mac1(&forged) else { panic!() };
        let peer = &mut to_them;
        let bad = ours.respond(&message, move |_| Some(((), peer)), 2, now, &mut rng, &mut response);
        assert!(matches!(bad, Err(Reject::BadHandshake)));
        let message = ours.verify_mac1(&initiation).unwrap();
        let from = ([192, 0, 2, 1], 1).into();
        assert!(!ours.proves_address(message, from, now, &mut rng));
        ours.write_cookie_reply(message, from, now, &mut rng, &mut reply);
        assert!(ours.verify_mac1(&[1; 148]).is_err());
        assert!(to_them.read_cookie_reply(&reply, now).is_err());
    });
    assert_eq!(allocated, 0);
}
