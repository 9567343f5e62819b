//! The deterministic backend, observed and steered from outside: per test thread, since a backend is built
//! by the tunnel itself.

use std::{cell::Cell, net::SocketAddr, time::Instant};

use encrypt::{
    Classified, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened, PresharedKey, PrivateKey, PublicKey,
    Reject, SealError, Session, SessionConfig, TimerAction,
    deterministic::{InsecureIdentity, InsecureSession},
};

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static SESSIONS: Cell<u64> = const { Cell::new(0) };
    static UNDER_LOAD: Cell<bool> = const { Cell::new(false) };
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

/// From now on every identity on this thread is under load, or not.
pub(crate) fn set_under_load(under_load: bool) {
    UNDER_LOAD.set(under_load);
}

/// The next session that seals believes it has sent this many messages.
pub(crate) fn set_messages_sent(messages: u64) {
    MESSAGES_SENT.set(Some(messages));
}

pub(crate) struct ProbeIdentity(InsecureIdentity);

pub(crate) struct ProbeSession(InsecureSession);

impl Identity for ProbeIdentity {
    type Session = ProbeSession;

    fn new(private_key: &PrivateKey, now: Instant) -> Self {
        Self(InsecureIdentity::new(private_key, now))
    }

    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn classify(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Result<Classified, Reject> {
        self.0.set_under_load(UNDER_LOAD.get());
        self.0.classify(datagram, from, now)
    }

    fn session(&mut self, config: SessionConfig, now: Instant) -> ProbeSession {
        SESSIONS.set(SESSIONS.get() + 1);
        ProbeSession(self.0.session(config, now))
    }
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
}

impl Session for ProbeSession {
    fn is_live(&self) -> bool {
        self.called().is_live()
    }

    fn is_initiating(&self) -> bool {
        self.called().is_initiating()
    }

    fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError> {
        if let Some(messages) = MESSAGES_SENT.take() {
            self.0.set_messages_sent(messages);
        }
        self.called_mut().seal(plaintext, out, now)
    }

    fn initiate(&mut self, out: &mut [u8; INITIATION_LEN], now: Instant) -> Option<usize> {
        self.called_mut().initiate(out, now)
    }

    fn open(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Opened, Reject> {
        self.called_mut().open(datagram, out, from, now)
    }

    fn wants_rekey(&self) -> bool {
        self.called().wants_rekey()
    }

    fn set_preshared_key(&mut self, key: Option<PresharedKey>, now: Instant) {
        self.called_mut().set_preshared_key(key, now);
    }

    fn end(&mut self, now: Instant) {
        self.called_mut().end(now);
    }

    fn handle_timeout(&mut self, out: &mut [u8; MAX_CONTROL_LEN], now: Instant) -> TimerAction {
        self.called_mut().handle_timeout(out, now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.called().poll_timeout()
    }
}
