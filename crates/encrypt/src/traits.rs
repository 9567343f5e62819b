//! The two traits a WireGuard backend implements. Both take slices and `now`; neither reads a clock
//! or does I/O.

use std::{net::SocketAddr, time::Instant};

use crate::{PresharedKey, PrivateKey, PublicKey};

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

/// A peer's number inside one identity: 24 bits, carried in the high bits of every receiver index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(u32);

impl PeerIndex {
    /// The largest index: 24 bits, since the low 8 bits of a receiver index rotate sessions.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// `None` if `index` needs more than 24 bits.
    pub const fn new(index: u32) -> Option<Self> {
        if index <= Self::MAX.0 { Some(Self(index)) } else { None }
    }

    /// The peer that a wire receiver index names.
    pub const fn from_receiver(receiver: u32) -> Self {
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

/// Whom a datagram is for, decided before any session sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Classified {
    /// A handshake initiation whose mac1 holds, from the peer with this static public key (decrypted,
    /// not yet authenticated: only [`Session::open`] authenticates).
    Initiation(PublicKey),
    /// A handshake response (mac1 holds), a cookie reply or a data message for this peer.
    ForPeer(PeerIndex),
    /// We are under load: answer with these bytes instead (§5.4.7).
    CookieReply([u8; COOKIE_REPLY_LEN]),
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
    /// `out` is too small. The caller's fault; nothing was consumed.
    #[error("the output buffer must be as long as the datagram, and at least {MAX_CONTROL_LEN} bytes")]
    SmallBuffer,
}

/// What opening a datagram gave.
///
/// `confirms` is true once per session, for the datagram that shows that the peer has its keys, so that the
/// "latest handshake" moves: for the initiator the response, for the responder the first message under the new
/// keys (§5.4.6). A response that was sent says nothing: it may never arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opened {
    /// `out[..len]` is an IP packet with a whole header, already trimmed of padding to the length in its own header.
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
    /// `out[..len]` must be sent back to where the datagram came from: a handshake response, or the
    /// keepalive that confirms a session we initiated.
    Reply {
        /// Bytes of the message.
        len: usize,
        /// See [`Opened`].
        confirms: bool,
    },
    /// A cookie was stored; nothing to send.
    CookieStored,
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
    /// The handshake was given up (90 s without an answer), or the session became too old with no
    /// handshake under way. Said once. Packets waiting for it should be dropped; the next packet starts a
    /// new handshake, unless a session is still young: that one goes on to its end.
    Expired,
}

/// The local static identity: it tells which peer a datagram is for, and makes sessions.
///
/// One per private key; replaced as a whole when the key changes.
pub trait Identity: Sized {
    /// A session with one peer.
    type Session: Session;

    /// Builds the identity. `now` starts its clocks.
    fn new(private_key: &PrivateKey, now: Instant) -> Self;

    /// Our public key.
    fn public_key(&self) -> PublicKey;

    /// Tells whom a datagram is for: checks its form, then for handshakes mac1 and, under load, the
    /// cookie of `from` (§5.3). Does no Diffie-Hellman unless mac1 holds.
    ///
    /// # Errors
    /// The reason to count when the datagram is to be dropped.
    fn classify(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Result<Classified, Reject>;

    /// A session with no keys yet.
    fn session(&mut self, config: SessionConfig, now: Instant) -> Self::Session;
}

/// A session with one peer: its handshakes, its keys, its timers.
///
/// # Threads
/// The methods take `&mut self`, so that a backend for one thread needs no locks. That does not keep a
/// backend from sharing: it implements this trait for a *handle*, say an `Arc` of key pairs with an atomic
/// send counter and a lock around the replay window, and hands each thread a clone of it. `&mut self` then
/// is exclusive access to the handle, not to what it points to. Nothing in the traits lends out memory or
/// asks for an order between calls on different handles; `seal` alone takes a counter, and the receiver's
/// window forgives the reordering that comes of sealing in parallel. Timers belong to one of the handles:
/// the others may give `None` from [`poll_timeout`](Self::poll_timeout).
pub trait Session {
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

    /// Writes a handshake initiation. `None` when one is already out and not yet due for a retry, so
    /// callers may ask for every packet that finds no session. Retries come from the timers.
    fn initiate(&mut self, out: &mut [u8; INITIATION_LEN], now: Instant) -> Option<usize>;

    /// Authenticates and decrypts a datagram that [`Identity::classify`] gave to this peer. `out` must
    /// be at least as long as `datagram` and at least [`MAX_CONTROL_LEN`] bytes.
    ///
    /// # Errors
    /// The reason to count when the datagram is to be dropped. Never panics, whatever the bytes.
    fn open(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<Opened, Reject>;

    /// True when the session should be renewed because of its message count (REKEY_AFTER_MESSAGES).
    fn wants_rekey(&self) -> bool;

    /// Changes the pre-shared key (§5.2) of the handshakes to come. Keys that were agreed go on until their end, so
    /// that no packet is lost while both peers change it; a handshake under way begins again at the next
    /// [`handle_timeout`](Self::handle_timeout), which is due at once. Every initiation that is no newer than one
    /// accepted before stays refused (§5.1): the peer's initiations do not depend on the pre-shared key, so whoever
    /// recorded one could send it again.
    fn set_preshared_key(&mut self, key: Option<PresharedKey>, now: Instant);

    /// Ends all keys, handshakes under way and timers, as in a new session; unlike a new one, this goes on to refuse
    /// every initiation that is no newer than one it accepted before (§5.1). For an interface that is set down.
    fn end(&mut self, now: Instant);

    /// Runs what is due, one thing at a time. Call when [`poll_timeout`](Self::poll_timeout) has passed;
    /// while more is due, that stays in the past. After [`TimerAction::Idle`] it lies in the future.
    fn handle_timeout(&mut self, out: &mut [u8; MAX_CONTROL_LEN], now: Instant) -> TimerAction;

    /// When to call [`handle_timeout`](Self::handle_timeout) next: a conservative deadline (early is
    /// fine, late is not), `None` when nothing is pending. Any other call may bring it forward.
    fn poll_timeout(&self) -> Option<Instant>;
}
