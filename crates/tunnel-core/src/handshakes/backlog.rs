//! Handshake messages that wait for their turn: bounded, and fair to those who cannot be told apart.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
};

use encrypt::INITIATION_LEN;

use crate::Arrival;

/// This part of those that wait may be there for their address alone, which anybody can forge who knows it.
const KNOWN_PART: usize = 4;

/// One of so many strangers' messages is looked at while the backlog is full.
const LOOKED_AT: usize = 4;

/// For each message that is proven, so many that are not have their turn: a cookie costs a tenth of what a proven message
/// does, and without one nobody becomes proven.
const UNPROVEN_PER_PROVEN: u32 = 4;

/// What is known of the sender of a message. More is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Nothing.
    Unknown,
    /// It comes from an address where a peer of ours is, whatever its port: one that was restarted has another.
    Known,
    /// It carries a cookie of ours: it receives at its address.
    Proven,
}

/// A handshake message whose mac1 holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) from: Arrival,
    pub(crate) standing: Standing,
    len: u8,
    bytes: [u8; INITIATION_LEN],
}

impl Waiting {
    /// `None` if it is longer than an initiation.
    pub(crate) fn new(message: &[u8], from: Arrival, standing: Standing) -> Option<Self> {
        let mut bytes = [0; INITIATION_LEN];
        bytes.get_mut(..message.len())?.copy_from_slice(message);
        Some(Self { from, standing, len: u8::try_from(message.len()).ok()?, bytes })
    }

    pub(crate) fn message(&mut self) -> &mut [u8] {
        let len = usize::from(self.len);
        &mut self.bytes[..len]
    }
}

/// Messages by standing. Of each, the oldest is the next, until half of all places are taken: from then on any, at random.
///
/// When it is full, a message takes the place of another one, chosen at random among those of the lowest standing, unless all
/// others stand higher. So of a flood that could fill it many times each message has the same chance, whenever it came.
#[derive(Debug)]
pub(crate) struct Backlog {
    capacity: usize,
    proven: VecDeque<Waiting>,
    known: VecDeque<Waiting>,
    unknown: VecDeque<Waiting>,
    dice: Dice,
    /// Unproven messages that had their turn since the last proven one.
    unproven_in_a_row: u32,
    /// The last unproven one was a known one.
    was_known: bool,
}

impl Backlog {
    /// For at most so many messages.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            proven: VecDeque::new(),
            known: VecDeque::new(),
            unknown: VecDeque::new(),
            dice: Dice::default(),
            unproven_in_a_row: 0,
            was_known: false,
        }
    }

    /// Drops all, and gives how many there were.
    pub(crate) fn clear(&mut self) -> usize {
        let dropped = self.len();
        *self = Self::new(self.capacity);
        dropped
    }

    pub(crate) fn len(&self) -> usize {
        self.proven.len() + self.known.len() + self.unknown.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a message of an unknown sender is not worth a look, for it is one of a flood that fills the backlog many times. One of
    /// four is, whichever: what is let go so costs neither a hash nor a copy, and those that wait have the better chance.
    pub(crate) fn lets_go(&mut self) -> bool {
        let is_full = !self.is_empty() && self.len() >= self.capacity;
        is_full && self.dice.below(LOOKED_AT) != 0
    }

    /// Adds a message. Gives the one that finds no room: another one, or this.
    pub(crate) fn push(&mut self, message: Waiting) -> Option<Waiting> {
        let standing = match message.standing {
            Standing::Known if self.known.len() >= self.capacity / KNOWN_PART => Standing::Unknown,
            standing => standing,
        };
        if self.len() < self.capacity {
            self.lane(standing).push_back(message);
            return None;
        }
        let below = [Standing::Unknown, Standing::Known, Standing::Proven]
            .into_iter()
            .find(|below| *below <= standing && !self.lane(*below).is_empty());
        let Some(below) = below else { return Some(message) };
        let waiting = self.lane(below).len();
        let at = self.dice.below(waiting);
        let lane = self.lane(below);
        if below == standing {
            return lane.get_mut(at).map(|place| std::mem::replace(place, message));
        }
        let gone = lane.swap_remove_back(at);
        self.lane(standing).push_back(message);
        gone
    }

    /// The message whose turn it is.
    pub(crate) fn take(&mut self) -> Option<Waiting> {
        let unproven = !(self.known.is_empty() && self.unknown.is_empty());
        let next = if unproven && (self.proven.is_empty() || self.unproven_in_a_row < UNPROVEN_PER_PROVEN) {
            self.unproven_in_a_row = self.unproven_in_a_row.saturating_add(1);
            self.take_unproven()
        } else {
            self.unproven_in_a_row = 0;
            self.take_from(Standing::Proven)
        };
        self.shrink();
        next
    }

    /// Known and unknown ones take turns.
    fn take_unproven(&mut self) -> Option<Waiting> {
        let known = !self.known.is_empty() && (self.unknown.is_empty() || !self.was_known);
        self.was_known = known;
        self.take_from(if known { Standing::Known } else { Standing::Unknown })
    }

    fn take_from(&mut self, standing: Standing) -> Option<Waiting> {
        let is_crowded = self.len() > self.capacity / 2;
        let waiting = self.lane(standing).len();
        let at = if is_crowded { self.dice.below(waiting) } else { 0 };
        self.lane(standing).swap_remove_front(at)
    }

    /// Gives memory back once nothing waits any more.
    fn shrink(&mut self) {
        if self.is_empty() {
            for lane in [&mut self.proven, &mut self.known, &mut self.unknown] {
                *lane = VecDeque::new();
            }
        }
    }

    fn lane(&mut self, standing: Standing) -> &mut VecDeque<Waiting> {
        match standing {
            Standing::Proven => &mut self.proven,
            Standing::Known => &mut self.known,
            Standing::Unknown => &mut self.unknown,
        }
    }
}

/// Numbers that whoever sends messages cannot foresee: hashes by a key of this process.
#[derive(Debug, Default)]
struct Dice {
    key: RandomState,
    thrown: u64,
}

impl Dice {
    /// A number below `sides`, or 0.
    fn below(&mut self, sides: usize) -> usize {
        self.thrown += 1;
        let hash = self.key.hash_one(self.thrown);
        ((u128::from(hash) * sides as u128) >> u64::BITS) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 4096;

    fn message(serial: u32, standing: Standing) -> Waiting {
        let from = Arrival::from((serial.to_be_bytes(), 1).into());
        Waiting::new(&serial.to_be_bytes(), from, standing).unwrap()
    }

    fn serial(mut message: Waiting) -> u32 {
        u32::from_be_bytes(message.message().try_into().unwrap())
    }

    fn take_all(backlog: &mut Backlog) -> Vec<Waiting> {
        std::iter::from_fn(|| backlog.take()).collect()
    }

    fn full_of(standing: Standing) -> Backlog {
        let mut backlog = Backlog::new(CAPACITY);
        for n in 0..CAPACITY as u32 {
            assert!(backlog.push(message(n, standing)).is_none());
        }
        backlog
    }

    #[test]
    fn messages_of_one_standing_wait_in_order() {
        for standing in [Standing::Unknown, Standing::Known, Standing::Proven] {
            let mut backlog = Backlog::new(CAPACITY);
            (0..1000).for_each(|n| assert!(backlog.push(message(n, standing)).is_none()));
            let order: Vec<u32> = take_all(&mut backlog).into_iter().map(serial).collect();
            assert_eq!(order, (0..1000).collect::<Vec<_>>(), "{standing:?}");
        }
    }

    #[test]
    fn a_message_longer_than_an_initiation_does_not_wait() {
        let from = Arrival::from(([192, 0, 2, 1], 1).into());
        assert!(Waiting::new(&[0; INITIATION_LEN], from, Standing::Unknown).is_some());
        assert!(Waiting::new(&[0; INITIATION_LEN + 1], from, Standing::Unknown).is_none());
    }

    #[test]
    fn proven_ones_come_first_yet_stop_nobody() {
        use Standing::{Known, Proven, Unknown};
        let mut backlog = Backlog::new(CAPACITY);
        for (standing, count) in [(Unknown, 20), (Known, 4), (Proven, 4)] {
            (0..count).for_each(|n| assert!(backlog.push(message(n, standing)).is_none()));
        }
        backlog.unproven_in_a_row = UNPROVEN_PER_PROVEN;
        let order: Vec<Standing> =
            take_all(&mut backlog).into_iter().map(|message| message.standing).collect();
        assert_eq!(
            order[..12],
            [Proven, Known, Unknown, Known, Unknown, Proven, Known, Unknown, Known, Unknown, Proven, Unknown]
        );
        assert_eq!(order.len(), 28);
    }

    #[test]
    fn a_flood_of_unproven_ones_never_pushes_a_better_one_out() {
        let mut backlog = full_of(Standing::Unknown);
        for n in 0..100 {
            let gone = backlog.push(message(n, Standing::Proven)).unwrap();
            assert_eq!(gone.standing, Standing::Unknown);
            let gone = backlog.push(message(n, Standing::Known)).unwrap();
            assert_eq!(gone.standing, Standing::Unknown);
        }
        for n in 0..100_000 {
            assert_eq!(backlog.push(message(n, Standing::Unknown)).unwrap().standing, Standing::Unknown);
        }
        assert_eq!((backlog.proven.len(), backlog.known.len(), backlog.len()), (100, 100, CAPACITY));

        let mut backlog = full_of(Standing::Proven);
        assert_eq!(serial(backlog.push(message(7777, Standing::Unknown)).unwrap()), 7777);
        assert_eq!(serial(backlog.push(message(7778, Standing::Known)).unwrap()), 7778);
    }

    #[test]
    fn forged_addresses_of_peers_leave_room_for_strangers() {
        let backlog = full_of(Standing::Known);
        assert_eq!((backlog.known.len(), backlog.unknown.len()), (1024, 3072));
    }

    #[test]
    fn each_message_of_a_flood_has_the_same_chance() {
        // Four times as many come as have their turn: 64 at once, of which each is one of eight parts.
        let mut backlog = full_of(Standing::Unknown);
        let mut by_part = [0; 8];
        for round in 0..3000 {
            for n in 0..64 {
                let _ = backlog.push(message(n, Standing::Unknown));
            }
            for _ in 0..16 {
                let part = serial(backlog.take().unwrap()) as usize / 8 % 8;
                by_part[part] += u32::from(round > 1000);
            }
        }
        let (least, most) = (by_part.iter().min().unwrap(), by_part.iter().max().unwrap());
        assert!(5 * *least > 4 * *most, "{by_part:?}");
    }

    #[test]
    fn nothing_waiting_holds_no_memory() {
        let mut backlog = full_of(Standing::Unknown);
        backlog.push(message(1, Standing::Proven));
        assert_eq!(take_all(&mut backlog).len(), CAPACITY);
        assert!(backlog.proven.capacity() + backlog.known.capacity() + backlog.unknown.capacity() == 0);
        assert!(size_of::<Waiting>() * CAPACITY < 1 << 20);
    }
}
