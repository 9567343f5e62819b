//! Messages opened in advance, with keys that a session lends: they count from the moment in which they are committed.

mod common;

use std::sync::Arc;

use common::{Pair, Received, packet, secs};
use encrypt::{
    DATA_HEADER_LEN, Identity, Opened, REJECT_AFTER_TIME, Reject, SealError, Session, boring::BoringIdentity,
    deterministic::InsecureIdentity, native::NativeIdentity, transport::Unchecked,
};

type Native = Pair<NativeIdentity>;

/// Opens a datagram as any thread may; b learns nothing of it.
fn open(pair: &Native, datagram: &mut [u8]) -> Result<Unchecked, Reject> {
    let receiver = u32::from_le_bytes(datagram[4..8].try_into().unwrap());
    let keys = pair.b.session.opener(receiver, pair.now).map(Arc::clone);
    keys.ok_or(Reject::NoSession)?.open(datagram)
}

fn commit(pair: &mut Native, datagram: &[u8], opened: Unchecked) -> Result<Opened, Reject> {
    pair.b.session.commit(&mut pair.b.identity, datagram, opened, pair.now)
}

#[test]
fn the_first_message_confirms_the_keys_when_it_is_committed_and_not_when_it_is_opened() {
    let mut pair = Native::new();
    let initiation = pair.a.initiate(pair.now).unwrap();
    let response = pair.b.receive(&initiation, pair.a.address, pair.now).reply();
    let mut confirmation = pair.a.receive(&response, pair.b.address, pair.now).reply();
    let mut sealed = pair.a.seal(&packet(64), pair.now).unwrap();

    let opened = [&mut confirmation, &mut sealed].map(|datagram| open(&pair, datagram).unwrap());
    assert!(!pair.b.session.is_live());
    assert_eq!(pair.b.seal(&packet(64), pair.now), Err(SealError::NoSession));
    let [first, second] = opened;
    assert_eq!(commit(&mut pair, &confirmation, first), Ok(Opened::Keepalive { confirms: true }));
    assert!(pair.b.session.is_live());
    assert_eq!(commit(&mut pair, &sealed, second), Ok(Opened::Packet { len: 64, confirms: false }));
    assert_eq!(sealed[DATA_HEADER_LEN..][..64], packet(64));
    pair.exchange();
}

#[test]
fn a_duplicate_is_opened_twice_and_committed_once() {
    let mut pair = Native::new();
    pair.handshake();
    let sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    let mut copies = [sealed.clone(), sealed];
    let [first, second] = copies.each_mut().map(|copy| open(&pair, copy).unwrap());
    assert_eq!(commit(&mut pair, &copies[1], second), Ok(Opened::Packet { len: 64, confirms: false }));
    assert_eq!(commit(&mut pair, &copies[0], first), Err(Reject::Replay));
}

#[test]
fn a_session_that_is_replaced_before_the_commit_still_takes_its_messages_and_one_that_ended_does_not() {
    let mut pair = Native::new();
    pair.handshake();
    let mut sealed = [0; 3].map(|_| pair.a.seal(&packet(64), pair.now).unwrap());
    let [first, second, third] = sealed.each_mut().map(|datagram| open(&pair, datagram).unwrap());
    pair.advance(secs(6));
    pair.handshake();
    assert_eq!(commit(&mut pair, &sealed[0], first), Ok(Opened::Packet { len: 64, confirms: false }));
    pair.advance(secs(6));
    pair.handshake();
    assert_eq!(commit(&mut pair, &sealed[1], second), Err(Reject::NoSession), "two sessions ago");
    pair.b.end(pair.now);
    assert_eq!(commit(&mut pair, &sealed[2], third), Err(Reject::NoSession));
}

#[test]
fn what_is_too_old_is_neither_lent_nor_committed() {
    let mut pair = Native::new();
    pair.handshake();
    let mut sealed = pair.a.seal(&packet(64), pair.now).unwrap();
    let late = sealed.clone();
    let opened = open(&pair, &mut sealed).unwrap();
    pair.advance(REJECT_AFTER_TIME);
    assert_eq!(commit(&mut pair, &sealed, opened), Err(Reject::NoSession));
    assert_eq!(open(&pair, &mut late.clone()).unwrap_err(), Reject::NoSession);
}

/// Both ways give the same, whatever is inside.
#[test]
fn what_is_opened_in_advance_comes_to_what_is_opened_in_its_turn() {
    let mut longer_than_it_is = packet(64);
    longer_than_it_is[3] += 1;
    for content in [packet(64), packet(1420), vec![], longer_than_it_is, vec![0; 64]] {
        let mut pair = Native::new();
        pair.handshake();
        let mut sealed = pair.a.seal(&content, pair.now).unwrap();
        let mut again = Native::new();
        again.handshake();
        let in_turn = {
            let sealed = again.a.seal(&content, again.now).unwrap();
            again.b.receive(&sealed, again.a.address, again.now)
        };
        let opened = open(&pair, &mut sealed).unwrap();
        let in_advance = match commit(&mut pair, &sealed, opened) {
            Ok(Opened::Packet { len, .. }) => Received::Packet(sealed[DATA_HEADER_LEN..][..len].to_vec()),
            Ok(_) => Received::Keepalive,
            Err(reject) => Received::Rejected(reject),
        };
        assert_eq!(in_advance, in_turn);
        assert_eq!(pair.b.session.poll_timeout().is_some(), again.b.session.poll_timeout().is_some());
    }
}

#[test]
fn backends_that_keep_their_keys_to_themselves_lend_none() {
    fn lends<I: Identity>() -> bool {
        let mut pair = Pair::<I>::new();
        pair.handshake();
        let sealed = pair.a.seal(&packet(64), pair.now).unwrap();
        let receiver = u32::from_le_bytes(sealed[4..8].try_into().unwrap());
        pair.b.session.opener(receiver, pair.now).is_some()
    }
    assert_eq!(
        [lends::<NativeIdentity>(), lends::<BoringIdentity>(), lends::<InsecureIdentity>()],
        [true, false, false]
    );
}
