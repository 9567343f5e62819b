//! WireGuard's timers (§6) as plain state: events and `now` in, what is due out.
//!
//! Per packet this costs a few stores. That is why a deadline is armed when its reason appears and then
//! left where it is: [`Timers::poll_timeout`] may be early, and [`Timers::poll`] finds out.

use std::time::{Duration, Instant};

/// After sending this many messages with one session, its initiator renews it (§6.2).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A session never sends or accepts a counter from here on (§6.2): 2^64 − 2^13 − 1.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// The age at which a session's initiator renews it, once it has something to send (§6.2).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// The age from which a session neither sends nor receives (§6.2).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// For how long a handshake is tried before it is given up; counted anew from each packet that asks for it (§6.4).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The pause between two tries of a handshake (§6.4).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Data was received and nothing sent back for so long: send a keepalive (§6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most that is added to [`REKEY_TIMEOUT`], so that two peers do not keep colliding (§6.4).
pub(crate) const MAX_JITTER: Duration = Duration::from_millis(333);
/// Data was sent and nothing at all came back for so long: the session may be lost (§6.5).
const SILENCE: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);
/// The age at which *receiving* renews a session: the last moment at which a handshake, with a
/// keepalive's delay before it, still ends before the session does (§6.2).
const REKEY_ON_RECEIVE: Duration = REJECT_AFTER_TIME.saturating_sub(SILENCE);
/// When all keys are forgotten if no new ones were agreed (§6.3).
const FORGET_AFTER: Duration = REJECT_AFTER_TIME.saturating_mul(3);

/// The birth of a session, and whose idea it was: only the initiator renews by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) at: Instant,
    pub(crate) initiator: bool,
}

impl Birth {
    /// True while a session may still send and receive.
    pub(crate) fn is_young(self, now: Instant) -> bool {
        now < self.at + REJECT_AFTER_TIME
    }
}

/// What a session's owner must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send an initiation and report it with [`Timers::initiation_sent`].
    Initiate,
    /// The same, for the peer is silent.
    InitiateUnheard,
    /// Send an empty message and report it with [`Timers::sent`].
    Keepalive,
    /// No answer for [`REKEY_ATTEMPT_TIME`]: drop what waits. A session that is still young goes on.
    GaveUp,
    /// The session is too old to be used, and none is being negotiated.
    Died,
    /// Erase all keys.
    Forget,
}

/// What an authenticated message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A data message with a packet in it.
    Packet,
    /// A data message without one.
    Keepalive,
    Handshake,
}

impl Content {
    /// Of a data message.
    #[inline]
    pub(crate) const fn of(plaintext: &[u8]) -> Self {
        if plaintext.is_empty() { Self::Keepalive } else { Self::Packet }
    }
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// When it began, or when a packet last asked for it.
    wanted: Instant,
    retry_at: Instant,
}

impl Attempt {
    fn due_at(&self) -> Instant {
        self.retry_at.min(self.wanted + REKEY_ATTEMPT_TIME)
    }
}

/// All timers of one peer. The default is a peer without a session, which has no deadline.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// The session that seals.
    current: Option<Birth>,
    /// The handshake we are trying.
    attempt: Option<Attempt>,
    /// When the last initiation was written, whatever became of it.
    last_initiation: Option<Instant>,
    /// The session should be renewed because of its age.
    rekey_wanted: bool,
    /// Data was received: say something by then.
    answer_by: Option<Instant>,
    /// Data was sent: doubt the session if nothing was heard by then.
    doubt_at: Option<Instant>,
    forget_at: Option<Instant>,
    /// Never later than the earliest deadline.
    next: Option<Instant>,
}

impl Timers {
    /// The session that seals, as far as was known when time was last told.
    #[inline]
    pub(crate) fn current(&self) -> Option<Birth> {
        self.current
    }

    /// True when there is a session young enough to seal at `now`.
    #[inline]
    pub(crate) fn may_seal(&self, now: Instant) -> bool {
        self.current.is_some_and(|session| session.is_young(now))
    }

    pub(crate) fn is_initiating(&self) -> bool {
        self.attempt.is_some()
    }

    /// True if an initiation may be written now. If not, the timers ask for one: its answer may still come, or it is too early
    /// for the next.
    pub(crate) fn may_initiate(&mut self, now: Instant) -> bool {
        match self.attempt {
            Some(attempt) if now < attempt.due_at() => false,
            Some(attempt) if now >= attempt.retry_at => true,
            _ => self.begin(now),
        }
    }

    /// Begins to try a handshake. True if it may be now: no two initiations are less than [`REKEY_TIMEOUT`] apart (§6.1).
    fn begin(&mut self, now: Instant) -> bool {
        let earliest = self.last_initiation.map_or(now, |last| last + REKEY_TIMEOUT);
        if earliest > now {
            self.attempt = Some(Attempt { wanted: now, retry_at: earliest });
            self.arm(earliest);
        }
        earliest <= now
    }

    /// An initiation was written. `jitter` is at most [`MAX_JITTER`].
    pub(crate) fn initiation_sent(&mut self, jitter: Duration, now: Instant) {
        let wanted = match self.attempt {
            Some(attempt) if now < attempt.wanted + REKEY_ATTEMPT_TIME => attempt.wanted,
            _ => now,
        };
        let attempt = Attempt { wanted, retry_at: now + REKEY_TIMEOUT + jitter.min(MAX_JITTER) };
        self.arm(attempt.due_at());
        self.attempt = Some(attempt);
        self.last_initiation = Some(now);
        self.rekey_wanted = false;
    }

    /// A packet waits for the handshake we are trying: that is given up [`REKEY_ATTEMPT_TIME`] from now.
    pub(crate) fn keep_trying(&mut self, now: Instant) {
        if let Some(attempt) =
            self.attempt.as_mut().filter(|attempt| now < attempt.wanted + REKEY_ATTEMPT_TIME)
        {
            attempt.wanted = now;
        }
    }

    /// The backend lost the handshake we are trying: try again at once.
    pub(crate) fn retry_at_once(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.retry_at = now;
            self.arm(now);
        }
    }

    /// Keys were agreed: as the responder they are not yet confirmed.
    pub(crate) fn keys_agreed(&mut self, now: Instant) {
        self.forget_at = Some(now + FORGET_AFTER);
        self.arm(now + FORGET_AFTER);
    }

    /// From now on this session seals: we got the answer to our initiation, or the first message with
    /// the keys that we answered with.
    pub(crate) fn session_confirmed(&mut self, session: Birth) {
        self.current = Some(session);
        self.attempt = None;
        self.rekey_wanted = false;
        self.arm(session.at + REJECT_AFTER_TIME);
    }

    /// The backend has no session that seals any more.
    pub(crate) fn session_lost(&mut self) {
        self.current = None;
        self.answer_by = None;
        self.doubt_at = None;
    }

    /// An authenticated message was written.
    #[inline]
    pub(crate) fn sent(&mut self, content: Content, now: Instant) {
        self.answer_by = None;
        if content == Content::Packet && self.doubt_at.is_none() {
            self.doubt_at = Some(now + SILENCE);
            self.arm(now + SILENCE);
        }
        if content != Content::Handshake && self.initiated_for(REKEY_AFTER_TIME, now) {
            self.keep_trying(now);
            self.want_rekey(now);
        }
    }

    /// An authenticated message was read.
    #[inline]
    pub(crate) fn received(&mut self, content: Content, now: Instant) {
        self.doubt_at = None;
        if content == Content::Packet && self.answer_by.is_none() {
            self.answer_by = Some(now + KEEPALIVE_TIMEOUT);
            self.arm(now + KEEPALIVE_TIMEOUT);
        }
        if content != Content::Handshake && self.initiated_for(REKEY_ON_RECEIVE, now) {
            self.want_rekey(now);
        }
    }

    /// Makes [`poll_timeout`](Self::poll_timeout) due no later than `at`.
    #[inline]
    pub(crate) fn arm(&mut self, at: Instant) {
        if self.next.is_none_or(|next| at < next) {
            self.next = Some(at);
        }
    }

    /// When to call [`poll`](Self::poll) next; may be early, never late.
    #[inline]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// One thing that is due. After `None`, the next deadline lies in the future.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Due> {
        let due = self.poll_handshake(now).or_else(|| self.poll_session(now));
        if due.is_some() {
            return due; // More may be due: `next` stays in the past.
        }
        self.next = self.deadlines().into_iter().flatten().min();
        None
    }

    fn poll_handshake(&mut self, now: Instant) -> Option<Due> {
        if let Some(attempt) = self.attempt {
            if now >= attempt.wanted + REKEY_ATTEMPT_TIME {
                self.attempt = None;
                self.rekey_wanted = false;
                return Some(Due::GaveUp);
            }
            if now >= attempt.retry_at {
                return Some(Due::InitiateUnheard);
            }
        }
        let silent = take_due(&mut self.doubt_at, now);
        let wanted = std::mem::take(&mut self.rekey_wanted);
        let may = self.attempt.is_none() && (silent || wanted) && self.begin(now);
        may.then_some(if silent { Due::InitiateUnheard } else { Due::Initiate })
    }

    fn poll_session(&mut self, now: Instant) -> Option<Due> {
        if self.current.is_some_and(|session| !session.is_young(now)) {
            self.session_lost();
            if self.attempt.is_none() {
                return Some(Due::Died);
            }
        }
        if take_due(&mut self.answer_by, now) && self.current.is_some() {
            return Some(Due::Keepalive);
        }
        take_due(&mut self.forget_at, now).then(|| {
            self.session_lost();
            Due::Forget
        })
    }

    fn want_rekey(&mut self, now: Instant) {
        if self.attempt.is_none() && !self.rekey_wanted {
            self.rekey_wanted = true;
            self.arm(now);
        }
    }

    fn initiated_for(&self, age: Duration, now: Instant) -> bool {
        self.current.is_some_and(|session| session.initiator && now >= session.at + age)
    }

    fn deadlines(&self) -> [Option<Instant>; 5] {
        [
            self.attempt.map(|attempt| attempt.due_at()),
            self.doubt_at,
            self.current.map(|session| session.at + REJECT_AFTER_TIME),
            self.answer_by,
            self.forget_at,
        ]
    }
}

/// Clears a deadline that has passed.
fn take_due(deadline: &mut Option<Instant>, now: Instant) -> bool {
    deadline.take_if(|at| now >= *at).is_some()
}
