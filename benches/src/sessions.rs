//! Two bare sessions, for measuring encryption without a tunnel around it.

use std::time::Instant;

use encrypt::{
    Identity, MAX_CONTROL_LEN, Opened, PeerIndex, PrivateKey, Reject, SealError, Session, SessionConfig,
};

/// A session, and the identity that it belongs to.
pub struct Connected<I: Identity> {
    identity: I,
    /// The session.
    pub session: I::Session,
}

impl<I: Identity> Connected<I> {
    /// See [`Session::seal`].
    ///
    /// # Errors
    /// Its.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError> {
        self.session.seal(plaintext, out, now)
    }

    /// See [`Session::open`].
    ///
    /// # Errors
    /// Its.
    pub fn open(&mut self, datagram: &mut [u8], now: Instant) -> Result<Opened, Reject> {
        self.session.open(&mut self.identity, datagram, now)
    }
}

/// Two sessions that have shaken hands.
///
/// # Panics
/// If they cannot.
pub fn connected_sessions<I: Identity>(now: Instant) -> (Connected<I>, Connected<I>) {
    let [mut left, mut right] = [1, 2].map(|seed| I::new(&PrivateKey::from_bytes([seed; 32]), now));
    let mut to_right = left.session(config(&right, 1), now);
    let mut to_left = right.session(config(&left, 2), now);

    let mut initiation = [0; encrypt::INITIATION_LEN];
    to_right.initiate(&mut left, &mut initiation, now).expect("nothing is under way yet");
    let (_, claim) = right.claim(&initiation).expect("it is for us");
    let (mut response, mut confirmation) = ([0; MAX_CONTROL_LEN], [0; MAX_CONTROL_LEN]);
    let len = to_left.answer(&mut right, &initiation, claim, &mut response, now).expect("an answer");
    let len =
        to_right.read_response(&mut left, &response[..len], &mut confirmation, now).expect("a confirmation");
    let opened = to_left.open(&mut right, &mut confirmation[..len], now);
    assert_eq!(opened, Ok(Opened::Keepalive { confirms: true }));
    (Connected { identity: left, session: to_right }, Connected { identity: right, session: to_left })
}

fn config<I: Identity>(other: &I, index: u32) -> SessionConfig {
    SessionConfig {
        peer: other.public_key(),
        preshared_key: None,
        index: PeerIndex::new(index).expect("a small number"),
    }
}
