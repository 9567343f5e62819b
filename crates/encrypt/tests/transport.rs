//! Trains of data messages: sealed with leases, opened by whoever, delivered by the replay window alone.

use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};
use encrypt::{
    DATA_OVERHEAD, INITIATION_LEN, PeerIndex, REJECT_AFTER_MESSAGES, Reject,
    transport::{DATA_HEADER_LEN, Fresh, KeyPair, LeaseError, Leases, TrainError, TrainOpening, Unchecked},
};
use proptest::prelude::*;

const KEYS: [[u8; 32]; 2] = [[0x11; 32], [0x22; 32]];

/// Two ends of one session: 0xa... sends to 0xb....
fn ends() -> (KeyPair, KeyPair) {
    let [one, two] = &KEYS;
    (KeyPair::new(0xa000_0001, 0xb000_0002, one, two), KeyPair::new(0xb000_0002, 0xa000_0001, two, one))
}

/// A train of `len` bytes in all, with a plaintext that tells where it was.
fn train(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7) as u8 | 1).collect()
}

fn sealed(from: &KeyPair, len: usize, stride: usize) -> Vec<u8> {
    let mut train = train(len);
    from.keys().lease(len.div_ceil(stride)).unwrap().seal_train(&mut train, stride).unwrap();
    train
}

/// Opens a train and commits what opened; each datagram's plaintext or reason.
fn receive(to: &mut KeyPair, train: &mut [u8], stride: usize) -> Vec<Result<Vec<u8>, Reject>> {
    let mut opened = Vec::new();
    to.keys().open_train(train, stride, |place, result| opened.push((place, result)));
    opened
        .into_iter()
        .map(|(place, result)| {
            let fresh = to.commit(result?)?;
            Ok(train[place][fresh.content()].to_vec())
        })
        .collect()
}

/// The message that the paper's §5.4.6 describes, by another implementation of the cipher.
#[test]
fn a_sealed_train_is_the_papers_messages_one_behind_the_other() {
    let (a, _) = ends();
    let _skipped = a.keys().lease(0x0102).unwrap();
    let (stride, len) = (100, 240);
    let train_sealed = sealed(&a, len, stride);
    let cipher = ChaCha20Poly1305::new(&KEYS[0].into());
    for (datagram, (plain, counter)) in
        train_sealed.chunks(stride).zip(train(len).chunks(stride).zip(0x0102u64..))
    {
        let header = [4, 0, 0, 0, 0x02, 0, 0, 0xb0, counter as u8, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(datagram[..16], header);
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let mut content = plain[16..plain.len() - 16].to_vec();
        let tag = cipher.encrypt_in_place_detached(&nonce.into(), &[], &mut content).unwrap();
        assert_eq!(datagram[16..], [&content[..], &tag[..]].concat());
    }
}

#[test]
fn a_train_arrives_whole_and_only_once() {
    let (a, mut b) = ends();
    let (stride, len) = (1452, 44 * 1452 + 500);
    let on_the_wire = sealed(&a, len, stride);
    let plain: Vec<_> = train(len).chunks(stride).map(|d| Ok(d[16..d.len() - 16].to_vec())).collect();
    assert_eq!(receive(&mut b, &mut on_the_wire.clone(), stride), plain);
    assert_eq!(receive(&mut b, &mut on_the_wire.clone(), stride), vec![Err(Reject::Replay); 45]);
}

#[test]
fn a_duplicate_inside_one_train_opens_and_fails_at_commit() {
    let (a, mut b) = ends();
    let one = sealed(&a, 64, 64);
    let mut twice = [one.clone(), one].concat();
    let received = receive(&mut b, &mut twice, 64);
    assert!(received[0].is_ok());
    assert_eq!(received[1], Err(Reject::Replay));
}

#[test]
fn a_datagram_of_other_keys_inside_a_train_is_told_and_left_as_it_was() {
    let (a, mut b) = ends();
    let other = KeyPair::new(1, 2, &[1; 32], &[2; 32]);
    let mut mixed = [sealed(&a, 64, 64), sealed(&other, 64, 64), sealed(&a, 64, 64)].concat();
    let before = mixed.clone();
    let received = receive(&mut b, &mut mixed, 64);
    assert!(received[0].is_ok() && received[2].is_ok());
    assert_eq!(received[1], Err(Reject::NoSession));
    assert_eq!(mixed[64..128], before[64..128]);
}

#[test]
fn what_does_not_authenticate_is_zeros_afterwards_and_its_neighbours_are_whole() {
    let (a, mut b) = ends();
    let mut train = sealed(&a, 300, 100);
    train[100 + 50] ^= 1;
    let received = receive(&mut b, &mut train, 100);
    assert!(received[0].is_ok() && received[2].is_ok());
    assert_eq!(received[1], Err(Reject::BadTag));
    assert_eq!(train[116..200], [0; 84]);
}

#[test]
fn a_counter_past_the_limit_is_refused_before_it_is_opened() {
    let (a, b) = ends();
    for counter in [REJECT_AFTER_MESSAGES, REJECT_AFTER_MESSAGES + 1, u64::MAX] {
        let mut datagram = sealed(&a, 64, 64);
        datagram[8..16].copy_from_slice(&counter.to_le_bytes());
        let before = datagram.clone();
        assert_eq!(b.keys().open(&mut datagram).unwrap_err(), Reject::Replay);
        assert_eq!(datagram, before);
    }
}

#[test]
fn a_message_opened_with_the_keys_of_one_session_is_not_committed_to_another() {
    let (a, b) = ends();
    let (_, mut third) = (0, KeyPair::new(0xb000_0003, 0xa000_0001, &KEYS[1], &KEYS[0]));
    let opened = b.keys().open(&mut sealed(&a, 64, 64)).unwrap();
    assert_eq!(third.commit(opened).unwrap_err(), Reject::NoSession);
}

#[test]
fn a_train_that_does_not_fit_its_lease_is_left_as_it_was() {
    let (a, _) = ends();
    for (leased, len, stride) in [
        (2, 300, 100),
        (4, 300, 100),
        (1, 31, 31),
        (3, 231, 100),
        (3, 300, 0),
        (0, 32, 32),
        (1, 0, 32),
        (1, 0, 0),
    ] {
        let mut bytes = train(len);
        let lease = a.keys().lease(leased).unwrap();
        assert_eq!(lease.seal_train(&mut bytes, stride), Err(TrainError), "{leased} {len} {stride}");
        assert_eq!(bytes, train(len));
    }
    a.keys().lease(0).unwrap().seal_train(&mut [], 100).unwrap();
}

#[test]
fn keepalives_are_trains_too() {
    let (a, mut b) = ends();
    let mut datagram = sealed(&a, DATA_OVERHEAD, DATA_OVERHEAD);
    let opened = b.keys().open(&mut datagram).unwrap();
    let fresh = b.commit(opened).unwrap();
    assert!(fresh.is_keepalive());
    assert!(fresh.content().is_empty());
}

/// A third end, which sends to 0xd....
fn another() -> (KeyPair, KeyPair) {
    let [one, two] = &KEYS;
    (KeyPair::new(0xc000_0003, 0xd000_0004, two, one), KeyPair::new(0xd000_0004, 0xc000_0003, one, two))
}

#[test]
fn a_batch_is_sealed_as_a_whole_and_what_is_not_leased_for_is_left_alone() {
    let ((a, mut b), (c, mut d)) = (ends(), another());
    let (stride, len) = (100, 9 * 100 + 48);
    let mut batch = train(len);
    let mut leases = Leases::default();
    // Datagrams 3 and 7 are nobody's: handshakes, say. The last is shorter.
    let of = [Some(&a), Some(&a), Some(&c), None, Some(&a), Some(&a), Some(&a), None, Some(&c), Some(&c)];
    let mut counters = [0; 2];
    for (segment, keys) in of.iter().enumerate() {
        let Some(keys) = keys else { continue };
        let counter = &mut counters[usize::from(keys.keys().local_index() == c.keys().local_index())];
        assert_eq!(leases.push(keys.keys(), segment), Ok(*counter));
        *counter += 1;
    }
    assert_eq!(counters, [5, 3]);
    leases.seal(&mut batch, stride);
    assert!(leases.is_empty());

    let plain = |at: usize| train(len).chunks(stride).nth(at).unwrap().to_vec();
    for (at, datagram) in batch.chunks_mut(stride).enumerate() {
        let plain = plain(at);
        match of[at] {
            None => assert_eq!(datagram, plain, "{at}"),
            Some(keys) => {
                let to_b = keys.keys().remote_index() == b.keys().local_index();
                let received = receive(if to_b { &mut b } else { &mut d }, datagram, stride);
                assert_eq!(received, [Ok(plain[16..plain.len() - 16].to_vec())], "{at}");
            }
        }
    }
}

#[test]
fn a_batch_is_sealed_once_and_leases_that_are_given_up_seal_nothing() {
    let (a, _) = ends();
    let mut leases = Leases::default();
    leases.push(a.keys(), 0).unwrap();
    let mut batch = train(64);
    leases.seal(&mut batch, 64);
    let sealed = batch.clone();
    leases.seal(&mut batch, 64);
    assert_eq!(batch, sealed);

    assert_eq!(leases.push(a.keys(), 0), Ok(1));
    leases.clear();
    let mut batch = train(64);
    leases.seal(&mut batch, 64);
    assert_eq!(batch, train(64));
    assert_eq!(leases.push(a.keys(), 0), Ok(2), "a counter that was given up is not leased again");
}

#[test]
fn a_batch_whose_counters_have_gaps_uses_the_counters_that_were_leased() {
    let (a, mut b) = ends();
    let mut leases = Leases::default();
    let mut elsewhere = Leases::default();
    for segment in 0..4 {
        assert_eq!(leases.push(a.keys(), segment), Ok(2 * segment as u64));
        assert_eq!(elsewhere.push(a.keys(), segment), Ok(2 * segment as u64 + 1));
    }
    let (mut batch, mut other) = (train(4 * 64), train(4 * 64));
    elsewhere.seal(&mut other, 64);
    leases.seal(&mut batch, 64);
    let counters: Vec<u8> = batch.chunks(64).map(|datagram| datagram[8]).collect();
    assert_eq!(counters, [0, 2, 4, 6]);
    assert!(receive(&mut b, &mut other, 64).iter().all(Result::is_ok));
    assert!(receive(&mut b, &mut batch, 64).iter().all(Result::is_ok));
}

#[test]
fn what_was_leased_is_sealed_though_the_session_ended_while_it_waited() {
    let (a, mut b) = ends();
    let mut leases = Leases::default();
    leases.push(a.keys(), 0).unwrap();
    let keys = std::sync::Arc::clone(a.keys());
    drop(a);
    assert_eq!(leases.push(&keys, 1), Err(LeaseError::Revoked));
    drop(keys);
    let mut batch = train(128);
    leases.seal(&mut batch, 64);
    assert!(receive(&mut b, &mut batch[..64], 64)[0].is_ok());
    assert_eq!(batch[64..], train(128)[64..], "no lease, no sealing");
}

/// What became of each datagram of a train: `None` if it was not opened, otherwise its plaintext or why there is none.
type Received = Option<Result<Vec<u8>, Reject>>;

/// Opens a train for the sessions in `ends`, whose peers are numbered as they are here, and commits in order.
fn receive_mixed(
    ends: &mut [&mut KeyPair],
    opening: &mut TrainOpening,
    train: &mut [u8],
    stride: usize,
) -> Vec<Received> {
    opening.prepare(train, stride, |receiver| {
        let number = ends.iter().position(|end| end.keys().local_index() == receiver)?;
        Some((PeerIndex::new(number as u32).unwrap(), ends[number].keys().clone()))
    });
    opening.run(train);
    let mut received = Vec::new();
    while let Some(arrived) = opening.take_next() {
        let datagram = &train[arrived.place];
        received.push(arrived.opened.map(|(peer, opened)| {
            let fresh = ends[peer.get() as usize].commit(opened?)?;
            Ok(datagram[fresh.content()].to_vec())
        }));
    }
    assert!(opening.is_done());
    received
}

#[test]
fn a_train_of_two_sessions_with_a_handshake_and_garbage_between_is_opened_in_runs() {
    let ((a, mut b), (c, mut d)) = (ends(), another());
    let len = INITIATION_LEN;
    let [a1, a2, a3] = [0; 3].map(|_| sealed(&a, len, len));
    let [c1, c2] = [0; 2].map(|_| sealed(&c, len, len));
    let stranger = sealed(&KeyPair::new(1, 2, &[1; 32], &[2; 32]), len, len);
    let mut initiation = vec![7; len];
    initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
    let garbage = vec![0xa5; len];
    let mut forged = a3.clone();
    forged[60] ^= 1;
    let last = sealed(&a, 50, 50);
    let arrived = [a1.clone(), a2, c1, garbage, c2, forged, initiation, a1, stranger, a3, last];
    let mut train = arrived.concat();
    let mut opening = TrainOpening::default();
    let received = receive_mixed(&mut [&mut b, &mut d], &mut opening, &mut train, len);

    let plain = Some(Ok(crate::train(len)[16..len - 16].to_vec()));
    let (replay, bad_tag) = (Some(Err(Reject::Replay)), Some(Err(Reject::BadTag)));
    let short = Some(Ok(crate::train(50)[16..34].to_vec()));
    let expected = [&plain, &plain, &plain, &None, &plain, &bad_tag, &None, &replay, &None, &plain, &short]
        .map(Clone::clone);
    assert_eq!(received, expected);
    for (at, outcome) in received.iter().enumerate().filter(|(_, outcome)| outcome.is_none()) {
        assert_eq!(train[at * len..][..len], arrived[at], "{outcome:?}: it is as it came");
    }
}

#[test]
fn keys_are_asked_for_once_a_run() {
    let ((a, b), (c, _)) = (ends(), another());
    let train = [sealed(&a, 640, 64), sealed(&c, 128, 64), sealed(&a, 64, 64)].concat();
    let mut asked = Vec::new();
    TrainOpening::default().prepare(&train, 64, |receiver| {
        asked.push(receiver);
        (receiver == b.keys().local_index()).then(|| (PeerIndex::MAX, b.keys().clone()))
    });
    let [to_b, to_d] = [b.keys().local_index(), c.keys().remote_index()];
    assert_eq!(asked, [to_b, to_d, to_d, to_b], "of those that are nobody's each time");
}

#[test]
fn a_train_that_nobody_opened_is_as_it_came() {
    let (a, b) = ends();
    let mut train = sealed(&a, 640, 64);
    let before = train.clone();
    let mut opening = TrainOpening::default();
    opening.prepare(&train, 64, |_| Some((PeerIndex::MAX, b.keys().clone())));
    opening.clear();
    opening.run(&mut train);
    assert!(opening.is_done() && opening.take_next().is_none());
    opening.prepare(&train, 64, |_| Some((PeerIndex::MAX, b.keys().clone())));
    for at in 0..10 {
        let arrived = opening.take_next().unwrap();
        assert_eq!((arrived.place, arrived.opened.is_none()), (at * 64..at * 64 + 64, true));
    }
    assert_eq!(train, before);
}

/// Many threads seal with one session's keys; every message arrives, each counter once.
#[test]
fn any_thread_may_seal_and_any_may_open() {
    let (a, mut b) = ends();
    let sealing = |keys: &std::sync::Arc<encrypt::transport::TransportKeys>| {
        let mut trains = Vec::new();
        for _ in 0..50 {
            let mut train = train(5 * 64);
            keys.lease(5).unwrap().seal_train(&mut train, 64).unwrap();
            trains.push(train);
        }
        trains
    };
    let trains: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| sealing(a.keys()))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for mut train in trains {
        assert!(receive(&mut b, &mut train, 64).iter().all(Result::is_ok));
    }
    assert_eq!(a.keys().leased(), 1000);
}

#[test]
fn what_crosses_threads_may_and_what_may_not_be_copied_cannot() {
    fn crosses_threads<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    crosses_threads::<encrypt::transport::Lease>();
    crosses_threads::<Leases>();
    crosses_threads::<TrainOpening>();
    crosses_threads::<Unchecked>();
    crosses_threads::<Fresh>();
    crosses_threads::<KeyPair>();
    is_shared::<encrypt::transport::TransportKeys>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trains_of_any_shape_survive(content in 0usize..300, datagrams in 1usize..60, shorter in 0usize..300) {
        let (a, mut b) = ends();
        let stride = content + DATA_OVERHEAD;
        let len = stride * datagrams - shorter.min(content);
        let mut on_the_wire = sealed(&a, len, stride);
        let plain: Vec<_> = train(len).chunks(stride).map(|d| Ok(d[16..d.len() - 16].to_vec())).collect();
        prop_assert_eq!(receive(&mut b, &mut on_the_wire, stride), plain);
    }

    /// Whatever is leased in whatever order: the bytes are those of as many trains of one.
    #[test]
    fn a_batch_is_as_its_datagrams_sealed_one_by_one(of in prop::collection::vec(0usize..3, 1..50), last in 32usize..=80) {
        let ((a, _), (c, _)) = (ends(), another());
        let ((a_again, _), (c_again, _)) = (ends(), another());
        let len = (of.len() - 1) * 80 + last;
        let (mut batch, mut one_by_one) = (train(len), train(len));
        let mut leases = Leases::default();
        for (segment, (of, datagram)) in of.iter().zip(one_by_one.chunks_mut(80)).enumerate() {
            let Some((keys, again)) = [(&a, &a_again), (&c, &c_again)].get(*of).copied() else { continue };
            leases.push(keys.keys(), segment).unwrap();
            let len = datagram.len();
            again.keys().lease(1).unwrap().seal_train(datagram, len).unwrap();
        }
        leases.seal(&mut batch, 80);
        prop_assert_eq!(batch, one_by_one);
    }

    /// Whatever the bytes: each is in one place, in order, and an empty train is one datagram.
    #[test]
    fn the_places_of_a_train_are_all_of_it(bytes in prop::collection::vec(0u8..6, 0..2000), stride in 0usize..300) {
        let (_, b) = ends();
        let mut train = bytes;
        for datagram in train.chunks_mut(stride.max(1)).filter(|datagram| datagram.len() >= 8) {
            if datagram[7] == 0 {
                datagram[..8].copy_from_slice(&[4, 0, 0, 0, 0x02, 0, 0, 0xb0]);
            }
        }
        let mut opening = TrainOpening::default();
        opening.prepare(&train, stride, |receiver| {
            (receiver == b.keys().local_index()).then(|| (PeerIndex::MAX, b.keys().clone()))
        });
        opening.run(&mut train);
        let (mut end, mut count) = (0, 0);
        while let Some(arrived) = opening.take_next() {
            prop_assert_eq!(arrived.place.start, end);
            prop_assert!(arrived.opened.is_none_or(|(_, opened)| opened.is_err()));
            end = arrived.place.end;
            count += 1;
        }
        let stride = if stride == 0 { train.len().max(1) } else { stride };
        prop_assert_eq!((end, count), (train.len(), train.len().div_ceil(stride).max(1)));
    }

    #[test]
    fn hostile_trains_come_to_nothing(
        mut bytes in prop::collection::vec(any::<u8>(), 0..2000),
        stride in 0usize..300,
        raw: bool,
        counter: u64,
    ) {
        let (_, mut b) = ends();
        if !raw {
            let header = [4, 0, 0, 0, 0x02, 0, 0, 0xb0].into_iter().chain(counter.to_le_bytes());
            for datagram in bytes.chunks_mut(stride.max(1)) {
                datagram.iter_mut().zip(header.clone()).for_each(|(byte, value)| *byte = value);
            }
        }
        let received = receive(&mut b, &mut bytes, stride);
        prop_assert!(received.iter().all(Result::is_err));
        prop_assert!(received.len() <= 2000);
    }

    #[test]
    fn a_changed_bit_is_never_delivered(len in 32usize..200, at: prop::sample::Index, bit in 0u8..8) {
        let (a, mut b) = ends();
        let good = sealed(&a, len, len);
        let mut bad = good.clone();
        bad[at.index(len)] ^= 1 << bit;
        prop_assert!(receive(&mut b, &mut bad, len)[0].is_err());
        prop_assert!(!bad[DATA_HEADER_LEN..].windows(8).any(|window| train(len).windows(8).any(|plain| plain == window)));
        prop_assert!(receive(&mut b, &mut good.clone(), len)[0].is_ok(), "a forged message took nothing from the window");
    }
}
