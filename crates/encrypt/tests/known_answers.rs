//! Every byte of a handshake and of the first data messages, against answers that an independent program computed from the paper
//! (`vectors/generate.py`), in both roles.

mod support;

use encrypt::{
    INITIATION_LEN, RESPONSE_LEN,
    native::{Addressed, LocalIdentity, PeerHandshake},
    transport::KeyPair,
};
use support::{Scripted, Vector, start};

fn sealed(keys: &KeyPair, plaintext: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; 16], plaintext, &[0; 16]].concat();
    let len = datagram.len();
    keys.keys().lease(1).unwrap().seal_train(&mut datagram, len).unwrap();
    datagram
}

fn opened(keys: &mut KeyPair, datagram: &[u8]) -> Vec<u8> {
    let mut datagram = datagram.to_vec();
    let opened = keys.keys().open(&mut datagram).unwrap();
    let fresh = keys.commit(opened).unwrap();
    datagram[fresh.content()].to_vec()
}

#[test]
fn the_initiators_messages_are_the_known_ones() {
    for vector in Vector::all() {
        let identity = LocalIdentity::new(&vector.private("static_i"));
        assert_eq!(identity.public_key(), vector.public("public_i"));
        let mut peer = PeerHandshake::new(vector.public("public_r"), vector.psk().as_ref());
        let index = vector.number("sender_i") as u32;
        let mut rng = Scripted(vector.bytes("ephemeral_i").to_vec());
        let mut initiation = [0; INITIATION_LEN];
        peer.initiate(&identity, index, vector.wall(), start(), &mut rng, &mut initiation).unwrap();
        assert_eq!(initiation, vector.bytes("initiation"));

        let response = vector.bytes("response").to_vec();
        let Ok(Addressed::Response(response)) = identity.verify_mac1(&response) else { panic!("a response") };
        assert_eq!(response.receiver(), index);
        let mut keys = peer.read_response(&identity, &response).unwrap();
        assert_eq!(u64::from(keys.keys().remote_index()), vector.number("sender_r"));
        assert_eq!(sealed(&keys, &[]), vector.bytes("keepalive_from_i"));
        assert_eq!(sealed(&keys, vector.bytes("plaintext")), vector.bytes("data_from_i"));
        assert_eq!(opened(&mut keys, vector.bytes("data_from_r")), vector.bytes("plaintext"));
    }
}

#[test]
fn the_responders_messages_are_the_known_ones() {
    for vector in Vector::all() {
        let identity = LocalIdentity::new(&vector.private("static_r"));
        let mut peer = PeerHandshake::new(vector.public("public_i"), vector.psk().as_ref());
        let index = vector.number("sender_r") as u32;
        let mut rng = Scripted(vector.bytes("ephemeral_r").to_vec());
        let initiation = vector.bytes("initiation").to_vec();
        let Ok(Addressed::Initiation(initiation)) = identity.verify_mac1(&initiation) else {
            panic!("an initiation")
        };
        let mut response = [0; RESPONSE_LEN];
        let (known, handshakes) = (vector.public("public_i"), &mut peer);
        let find = move |claimed: &_| (*claimed == known).then_some(((), handshakes));
        let ((), mut keys) =
            identity.respond(&initiation, find, index, start(), &mut rng, &mut response).unwrap();
        assert_eq!(response, vector.bytes("response"));
        assert_eq!(u64::from(keys.keys().remote_index()), vector.number("sender_i"));
        assert_eq!(opened(&mut keys, vector.bytes("keepalive_from_i")), []);
        assert_eq!(opened(&mut keys, vector.bytes("data_from_i")), vector.bytes("plaintext"));
        assert_eq!(sealed(&keys, vector.bytes("plaintext")), vector.bytes("data_from_r"));
    }
}
