//! `EncryptedPacket`: sealed datagrams as values.

mod common;

use common::{Pair, Received, packet};
use encrypt::{DATA_OVERHEAD, EncryptedPacket, Identity, SealError, padded_len};

macro_rules! all {
    ($module:ident, $identity:ty) => {
        for_backend!(
            $module,
            $identity,
            [
                many_exist_at_once_and_open_in_any_order,
                packets_are_padded_up_to_the_mtu,
                a_packet_that_does_not_fit_is_refused,
                without_a_session_there_is_none,
            ]
        );
    };
}

all!(deterministic, encrypt::deterministic::InsecureIdentity);
all!(boring, encrypt::boring::BoringIdentity);

fn many_exist_at_once_and_open_in_any_order<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let lengths = [20u16, 33, 1420, 1500, 64];
    let mut sealed: Vec<_> = lengths
        .iter()
        .map(|len| EncryptedPacket::seal(&mut pair.a.session, &packet(*len), pair.now).unwrap())
        .collect();
    sealed.rotate_left(2);
    for (sealed, len) in sealed.iter().zip([1420, 1500, 64, 20, 33]) {
        let outcome = pair.b.receive(sealed.as_ref(), pair.a.address, pair.now);
        assert_eq!(outcome, Received::Packet(packet(len)));
    }
}

fn packets_are_padded_up_to_the_mtu<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    for len in [20, 32, 1300, 1409, 1420, 1499, 1500] {
        let sealed = EncryptedPacket::seal(&mut pair.a.session, &packet(len), pair.now).unwrap();
        let expected = padded_len(usize::from(len), EncryptedPacket::DEFAULT_MTU);
        assert_eq!(sealed.as_ref().len(), expected + DATA_OVERHEAD);
        let sealed = EncryptedPacket::seal_with_mtu(&mut pair.a.session, &packet(len), 1499, pair.now);
        let sealed = sealed.unwrap();
        assert_eq!(sealed.as_ref().len(), padded_len(usize::from(len), 1499) + DATA_OVERHEAD);
        let outcome = pair.b.receive(sealed.as_ref(), pair.a.address, pair.now);
        assert_eq!(outcome, Received::Packet(packet(len)));
    }
    let keepalive = EncryptedPacket::seal(&mut pair.a.session, &[], pair.now).unwrap();
    assert_eq!(keepalive.as_ref().len(), DATA_OVERHEAD);
}

fn a_packet_that_does_not_fit_is_refused<I: Identity>() {
    let mut pair = Pair::<I>::new();
    pair.handshake();
    let outcome = EncryptedPacket::seal(&mut pair.a.session, &packet(1501), pair.now);
    assert_eq!(outcome.unwrap_err(), SealError::TooLong);
    let huge = EncryptedPacket::seal_with_mtu(&mut pair.a.session, &packet(1500), usize::MAX, pair.now);
    assert_eq!(huge.unwrap().as_ref().len(), EncryptedPacket::CAPACITY);
}

fn without_a_session_there_is_none<I: Identity>() {
    let mut pair = Pair::<I>::new();
    let outcome = EncryptedPacket::seal(&mut pair.a.session, &packet(64), pair.now);
    assert_eq!(outcome.unwrap_err(), SealError::NoSession);
}
