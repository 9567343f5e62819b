//! The handshake messages: real layouts (§5.4.2 – §5.4.7), pretended secrets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::cipher::{Word, checksum, scramble};
use crate::{
    COOKIE_REPLY_LEN, INITIATION_LEN, KEY_LEN, PresharedKey, PublicKey, RESPONSE_LEN, Reject, SessionConfig,
    Stamps,
    wire::{TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE, u32_at, u64_at},
};

/// A cookie is used for so long (COOKIE_REFRESH, §5.4.7).
const COOKIE_LIFE: Duration = Duration::from_secs(120);

/// Handshake timestamps: later ones are larger, across all sessions of the process.
static TIMESTAMP: AtomicU64 = AtomicU64::new(1);

type Ephemeral = [u8; KEY_LEN];

/// The keys of a new session, by who sends with them.
pub(super) struct Keys {
    pub(super) initiator: Word,
    pub(super) responder: Word,
}

/// The two macs that end a handshake message, and what each covers.
pub(super) struct Macs<'a> {
    pub(super) before_mac1: &'a [u8],
    pub(super) mac1: &'a [u8],
    pub(super) before_mac2: &'a [u8],
    pub(super) mac2: &'a [u8],
}

/// `message` is an initiation or a response.
pub(super) fn macs(message: &[u8]) -> Macs<'_> {
    let (before_mac2, mac2) = message.split_at(message.len() - 16);
    let (before_mac1, mac1) = before_mac2.split_at(before_mac2.len() - 16);
    Macs { before_mac1, mac1, before_mac2, mac2 }
}

pub(super) fn mac1(to: &PublicKey, covered: &[u8]) -> Word {
    checksum(&[b"mac1", to.as_bytes(), covered])
}

pub(super) fn mac2(cookie: &Word, covered: &[u8]) -> Word {
    checksum(&[b"mac2", cookie, covered])
}

/// What the owner of `from` answers under load to a message from `receiver` with this mac1.
pub(super) fn cookie_reply(
    from: &PublicKey,
    receiver: u32,
    cookie: Word,
    mac1: &[u8],
) -> [u8; COOKIE_REPLY_LEN] {
    let mut reply = [0; COOKIE_REPLY_LEN];
    reply[..4].copy_from_slice(&TYPE_COOKIE_REPLY.to_le_bytes());
    reply[4..8].copy_from_slice(&receiver.to_le_bytes());
    let nonce = checksum(&[b"nonce", mac1]);
    reply[8..24].copy_from_slice(&nonce);
    reply[48..64].copy_from_slice(&checksum(&[b"cookie", from.as_bytes(), &nonce, mac1, &cookie]));
    reply[32..48].copy_from_slice(&cookie);
    scramble(&nonce, 0, &mut reply[32..48]);
    reply
}

/// A handshake initiation, read.
#[derive(Debug)]
pub(super) struct Initiation {
    pub(super) sender: u32,
    pub(super) static_key: PublicKey,
    ephemeral: Ephemeral,
    timestamp: u64,
}

impl Initiation {
    /// `None` unless it was written for `to`. `message` has the form of an initiation.
    pub(super) fn read(message: &[u8], to: &PublicKey) -> Option<Self> {
        let message: &[u8; INITIATION_LEN] = message.try_into().ok()?;
        let ephemeral = array(&message[8..40]);
        let key = checksum(&[b"initiation", to.as_bytes(), &ephemeral]);
        let mut content = [0; 48];
        content[..32].copy_from_slice(&message[40..72]);
        content[32..].copy_from_slice(&message[88..104]);
        scramble(&key, 0, &mut content);
        let static_key = PublicKey::from_bytes(array(&content[..32]));
        let timestamp = u64_at(&content, 32);
        let tags = initiation_tags(&key, &content);
        let whole = message[72..88] == tags[0] && message[104..116] == tags[1][..12];
        whole.then_some(Self { sender: u32_at(message, 4), static_key, ephemeral, timestamp })
    }
}

fn initiation_tags(key: &Word, content: &[u8; 48]) -> [Word; 2] {
    [checksum(&[key, b"static", &content[..32]]), checksum(&[key, b"timestamp", &content[32..]])]
}

/// A handshake response, read.
pub(super) struct Response {
    pub(super) sender: u32,
    pub(super) receiver: u32,
    ephemeral: Ephemeral,
    proof: Word,
}

impl Response {
    /// `message` has the form of a response.
    pub(super) fn read(message: &[u8]) -> Self {
        Self {
            sender: u32_at(message, 4),
            receiver: u32_at(message, 8),
            ephemeral: array(&message[12..44]),
            proof: array(&message[44..60]),
        }
    }
}

/// Our side of the handshakes with one peer.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) public: PublicKey,
    peer: PublicKey,
    preshared: [u8; KEY_LEN],
    index: u32,
    handshakes: u64,
    /// The newest timestamp that the peer's initiations carried.
    newest: u64,
    /// Our unanswered initiation, and the one before it, whose answer may be late.
    pending: [Option<Pending>; 2],
    /// Sender index and mac1 of our last handshake message, which a cookie reply must name.
    last_message: Option<(u32, Word)>,
    cookie: Option<(Word, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    index: u32,
    ephemeral: Ephemeral,
}

impl Local {
    pub(super) fn new(public: PublicKey, config: &SessionConfig) -> Self {
        Self {
            public,
            peer: config.peer,
            preshared: bytes_of(config.preshared_key.as_ref()),
            index: config.index.get() << 8,
            handshakes: 0,
            newest: 0,
            pending: [None; 2],
            last_message: None,
            cookie: None,
        }
    }

    /// Ends every handshake; what the peer has already sent stays known.
    pub(super) fn set_preshared_key(&mut self, key: Option<&PresharedKey>) {
        self.preshared = bytes_of(key);
        self.forget_handshakes();
    }

    /// The peer's index in the high 24 bits; the low 8 rotate.
    pub(super) fn next_index(&mut self) -> u32 {
        let [low, rest @ ..] = self.index.to_le_bytes();
        self.index = u32::from_le_bytes([low.wrapping_add(1), rest[0], rest[1], rest[2]]);
        self.index
    }

    pub(super) fn initiate(&mut self, index: u32, now: Instant) -> [u8; INITIATION_LEN] {
        let ephemeral = self.next_ephemeral(b"initiator");
        let key = checksum(&[b"initiation", self.peer.as_bytes(), &ephemeral]);
        let mut content = [0; 48];
        content[..32].copy_from_slice(self.public.as_bytes());
        content[32..40].copy_from_slice(&TIMESTAMP.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let tags = initiation_tags(&key, &content);
        scramble(&key, 0, &mut content);

        let mut message = [0; INITIATION_LEN];
        message[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..40].copy_from_slice(&ephemeral);
        message[40..72].copy_from_slice(&content[..32]);
        message[72..88].copy_from_slice(&tags[0]);
        message[88..104].copy_from_slice(&content[32..]);
        message[104..116].copy_from_slice(&tags[1][..12]);
        if self.cookie.is_some_and(|(_, at)| now >= at + COOKIE_LIFE) {
            self.cookie = None;
        }
        self.sign(index, &mut message);
        self.pending = [Some(Pending { index, ephemeral }), self.pending[0]];
        message
    }

    /// Authenticates the peer's initiation.
    pub(super) fn accept(&mut self, initiation: &Initiation) -> Result<(), Reject> {
        if initiation.static_key != self.peer {
            return Err(Reject::BadHandshake);
        }
        if initiation.timestamp <= self.newest {
            return Err(Reject::ReplayedHandshake);
        }
        self.newest = initiation.timestamp;
        Ok(())
    }

    /// Ours need none: they are counted for the whole process.
    pub(super) fn stamps(&self) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.received[..8].copy_from_slice(&self.newest.to_le_bytes());
        stamps
    }

    pub(super) fn remember(&mut self, stamps: Stamps) {
        self.newest = self.newest.max(u64_at(&stamps.received, 0));
    }

    /// The answer to an accepted initiation.
    pub(super) fn respond(&mut self, initiation: &Initiation, index: u32) -> ([u8; RESPONSE_LEN], Keys) {
        let ephemeral = self.next_ephemeral(b"responder");
        let secret = self.secret(&self.peer, &self.public, &initiation.ephemeral, &ephemeral);
        let mut message = [0; RESPONSE_LEN];
        message[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..12].copy_from_slice(&initiation.sender.to_le_bytes());
        message[12..44].copy_from_slice(&ephemeral);
        message[44..60].copy_from_slice(&proof(&secret, index, initiation.sender));
        self.sign(index, &mut message);
        (message, keys(&secret))
    }

    /// Authenticates the answer to one of our initiations.
    pub(super) fn complete(&mut self, response: &Response) -> Result<Keys, Reject> {
        let asked = |pending: &Option<Pending>| pending.is_some_and(|p| p.index == response.receiver);
        let place = self.pending.iter().position(asked).ok_or(Reject::NoSession)?;
        let ours = self.pending[place].ok_or(Reject::NoSession)?;
        let secret = self.secret(&self.public, &self.peer, &ours.ephemeral, &response.ephemeral);
        if response.proof != proof(&secret, response.sender, response.receiver) {
            return Err(Reject::BadHandshake);
        }
        self.pending[place..].fill(None); // an older one's session would be older than this
        Ok(keys(&secret))
    }

    pub(super) fn store_cookie(
        &mut self,
        reply: &[u8; COOKIE_REPLY_LEN],
        now: Instant,
    ) -> Result<(), Reject> {
        let (index, mac1) = self.last_message.ok_or(Reject::NoSession)?;
        if u32_at(reply, 4) != index {
            return Err(Reject::NoSession);
        }
        let nonce: Word = array(&reply[8..24]);
        let mut cookie: Word = array(&reply[32..48]);
        scramble(&nonce, 0, &mut cookie);
        if *reply != cookie_reply(&self.peer, index, cookie, &mac1) {
            return Err(Reject::BadTag);
        }
        self.cookie = Some((cookie, now));
        Ok(())
    }

    pub(super) fn forget_handshakes(&mut self) {
        self.pending = [None; 2];
    }

    fn sign(&mut self, index: u32, message: &mut [u8]) {
        let at = message.len() - 32;
        let first = mac1(&self.peer, &message[..at]);
        message[at..at + 16].copy_from_slice(&first);
        if let Some((cookie, _)) = &self.cookie {
            let second = mac2(cookie, &message[..at + 16]);
            message[at + 16..].copy_from_slice(&second);
        }
        self.last_message = Some((index, first));
    }

    fn next_ephemeral(&mut self, role: &[u8]) -> Ephemeral {
        self.handshakes += 1;
        let seed = [role, self.public.as_bytes(), self.peer.as_bytes(), &self.handshakes.to_le_bytes()];
        let mut ephemeral = [0; KEY_LEN];
        ephemeral[..16].copy_from_slice(&checksum(&seed));
        ephemeral
    }

    fn secret(&self, initiator: &PublicKey, responder: &PublicKey, e1: &Ephemeral, e2: &Ephemeral) -> Word {
        checksum(&[initiator.as_bytes(), responder.as_bytes(), e1, e2, &self.preshared])
    }
}

/// No key is as good as zeros (§5.2).
fn bytes_of(key: Option<&PresharedKey>) -> [u8; KEY_LEN] {
    key.map_or([0; KEY_LEN], |key| *key.as_bytes())
}

fn proof(secret: &Word, sender: u32, receiver: u32) -> Word {
    checksum(&[b"response", secret, &sender.to_le_bytes(), &receiver.to_le_bytes()])
}

fn keys(secret: &Word) -> Keys {
    Keys { initiator: checksum(&[b"initiator", secret]), responder: checksum(&[b"responder", secret]) }
}

/// A part of a message whose length the type gives.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the range has the array's length")
}
