//! The two traits a WireGuard backend implements. Both take slices and `now`; neither reads a clock
//! or does I/O.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use crate::{
    PresharedKey, PrivateKey, PublicKey,
    transport::{LeaseError, Leases, TransportKeys, Unchecked},
};

/// Length of a handshake initiation (WireGuard paper §5.4.2), bytes.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response (§5.4.3), bytes.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply (§5.4.7), bytes.
pub const COOKIE_REPLY_LEN: usize = 64;
/// What a data message adds to its plaintext (§5.4.6): 16 bytes of header, 16 of tag.
pub const DATA_OVERHEAD: usize = 32;
/// The longest message a session writes other than data, bytes.
pub const MAX_CONTROL_LEN: usize = INITIATION_LEN;

/// A peer's number inside one identity: 24 bits, since boringtun carries it in the high bits of every receiver index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(u32);

impl PeerIndex {
    /// The largest index: 24 bits, since the low 8 bits of boringtun's receiver indices rotate sessions.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// `None` if `index` needs more than 24 bits.
    pub const fn new(index: u32) -> Option<Self> {
        if index <= Self::MAX.0 { Some(Self(index)) } else { None }
    }

    /// The peer that a receiver index names, where indices are given as boringtun gives them.
    #[cfg(any(feature = "boringtun", feature = "test-util"))]
    pub(crate) const fn from_receiver(receiver: u32) -> Self {
        Self(receiver >> 8)
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What a session with one peer needs to know.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The peer's static public key.
    pub peer: PublicKey,
    /// Optional pre-shared key (§5.2).
    pub preshared_key: Option<PresharedKey>,
    /// This peer's index.
    pub index: PeerIndex,
}

/// What outlives a session for the life of its peer (§5.1): the newest timestamp of the peer's initiations, and the newest of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// As they are sent; zeros before the first.
    pub(crate) received: [u8; 12],
    pub(crate) sent: [u8; 12],
}

/// Why a datagram was refused. Each is a drop counter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Not a WireGuard message: unknown type, reserved bytes set, or a wrong length.
    #[error("not a WireGuard message")]
    Malformed,
    /// mac1 does not hold: the sender does not know our public key.
    #[error("mac1 does not verify")]
    BadMac,
    /// The handshake does not decrypt or is not from this peer.
    #[error("the handshake does not authenticate")]
    BadHandshake,
    /// No session has this receiver index, or none that still lives.
    #[error("no session for this receiver index")]
    NoSession,
    /// The AEAD tag does not verify.
    #[error("the message does not authenticate")]
    BadTag,
    /// The counter was seen already, is too old for the window, or is past the limit (§5.4.6).
    #[error("a replayed or too old counter")]
    Replay,
    /// The handshake's timestamp is not newer than the last one (§5.1).
    #[error("a replayed handshake")]
    ReplayedHandshake,
    /// An initiation claims a public key that is no peer's.
    #[error("no peer has this public key")]
    UnknownPeer,
    /// The peer's last initiation was accepted less than 20 ms ago.
    #[error("a handshake too soon after the last")]
    TooSoon,
    /// The decrypted content is not an IP packet.
    #[error("the content is not an IP packet")]
    NotIp,
    /// We are under load and could not answer with a cookie.
    #[error("under load")]
    UnderLoad,
}

/// What a data message was.
///
/// `confirms` is true once per session, for the message that shows a responder that its peer has the keys (§5.4.6), so that the
/// "latest handshake" moves. (An initiator learns it from the response: see [`Session::read_response`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opened {
    /// [`DATA_HEADER_LEN`](crate::DATA_HEADER_LEN) bytes into the datagram lies an IP packet of `len` bytes with a whole header, already trimmed of
    /// padding to the length in its own header.
    Packet {
        /// Bytes of the packet.
        len: usize,
        /// See [`Opened`].
        confirms: bool,
    },
    /// An authenticated, empty message.
    Keepalive {
        /// See [`Opened`].
        confirms: bool,
    },
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no live session: initiate one and queue the packet.
    #[error("no live session: initiate one")]
    NoSession,
    /// `out` is not exactly `plaintext.len() + DATA_OVERHEAD` bytes. The caller's fault.
    #[error("the output must be exactly {DATA_OVERHEAD} bytes longer than the packet")]
    WrongLength,
    /// The packet is longer than an [`EncryptedPacket`](crate::EncryptedPacket) takes. The caller's fault.
    #[error("the packet is longer than {} bytes", crate::EncryptedPacket::MAX_PLAINTEXT)]
    TooLong,
    /// The session has sent 2^64 − 2^13 − 1 messages (REJECT_AFTER_MESSAGES, §6.2).
    #[error("the session has sent all the messages it may: initiate a new one")]
    Exhausted,
}

impl From<LeaseError> for SealError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Exhausted => Self::Exhausted,
            LeaseError::Revoked => Self::NoSession,
        }
    }
}

/// What a due timer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerAction {
    /// Nothing to do now.
    Idle,
    /// `out[..len]` must be sent: a rekey or a keepalive.
    Send {
        /// Bytes of the message.
        len: usize,
        /// True if it is a handshake initiation.
        initiation: bool,
    },
    /// `out[..len]` must be sent: a handshake initiation, for nothing was heard of the peer since the last one, or
    /// for 15 s in which it was sent data (§6.5). The path to it may be at fault, such as a source address that it
    /// cannot answer to any more.
    SendUnheard {
        /// Bytes of the message.
        len: usize,
    },
    /// The handshake was given up (90 s without an answer since a packet last asked for it), or the session became too old with no
    /// handshake under way. Said once. Packets waiting for it should be dropped; the next packet starts a
    /// new handshake, unless a session is still young: that one goes on to its end.
    Expired,
}

/// The local static identity: whom datagrams are for, and whether a handshake message is worth an answer.
///
/// One per private key; replaced as a whole when the key changes. It holds what its sessions have in common, so whatever a
/// session does that touches this takes the identity as an argument: there is no lock, for there is one owner.
///
/// # A handshake message, step by step
/// Each step costs more than the one before it, and the owner decides when it is worth it:
///
/// 1. [`Message::parse`](crate::Message::parse): form and lengths.
/// 2. [`verify_mac1`](Self::verify_mac1) of an initiation or a response: the sender knows our public key. One hash.
/// 3. Under load, which the owner knows, [`check_cookie`](Self::check_cookie): the sender receives where it says. Hashes.
/// 4. [`claim`](Self::claim) of an initiation: whose it claims to be. One Diffie–Hellman.
/// 5. [`Session::answer`] of that peer's session. For a response [`Session::read_response`], for a cookie reply
///    [`Session::read_cookie_reply`], of the peer that its receiver index names ([`peer_of`](Self::peer_of)).
pub trait Identity: Sized {
    /// A session with one peer.
    type Session: Session<Identity = Self>;

    /// What [`claim`](Self::claim) has computed, for [`Session::answer`] to go on from. Its secrets are wiped when it is dropped.
    type Claim;

    /// Builds the identity. `now` starts its clocks.
    fn new(private_key: &PrivateKey, now: Instant) -> Self;

    /// Our public key.
    fn public_key(&self) -> PublicKey;

    /// The peer that one of our receiver indices was given to, in whatever session or handshake; `None` if it is nobody's.
    fn peer_of(&self, receiver: u32) -> Option<PeerIndex>;

    /// Checks form and mac1 (§5.4.4) of an initiation or a response.
    ///
    /// # Errors
    /// [`Reject::Malformed`] if it is neither, [`Reject::BadMac`] if it is not for us.
    fn verify_mac1(&self, datagram: &[u8]) -> Result<(), Reject>;

    /// Under load: does mac2 prove that the sender of a message whose mac1 holds receives what is sent to `from` (§5.3)?
    /// `None` if it does; otherwise the cookie reply with which it can (§5.4.7).
    ///
    /// # Errors
    /// It is no such message.
    fn check_cookie(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Option<[u8; COOKIE_REPLY_LEN]>, Reject>;

    /// The public key that an initiation whose mac1 holds claims to be from, and what finding out has computed. Nothing proves
    /// it: anybody can claim the key of another, and only [`Session::answer`] finds that out. Costs one Diffie–Hellman.
    ///
    /// # Errors
    /// [`Reject::Malformed`] if it is no initiation, [`Reject::BadHandshake`] if it does not decrypt.
    fn claim(&self, datagram: &[u8]) -> Result<(PublicKey, Self::Claim), Reject>;

    /// A session with no keys yet.
    fn session(&mut self, config: SessionConfig, now: Instant) -> Self::Session;
}

/// A session with one peer: its handshakes, its keys, its timers. For the thread that owns the identity.
///
/// Before a session is dropped, [`end`](Self::end) it, unless its identity goes too: what the identity keeps for it, such as
/// its receiver indices, is given back then.
pub trait Session: Sized {
    /// The identity that made it. No other may be given to its methods.
    type Identity: Identity<Session = Self>;

    /// True when there is a session to seal with. [`seal`](Self::seal) has the last word, since it is told
    /// the time: a session too old is noticed there, or by the timers.
    fn is_live(&self) -> bool;

    /// True when an initiation is out, unanswered, and not given up.
    fn is_initiating(&self) -> bool;

    /// Encrypts `plaintext` (already padded, §5.4.6) into `out`, which is exactly
    /// `plaintext.len() + DATA_OVERHEAD` bytes. An empty plaintext is a keepalive.
    ///
    /// # Errors
    /// On any error `out`'s content is unspecified and no counter was used.
    fn seal(&mut self, plaintext: &[u8], out: &mut [u8], now: Instant) -> Result<(), SealError>;

    /// As [`seal`](Self::seal), but leaves the encryption for later, if the backend can: `out` is the datagram with number
    /// `segment` in a batch, and `leases` are that batch's. Once this returns, `out` begins with the header that it will be sent
    /// with; it must not be sent before [`Leases::seal`], which any thread may call. The session may end in the meantime.
    ///
    /// # Errors
    /// As [`seal`](Self::seal). `leases` is as it was.
    fn seal_later(
        &mut self,
        plaintext: &[u8],
        out: &mut [u8],
        segment: usize,
        leases: &mut Leases,
        now: Instant,
    ) -> Result<(), SealError> {
        let _ = (segment, leases);
        self.seal(plaintext, out, now)
    }

    /// Writes a handshake initiation. `None` when one is already out and not yet due for a retry, so
    /// callers may ask for every packet that finds no session. Retries come from the timers.
    fn initiate(
        &mut self,
        identity: &mut Self::Identity,
        out: &mut [u8; INITIATION_LEN],
        now: Instant,
    ) -> Option<usize>;

    /// One more packet waits for the handshake that is tried: it is given up 90 s from now (§6.4).
    fn keep_trying(&mut self, now: Instant);

    /// Authenticates an initiation and writes the response to it, which is to be sent to where the initiation came from; gives
    /// its length. `claim` is what [`Identity::claim`] gave for this datagram. The response says nothing of the peer's having
    /// the keys, for it may never arrive.
    ///
    /// # Errors
    /// The reason to count when the datagram is to be dropped. Nothing has changed then. Never panics, whatever the bytes.
    fn answer(
        &mut self,
        identity: &mut Self::Identity,
        datagram: &[u8],
        claim: <Self::Identity as Identity>::Claim,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject>;

    /// Reads the response to one of our initiations, and writes the first message under the new keys, which confirms them and is
    /// to be sent to where the response came from; gives its length. The peer has the keys: "latest handshake" moves.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    fn read_response(
        &mut self,
        identity: &mut Self::Identity,
        datagram: &[u8],
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> Result<usize, Reject>;

    /// Keeps the cookie (§5.4.7) for our next handshake messages. It tells nothing of the peer: anybody on the way can make one.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    fn read_cookie_reply(&mut self, datagram: &[u8], now: Instant) -> Result<(), Reject>;

    /// Authenticates and decrypts a data message in place.
    ///
    /// # Errors
    /// As [`answer`](Self::answer). The bytes of a message that did not authenticate may have been overwritten.
    fn open(
        &mut self,
        identity: &mut Self::Identity,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Opened, Reject>;

    /// The keys that open messages to this receiver index of ours, lent to whoever opens them in advance
    /// ([`TrainOpening`](crate::transport::TrainOpening)). `None` if there are none that still live, or if the backend lends none:
    /// then it is for [`open`](Self::open).
    fn opener(&self, receiver: u32, now: Instant) -> Option<&Arc<TransportKeys>> {
        let _ = (receiver, now);
        None
    }

    /// Takes a data message that was opened in place with keys of [`opener`](Self::opener), in order of arrival: what
    /// [`open`](Self::open) does once a message is authentic. Only now it is known to be new.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn commit(
        &mut self,
        identity: &mut Self::Identity,
        datagram: &[u8],
        opened: Unchecked,
        now: Instant,
    ) -> Result<Opened, Reject> {
        let _ = (identity, datagram, opened, now);
        Err(Reject::NoSession) // who lends no keys gets nothing back
    }

    /// True when the session should be renewed because of its message count (REKEY_AFTER_MESSAGES).
    fn wants_rekey(&self) -> bool;

    /// Changes the pre-shared key (§5.2) of the handshakes to come. Keys that were agreed go on until their end, so
    /// that no packet is lost while both peers change it; a handshake under way begins again at the next
    /// [`handle_timeout`](Self::handle_timeout), which is due at once. Every initiation that is no newer than one
    /// accepted before stays refused (§5.1): the peer's initiations do not depend on the pre-shared key, so whoever
    /// recorded one could send it again.
    fn set_preshared_key(&mut self, identity: &mut Self::Identity, key: Option<PresharedKey>, now: Instant);

    /// Ends all keys, handshakes under way and timers, as in a new session; unlike a new one, this goes on to refuse
    /// every initiation that is no newer than one it accepted before (§5.1). For an interface that is set down, and before
    /// the session is dropped.
    fn end(&mut self, identity: &mut Self::Identity, now: Instant);

    /// What the peer's next session is to [`remember`](Self::remember), when this one goes with its identity. The default, for a
    /// backend that cannot tell, is nothing.
    fn stamps(&self) -> Stamps {
        Stamps::default()
    }

    /// Refuses every initiation that is no newer than one that an earlier session of the peer accepted, and makes none that is
    /// older than its own.
    fn remember(&mut self, stamps: Stamps) {
        let _ = stamps;
    }

    /// Runs what is due, one thing at a time. Call when [`poll_timeout`](Self::poll_timeout) has passed;
    /// while more is due, that stays in the past. After [`TimerAction::Idle`] it lies in the future.
    fn handle_timeout(
        &mut self,
        identity: &mut Self::Identity,
        out: &mut [u8; MAX_CONTROL_LEN],
        now: Instant,
    ) -> TimerAction;

    /// When to call [`handle_timeout`](Self::handle_timeout) next: a conservative deadline (early is
    /// fine, late is not), `None` when nothing is pending. Any other call may bring it forward.
    fn poll_timeout(&self) -> Option<Instant>;
}
