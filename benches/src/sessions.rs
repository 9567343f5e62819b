//! Two bare sessions, for measuring encryption without a tunnel around it.

use std::{net::SocketAddr, time::Instant};

use encrypt::{Identity, Opened, PeerIndex, PrivateKey, Session, SessionConfig};

use crate::peer;

/// Two sessions that have shaken hands.
///
/// # Panics
/// If they cannot.
pub fn connected_sessions<I: Identity>(now: Instant) -> (I::Session, I::Session) {
    let mut left_identity = I::new(&PrivateKey::from_bytes([1; 32]), now);
    let mut right_identity = I::new(&PrivateKey::from_bytes([2; 32]), now);
    let mut left = left_identity.session(config(&right_identity, 1), now);
    let mut right = right_identity.session(config(&left_identity, 2), now);
    let (left_address, right_address) = (peer(0).remote, peer(1).remote);

    let mut initiation = [0; encrypt::INITIATION_LEN];
    let len = left.initiate(&mut initiation, now).expect("nothing is under way yet");
    let response = answer(&mut right_identity, &mut right, &initiation[..len], left_address, now);
    let keepalive = answer(&mut left_identity, &mut left, &response, right_address, now);
    let opened = right.open(&keepalive, &mut [0; 2048], left_address, now);
    assert_eq!(opened, Ok(Opened::Keepalive { confirms: true }));
    (left, right)
}

fn config<I: Identity>(other: &I, index: u32) -> SessionConfig {
    SessionConfig {
        peer: other.public_key(),
        preshared_key: None,
        index: PeerIndex::new(index).expect("a small number"),
    }
}

fn answer<I: Identity>(
    identity: &mut I,
    session: &mut I::Session,
    message: &[u8],
    from: SocketAddr,
    now: Instant,
) -> Vec<u8> {
    identity.classify(message, from, now).expect("it is for us");
    let mut out = [0; 2048];
    match session.open(message, &mut out, from, now) {
        Ok(Opened::Reply { len, .. }) => out[..len].to_vec(),
        other => panic!("a handshake message must be answered: {other:?}"),
    }
}
