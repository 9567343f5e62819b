//! Two endpoints in memory and a clock that only tests move.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this module")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use encrypt::{
    COOKIE_REPLY_LEN, DATA_HEADER_LEN, DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Message,
    Opened, PeerIndex, PresharedKey, PrivateKey, PublicKey, Reject, SealError, Session, SessionConfig,
    TimerAction,
};

/// The one real clock reading of a test; everything else is an offset from it.
pub fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise")]
    Instant::now()
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An IPv4 packet of `len` bytes with a recognisable content.
pub fn packet(len: u16) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|i| i as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

pub fn private_key(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

/// One identity with one peer.
pub struct Endpoint<I: Identity> {
    pub identity: I,
    pub session: I::Session,
    /// Where this endpoint's datagrams come from.
    pub address: SocketAddr,
    pub under_load: bool,
}

/// Whom a datagram is for, before any session has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classified {
    Initiation(PublicKey),
    ForPeer(PeerIndex),
    CookieReply([u8; COOKIE_REPLY_LEN]),
}

/// As the owner of an identity finds it out, step by step.
pub fn classify<I: Identity>(
    identity: &mut I,
    datagram: &[u8],
    from: SocketAddr,
    under_load: bool,
    now: Instant,
) -> Result<Classified, Reject> {
    let message = Message::parse(datagram)?;
    if message.has_macs() {
        identity.verify_mac1(datagram)?;
    }
    if message.has_macs()
        && under_load
        && let Some(reply) = identity.check_cookie(datagram, from, now)?
    {
        return Ok(Classified::CookieReply(reply));
    }
    match message {
        Message::Initiation { .. } => identity.claim(datagram).map(|(key, _)| Classified::Initiation(key)),
        Message::Response { receiver, .. }
        | Message::CookieReply { receiver }
        | Message::Data { receiver, .. } => {
            identity.peer_of(receiver).map(Classified::ForPeer).ok_or(Reject::NoSession)
        }
    }
}

/// What an endpoint made of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Packet(Vec<u8>),
    Keepalive,
    Reply(Vec<u8>),
    CookieReply(Vec<u8>),
    CookieStored,
    Rejected(Reject),
}

impl Received {
    #[track_caller]
    pub fn reply(self) -> Vec<u8> {
        match self {
            Self::Reply(bytes) | Self::CookieReply(bytes) => bytes,
            other => panic!("expected a reply, got {other:?}"),
        }
    }
}

impl<I: Identity> Endpoint<I> {
    pub fn classify(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Classified, Reject> {
        classify(&mut self.identity, datagram, from, self.under_load, now)
    }

    pub fn receive(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Received {
        match self.classify(datagram, from, now) {
            Ok(Classified::CookieReply(reply)) => Received::CookieReply(reply.to_vec()),
            Ok(_) => self.open(datagram, now),
            Err(reject) => Received::Rejected(reject),
        }
    }

    /// Straight to the session, whosever it is.
    pub fn open(&mut self, datagram: &[u8], now: Instant) -> Received {
        self.try_open(datagram, now).unwrap_or_else(Received::Rejected)
    }

    fn try_open(&mut self, datagram: &[u8], now: Instant) -> Result<Received, Reject> {
        let Self { identity, session, .. } = self;
        let message = Message::parse(datagram)?;
        if message.has_macs() {
            identity.verify_mac1(datagram)?;
        }
        let mut out = [0xaa; MAX_CONTROL_LEN];
        let reply = |out: &[u8]| Ok(Received::Reply(out.to_vec()));
        match message {
            Message::Initiation { .. } => {
                let (_, claim) = identity.claim(datagram)?;
                let len = session.answer(identity, datagram, claim, &mut out, now)?;
                reply(&out[..len])
            }
            Message::Response { .. } => {
                let len = session.read_response(identity, datagram, &mut out, now)?;
                reply(&out[..len])
            }
            Message::CookieReply { .. } => {
                session.read_cookie_reply(datagram, now).map(|()| Received::CookieStored)
            }
            Message::Data { .. } => {
                let mut datagram = datagram.to_vec();
                match session.open(identity, &mut datagram, now)? {
                    Opened::Packet { len, .. } => {
                        Ok(Received::Packet(datagram[DATA_HEADER_LEN..][..len].to_vec()))
                    }
                    Opened::Keepalive { .. } => Ok(Received::Keepalive),
                    other => panic!("unknown outcome {other:?}"),
                }
            }
        }
    }

    pub fn set_preshared_key(&mut self, key: Option<PresharedKey>, now: Instant) {
        self.session.set_preshared_key(&mut self.identity, key, now);
    }

    pub fn end(&mut self, now: Instant) {
        self.session.end(&mut self.identity, now);
    }

    /// As if it had just been told of its peer.
    pub fn renew_session(&mut self, config: SessionConfig, now: Instant) {
        self.end(now);
        self.session = self.identity.session(config, now);
    }

    pub fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut out = [0; INITIATION_LEN];
        let len = self.session.initiate(&mut self.identity, &mut out, now)?;
        Some(out[..len].to_vec())
    }

    pub fn seal(&mut self, plaintext: &[u8], now: Instant) -> Result<Vec<u8>, SealError> {
        let mut out = vec![0; plaintext.len() + DATA_OVERHEAD];
        self.session.seal(plaintext, &mut out, now).map(|()| out)
    }

    /// Runs every due timer; what it sent, and whether it expired.
    pub fn run_timers(&mut self, now: Instant) -> (Vec<Vec<u8>>, usize) {
        let mut sent = Vec::new();
        let mut expired = 0;
        for _ in 0..16 {
            let mut out = [0; MAX_CONTROL_LEN];
            match self.session.handle_timeout(&mut self.identity, &mut out, now) {
                TimerAction::Send { len, initiation } => {
                    assert_eq!(initiation, out[0] == 1, "the flag tells what the message is");
                    sent.push(out[..len].to_vec());
                }
                TimerAction::SendUnheard { len } => {
                    assert_eq!(out[0], 1, "an initiation");
                    sent.push(out[..len].to_vec());
                }
                TimerAction::Expired => expired += 1,
                TimerAction::Idle => {
                    let next = self.session.poll_timeout();
                    assert!(next.is_none_or(|at| at > now), "idle, yet due again at once");
                    return (sent, expired);
                }
                other => panic!("unknown action {other:?}"),
            }
        }
        panic!("the timers never come to rest");
    }
}

/// Two endpoints that know each other.
pub struct Pair<I: Identity> {
    pub a: Endpoint<I>,
    pub b: Endpoint<I>,
    pub now: Instant,
}

impl<I: Identity> Pair<I> {
    pub fn new() -> Self {
        Self::with(None, None)
    }

    pub fn with(psk_a: Option<PresharedKey>, psk_b: Option<PresharedKey>) -> Self {
        let now = start();
        let mut a = I::new(&private_key(1), now);
        let mut b = I::new(&private_key(2), now);
        let (key_a, key_b) = (a.public_key(), b.public_key());
        let config = |peer, preshared_key, index| SessionConfig {
            peer,
            preshared_key,
            index: PeerIndex::new(index).unwrap(),
        };
        let session_a = a.session(config(key_b, psk_a, 0x00ab_cdef), now);
        let session_b = b.session(config(key_a, psk_b, 7), now);
        let endpoint = |identity, session, address: &str| {
            let address = address.parse().unwrap();
            Endpoint { identity, session, address, under_load: false }
        };
        Self {
            a: endpoint(a, session_a, "192.0.2.1:1000"),
            b: endpoint(b, session_b, "[2001:db8::2]:2000"),
            now,
        }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    #[track_caller]
    pub fn handshake(&mut self) {
        let initiation = self.a.initiate(self.now).expect("no initiation is out");
        let response = self.b.receive(&initiation, self.a.address, self.now).reply();
        let confirmation = self.a.receive(&response, self.b.address, self.now).reply();
        assert_eq!(self.b.receive(&confirmation, self.a.address, self.now), Received::Keepalive);
    }

    /// A packet from a to b and one back.
    #[track_caller]
    pub fn exchange(&mut self) {
        self.a_to_b();
        self.b_to_a();
    }

    #[track_caller]
    pub fn a_to_b(&mut self) {
        let sealed = self.a.seal(&packet(100), self.now).expect("a is live");
        assert_eq!(self.b.receive(&sealed, self.a.address, self.now), Received::Packet(packet(100)));
    }

    #[track_caller]
    pub fn b_to_a(&mut self) {
        let sealed = self.b.seal(&packet(100), self.now).expect("b is live");
        assert_eq!(self.a.receive(&sealed, self.b.address, self.now), Received::Packet(packet(100)));
    }
}

/// What a timer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Initiation,
    Keepalive,
    Expired,
}

impl<I: Identity> Pair<I> {
    /// Lets time pass until every deadline before `now + time` has been met, and delivers what the timers
    /// send if the network is `up`. Gives what each did, and how many whole seconds from now.
    pub fn run(&mut self, time: Duration, up: bool) -> Vec<(u64, char, Sent)> {
        let (began, end) = (self.now, self.now + time);
        let mut log = Vec::new();
        for _ in 0..1000 {
            let next = [&self.a, &self.b].map(|endpoint| endpoint.session.poll_timeout());
            let Some(next) = next.into_iter().flatten().min().filter(|next| *next <= end) else {
                self.now = end;
                return log;
            };
            self.now = self.now.max(next);
            let second = (self.now - began).as_secs();
            log.extend(self.tick(up).into_iter().map(|(name, what)| (second, name, what)));
        }
        panic!("the timers never come to rest");
    }

    /// As [`run`](Self::run), but asks at every second, whatever the deadlines.
    pub fn run_by_the_second(&mut self, time: Duration, up: bool) -> Vec<(u64, char, Sent)> {
        let mut log = Vec::new();
        for second in 0..=time.as_secs() {
            log.extend(self.tick(up).into_iter().map(|(name, what)| (second, name, what)));
            if second < time.as_secs() {
                self.advance(secs(1));
            }
        }
        log
    }

    fn tick(&mut self, up: bool) -> Vec<(char, Sent)> {
        let mut log = Vec::new();
        for name in ['a', 'b'] {
            let now = self.now;
            let (from, to) = self.from(name);
            let (messages, expired) = from.run_timers(now);
            for message in messages {
                log.push((name, if message[0] == 1 { Sent::Initiation } else { Sent::Keepalive }));
                if up {
                    deliver(from, to, message, now);
                }
            }
            log.extend((0..expired).map(|_| (name, Sent::Expired)));
        }
        log
    }

    /// Sends a packet from one side to the other, or an initiation if there is no session.
    pub fn try_send(&mut self, name: char) {
        let now = self.now;
        let (from, to) = self.from(name);
        let datagram = from.seal(&packet(64), now).ok().or_else(|| from.initiate(now));
        if let Some(datagram) = datagram {
            deliver(from, to, datagram, now);
        }
    }

    /// The endpoint of this name, and the other one.
    fn from(&mut self, name: char) -> (&mut Endpoint<I>, &mut Endpoint<I>) {
        if name == 'a' { (&mut self.a, &mut self.b) } else { (&mut self.b, &mut self.a) }
    }
}

/// Delivers a message and the answers to it.
fn deliver<I: Identity>(from: &mut Endpoint<I>, to: &mut Endpoint<I>, message: Vec<u8>, now: Instant) {
    if let Received::Reply(answer) = to.receive(&message, from.address, now) {
        deliver(to, from, answer, now);
    }
}

/// Runs each generic test function against a backend.
#[macro_export]
macro_rules! for_backend {
    ($module:ident, $identity:ty, [$($test:ident),* $(,)?]) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test::<$identity>();
            })*
        }
    };
}
