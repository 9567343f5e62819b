//! The deterministic backend, observed and steered from outside: per test thread, since a backend is built
//! by the tunnel itself.

use std::{cell::Cell, net::SocketAddr, sync::Arc, time::Instant};

use encrypt::{
    COOKIE_REPLY_LEN, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened, PeerIndex, PresharedKey, PrivateKey,
    PublicKey, Reject, SealError, Session, SessionConfig, Stamps, TimerAction,
    deterministic::{InsecureClaim, InsecureIdentity, InsecureSession},
    transport::{Leases, TransportKeys, Unchecked},
};

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static SESSIONS: Cell<u64> = const { Cell::new(0) };
    static MESSAGES_SENT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Calls to any session so far.
pub(crate) fn calls() -> u64 {
    CALLS.get()
}

/// Sessions made so far.
pub(crate) fn sessions() -> u64 {
    SESSIONS.get()
}

/// The next session that seals believes it has sent this many messages.
pub(crate) fn set_messages_sent(messages: u64) {
    MESSAGES_SENT.set(Some(messages));
}

pub(crate) struct ProbeIdentity(InsecureIdentity);

pub(crate) struct ProbeSession(InsecureSession);

/// Hands the methods of a wrapped identity on to it.
macro_rules! as_the_identity_within {
    ($claim:ty) => {
        type Claim = $claim;

        fn public_key(&self) -> PublicKey {
            self.0.public_key()
        }

        fn peer_of(&self, receiver: u32) -> Option<PeerIndex> {
            self.0.peer_of(receiver)
        }

        fn verify_mac1(&self, datagram: &[u8]) -> Result<(), Reject> {
            self.0.verify_mac1(datagram)
        }

        fn check_cookie(
            &mut self,
            datagram: &[u8],
            from: SocketAddr,
            now: Instant,
        ) -> Result<Option<[u8; COOKIE_REPLY_LEN]>, Reject> {
            self.0.check_cookie(datagram, from, now)
        }

        fn claim(&self, datagram: &[u8]) -> Result<(PublicKey, $claim), Reject> {
            self.0.claim(datagram)
        }
    };
}

/// Hands the methods of a wrapped session on to it.
macro_rules! as_the_session_within {
    ($identity:ty, $claim:ty) => {
        type Identity = $identity;

        fn is_live(&self) -> bool {
            self.called().is_live()
        }

        fn is_initiating(&self) -> bool {
            self.called().is_initiating()
        }

        fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError> {
            self.before_sealing();
            self.called_mut().seal(plaintext, out, now)
        }

        fn seal_later(
            &mut self,
            plaintext: &[u8],
            out: &mut [u8],
            segment: usize,
            leases: &mut Leases,
            now: Instant,
        ) -> Result<(), SealError> {
            self.before_sealing();
            self.called_mut().seal_later(plaintext, out, segment, leases, now)
        }

        fn initiate(
            &mut self,
            identity: &mut $identity,
            out: &mut [u8; INITIATION_LEN],
            now: Instant,
        ) -> Option<usize> {
            self.called_mut().initiate(&mut identity.0, out, now)
        }

        fn answer(
            &mut self,
            identity: &mut $identity,
            datagram: &[u8],
            claim: $claim,
            out: &mut [u8; MAX_CONTROL_LEN],
            now: Instant,
        ) -> Result<usize, Reject> {
            self.called_mut().answer(&mut identity.0, datagram, claim, out, now)
        }

        fn read_response(
            &mut self,
            identity: &mut $identity,
            datagram: &[u8],
            out: &mut [u8; MAX_CONTROL_LEN],
            now: Instant,
        ) -> Result<usize, Reject> {
            self.called_mut().read_response(&mut identity.0, datagram, out, now)
        }

        fn read_cookie_reply(&mut self, datagram: &[u8], now: Instant) -> Result<(), Reject> {
            self.called_mut().read_cookie_reply(datagram, now)
        }

        fn open(
            &mut self,
            identity: &mut $identity,
            datagram: &mut [u8],
            now: Instant,
        ) -> Result<Opened, Reject> {
            self.called_mut().open(&mut identity.0, datagram, now)
        }

        fn stamps(&self) -> Stamps {
            self.called().stamps()
        }

        fn remember(&mut self, stamps: Stamps) {
            self.called_mut().remember(stamps);
        }

        fn keep_trying(&mut self, now: Instant) {
            self.called_mut().keep_trying(now);
        }

        fn opener(&self, receiver: u32, now: Instant) -> Option<&Arc<TransportKeys>> {
            self.called().opener(receiver, now)
        }

        fn commit(
            &mut self,
            identity: &mut $identity,
            datagram: &[u8],
            opened: Unchecked,
            now: Instant,
        ) -> Result<Opened, Reject> {
            self.called_mut().commit(&mut identity.0, datagram, opened, now)
        }

        fn wants_rekey(&self) -> bool {
            self.called().wants_rekey()
        }

        fn set_preshared_key(&mut self, identity: &mut $identity, key: Option<PresharedKey>, now: Instant) {
            self.called_mut().set_preshared_key(&mut identity.0, key, now);
        }

        fn end(&mut self, identity: &mut $identity, now: Instant) {
            self.called_mut().end(&mut identity.0, now);
        }

        fn handle_timeout(
            &mut self,
            identity: &mut $identity,
            out: &mut [u8; MAX_CONTROL_LEN],
            now: Instant,
        ) -> TimerAction {
            self.called_mut().handle_timeout(&mut identity.0, out, now)
        }

        fn poll_timeout(&self) -> Option<Instant> {
            self.called().poll_timeout()
        }
    };
}
pub(crate) use {as_the_identity_within, as_the_session_within};

impl Identity for ProbeIdentity {
    type Session = ProbeSession;

    fn new(private_key: &PrivateKey, now: Instant) -> Self {
        Self(InsecureIdentity::new(private_key, now))
    }

    fn session(&mut self, config: SessionConfig, now: Instant) -> ProbeSession {
        SESSIONS.set(SESSIONS.get() + 1);
        ProbeSession(self.0.session(config, now))
    }

    as_the_identity_within!(InsecureClaim);
}

impl ProbeSession {
    fn called(&self) -> &InsecureSession {
        CALLS.set(CALLS.get() + 1);
        &self.0
    }

    fn called_mut(&mut self) -> &mut InsecureSession {
        CALLS.set(CALLS.get() + 1);
        &mut self.0
    }

    fn before_sealing(&mut self) {
        if let Some(messages) = MESSAGES_SENT.take() {
            self.0.set_messages_sent(messages);
        }
    }
}

impl Session for ProbeSession {
    as_the_session_within!(ProbeIdentity, InsecureClaim);
}
