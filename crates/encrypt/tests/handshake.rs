//! Handshakes, packets, and what is refused: every backend alike.

mod common;

use common::{Pair, Received, packet};
use encrypt::{Identity, PeerIndex, PresharedKey, Reject, SealError, Session};

macro_rules! all {
    ($module:ident, $identity:ty) => {
        for_backend!($module, $identity, [packets_flow_both_ways_after_a_handshake]);
    };
}

all!(deterministic, encrypt::deterministic::InsecureIdentity);
all!(boring, encrypt::boring::BoringIdentity);

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
