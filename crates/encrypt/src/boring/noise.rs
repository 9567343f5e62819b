//! boringtun's states for one peer: the one that makes and answers handshakes, and those from before it.

use std::{sync::Arc, time::Instant};

use boringtun::noise::errors::WireGuardError;

use super::{
    Shared,
    generation::{Generation, Plaintext, SessionId, Slot},
};
use crate::{MAX_CONTROL_LEN, PeerIndex, PresharedKey, PublicKey, Reject, SessionConfig, timers::Birth};

/// How many states from before are kept: that of the session that seals, that which knows the newest timestamp,
/// and one whose session the peer may have and we have not heard on yet.
const MAX_OLD: usize = 3;

/// All of boringtun's states for one peer.
pub(super) struct Noise {
    shared: Arc<Shared>,
    pub(super) peer: PublicKey,
    pub(super) index: PeerIndex,
    preshared_key: Option<PresharedKey>,
    /// Makes and answers handshakes, with the present pre-shared key. Started when first needed.
    young: Option<Generation>,
    /// From before the pre-shared key changed, oldest first. Their sessions go on; and the newest that has accepted
    /// an initiation vets the next one, until `young` has accepted one.
    old: Vec<Generation>,
    serial: u32,
    /// The session that seals.
    current: Option<SessionId>,
    /// The one that did before.
    previous: Option<SessionId>,
}

impl Noise {
    pub(super) fn new(shared: Arc<Shared>, config: SessionConfig) -> Self {
        let SessionConfig { peer, preshared_key, index } = config;
        Self {
            shared,
            peer,
            index,
            preshared_key,
            young: None,
            old: Vec::new(),
            serial: 0,
            current: None,
            previous: None,
        }
    }

    /// Changes the key of the handshakes to come. Those under way are forgotten, sessions are not.
    pub(super) fn set_preshared_key(&mut self, key: Option<PresharedKey>, now: Instant) {
        self.preshared_key = key;
        self.renew(now);
    }

    /// Ends all sessions and handshakes; what the peer has already sent stays known.
    pub(super) fn end(&mut self, now: Instant) {
        for generation in self.young.iter_mut().chain(&mut self.old) {
            generation.erase_sessions(&self.shared);
        }
        (self.current, self.previous) = (None, None);
        self.renew(now);
    }

    /// Makes handshakes start from scratch. After giving one up, too: boringtun would drop its sessions with it.
    pub(super) fn renew(&mut self, now: Instant) {
        self.old.extend(self.young.take());
        self.purge(now);
        if self.old.len() > MAX_OLD {
            let (witness, current) = (self.witness(), self.current.map(|id| id.generation));
            let is_needed = |generation: &Generation| [witness, current].contains(&Some(generation.serial));
            let spare = self.old.iter().position(|generation| !is_needed(generation)).unwrap_or(0);
            self.old.remove(spare);
        }
    }

    /// Makes the timestamps of the initiations to come follow a wall clock that was set.
    pub(super) fn follow_wall_clock(&mut self, now: Instant) {
        if self.young.as_ref().is_some_and(|young| young.stamps.are_behind()) {
            self.renew(now);
        }
    }

    /// Frees the states that nothing needs any more.
    pub(super) fn purge(&mut self, now: Instant) {
        if !self.old.is_empty() {
            let witness = self.witness();
            self.old.retain(|generation| generation.holds_young(now) || Some(generation.serial) == witness);
        }
    }

    /// The state that knows the newest timestamp.
    fn witness(&self) -> Option<u32> {
        let newest_first = self.young.iter().chain(self.old.iter().rev());
        newest_first
            .into_iter()
            .find(|generation| generation.has_accepted)
            .map(|generation| generation.serial)
    }

    /// Erases the keys of all sessions, and handshakes that have expired.
    pub(super) fn forget(&mut self, now: Instant) {
        for generation in self.young.iter_mut().chain(&mut self.old) {
            generation.erase_sessions(&self.shared);
        }
        self.purge(now);
        if let Some(young) = &mut self.young {
            // boringtun drops what has expired by its clock. A handshake it would rather go on with is not sent:
            // the caller knows that it was given up.
            let _ = young.update_timers(&mut [0; MAX_CONTROL_LEN]);
        }
    }

    #[inline]
    pub(super) fn seal<'a>(&mut self, plaintext: &[u8], out: &'a mut [u8]) -> Option<&'a [u8]> {
        let serial = self.current?.generation;
        self.generation(serial)?.seal(plaintext, out)
    }

    /// Opens a data message with whichever session it is for. Two may have its receiver index, and then its tag
    /// tells.
    #[inline]
    pub(super) fn open(
        &mut self,
        datagram: &[u8],
        receiver: u32,
        out: &mut [u8],
        now: Instant,
    ) -> Result<(SessionId, Slot, Plaintext), Reject> {
        let mut refused = Reject::NoSession;
        for generation in self.young.iter_mut().chain(self.old.iter_mut().rev()) {
            let Some(slot) = generation.slot(receiver, now) else { continue };
            match generation.open(datagram, out) {
                Ok(plaintext) => {
                    let id = SessionId { generation: generation.serial, index: receiver };
                    return Ok((id, slot, plaintext));
                }
                Err(reject) => refused = reject,
            }
        }
        Err(refused)
    }

    /// From now on this session seals.
    pub(super) fn confirm(&mut self, id: SessionId) {
        if let Some(generation) = self.generation(id.generation) {
            generation.confirm(id.index);
        }
        if self.current != Some(id) {
            self.previous = self.current.replace(id);
        }
    }

    pub(super) const fn current(&self) -> Option<SessionId> {
        self.current
    }

    /// Writes an initiation; gives its length.
    pub(super) fn write_initiation(&mut self, out: &mut [u8; MAX_CONTROL_LEN]) -> Option<usize> {
        let kept = self.kept();
        self.start().write_initiation(out, kept)
    }

    /// Reads an initiation; gives the length of the response, written into `out`.
    ///
    /// # Errors
    /// It does not authenticate, or is no newer than one accepted before, with whatever pre-shared key: no
    /// initiation depends on that key (§5.4.2).
    pub(super) fn read_initiation(
        &mut self,
        initiation: &[u8],
        out: &mut [u8],
        birth: Birth,
    ) -> Result<usize, Reject> {
        let kept = self.kept();
        if let Some(witness) = self.witness()
            && let Some(witness) = self.old.iter_mut().find(|generation| generation.serial == witness)
        {
            // Its response is for the old key, and is written over.
            witness.read_initiation(initiation, out, kept)?;
        }
        let young = self.start();
        let (index, len) = young.read_initiation(initiation, out, kept)?;
        young.store(index, birth);
        self.purge(birth.at);
        Ok(len)
    }

    /// Reads the response to our initiation; gives the new session and the length of the confirmation, written
    /// into `out`.
    pub(super) fn read_response(
        &mut self,
        response: &[u8],
        receiver: u32,
        out: &mut [u8],
        birth: Birth,
    ) -> Result<(SessionId, usize), Reject> {
        let young = self.young.as_mut().ok_or(Reject::NoSession)?;
        let len = young.read_response(response, out)?;
        young.store(receiver, birth);
        let id = SessionId { generation: young.serial, index: receiver };
        self.purge(birth.at);
        Ok((id, len))
    }

    pub(super) fn read_cookie_reply(&mut self, cookie_reply: &[u8]) -> Result<(), Reject> {
        self.young.as_mut().ok_or(Reject::NoSession)?.read_cookie_reply(cookie_reply)
    }

    /// See [`Generation::update_timers`].
    pub(super) fn update_timers(
        &mut self,
        out: &mut [u8; MAX_CONTROL_LEN],
    ) -> Result<Option<usize>, WireGuardError> {
        self.start().update_timers(out)
    }

    /// True when boringtun has the session that seals.
    pub(super) fn is_live(&self) -> bool {
        let serial = self.current.map(|id| id.generation);
        let mut generations = self.young.iter().chain(&self.old);
        generations.find(|generation| Some(generation.serial) == serial).is_some_and(Generation::is_live)
    }

    /// What no new session may be put in the place of.
    const fn kept(&self) -> [Option<SessionId>; 2] {
        [self.current, self.previous]
    }

    #[inline]
    fn generation(&mut self, serial: u32) -> Option<&mut Generation> {
        self.young.iter_mut().chain(&mut self.old).find(|generation| generation.serial == serial)
    }

    fn start(&mut self) -> &mut Generation {
        self.young.get_or_insert_with(|| {
            self.serial += 1;
            Generation::new(&self.shared, &self.peer, self.index, self.preshared_key.as_ref(), self.serial)
        })
    }

    /// As if the wall clock had been set forward by so much.
    #[cfg(test)]
    pub(super) fn set_wall_clock_forward(&mut self, by: std::time::Duration) {
        if let Some(young) = &mut self.young {
            young.stamps.put_back(by);
        }
    }

    /// How many states there are.
    #[cfg(test)]
    pub(super) fn states(&self) -> usize {
        self.young.iter().chain(&self.old).count()
    }
}
