//! Routing rules: the two that go with a default route, and how they are told apart from everybody else's.

use std::{fmt, str::FromStr};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteHeader, RouteProtocol},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::net::Family;

/// Who made a rule or a route (`FRA_PROTOCOL` and `RTA_PROTOCOL`): us. Above the kernel's own numbers
/// (linux/rtnetlink.h), and none that iproute2's `rt_protos` or a routing daemon uses.
pub(super) const PROTOCOL: u8 = 118;

/// The priorities that anybody may take: 0 is the local table's, 32766 the main table's (net/ipv4/fib_rules.c).
const PRIORITIES: std::ops::Range<u32> = 1..32_766;

/// A rule as `wg-quick` makes them, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) priority: u32,
    pub(super) protocol: u8,
    pub(super) kind: RuleKind,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuleKind {
    /// Packets without the mark go by the table of the same number.
    Unmarked(u32),
    /// The main table decides, except by its default route.
    MainButDefault,
}

/// A rule of anybody's.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnyRule {
    pub(super) priority: u32,
    /// Where it leads.
    pub(super) table: u32,
    /// It is about packets that do not carry some mark.
    pub(super) is_unmarked: bool,
    /// If it is one that we, or `wg-quick`, may have made.
    pub(super) rule: Option<Rule>,
}

impl Rule {
    pub(super) fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// The message that makes it, and that deletes it and no other.
    pub(super) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = match self.family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(self.protocol)));
        match self.kind {
            RuleKind::Unmarked(table) => {
                message.header.flags = RuleFlags::Invert;
                message.attributes.push(RuleAttribute::FwMark(table));
                message.attributes.push(RuleAttribute::Table(table));
            }
            RuleKind::MainButDefault => {
                message.header.table = RouteHeader::RT_TABLE_MAIN;
                message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
            }
        }
        message
    }
}

impl AnyRule {
    pub(super) fn is_ours(&self) -> bool {
        self.rule.is_some_and(|rule| rule.is_ours())
    }

    pub(super) fn of(family: Family, message: &RuleMessage) -> Self {
        let (mut priority, mut protocol, mut mark, mut suppressed) = (0, 0, None, None);
        let mut table = u32::from(message.header.table);
        let mut narrow = false;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(told) => priority = *told,
                RuleAttribute::Protocol(told) => protocol = (*told).into(),
                RuleAttribute::Table(told) => table = *told,
                RuleAttribute::FwMark(told) => mark = Some(*told),
                RuleAttribute::SuppressPrefixLen(told) if *told != u32::MAX => suppressed = Some(*told),
                RuleAttribute::SuppressPrefixLen(_) | RuleAttribute::FwMask(u32::MAX) => {}
                RuleAttribute::Iifname(_)
                | RuleAttribute::Oifname(_)
                | RuleAttribute::Source(_)
                | RuleAttribute::Destination(_)
                | RuleAttribute::FwMask(_)
                | RuleAttribute::UidRange(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_) => narrow = true,
                _ => {}
            }
        }
        let inverted = message.header.flags.contains(RuleFlags::Invert);
        let kind = match (mark, suppressed) {
            (Some(mark), None) if inverted && mark == table => Some(RuleKind::Unmarked(table)),
            (None, Some(0)) if !inverted && table == u32::from(RouteHeader::RT_TABLE_MAIN) => {
                Some(RuleKind::MainButDefault)
            }
            _ => None,
        };
        let rule = kind.filter(|_| !narrow).map(|kind| Rule { family, priority, protocol, kind });
        Self { priority, table, is_unmarked: inverted && mark.is_some(), rule }
    }
}

/// Where the next pair of rules goes: the priority of the second; the first has the one before.
///
/// Before everything but the local table, as the kernel places rules that tell no priority. `taken` are those in use,
/// or promised in another tunnel's record.
pub(super) fn next_priority(taken: &[u32]) -> Option<u32> {
    let lowest = taken.iter().copied().filter(|priority| *priority > 0).min().unwrap_or(PRIORITIES.end);
    let first = lowest.min(PRIORITIES.end).saturating_sub(1);
    if PRIORITIES.contains(&first.saturating_sub(1)) {
        return Some(first);
    }
    // Years of coming and going, or somebody at the very front: as far back as there is room.
    let is_free = |priority: &u32| !taken.contains(priority) && !taken.contains(&(priority - 1));
    (PRIORITIES.start + 1..PRIORITIES.end).rev().find(is_free)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, priority, protocol, kind } = self;
        write!(f, "{family} {priority} {protocol} ")?;
        match kind {
            RuleKind::Unmarked(table) => write!(f, "unmarked {table}"),
            RuleKind::MainButDefault => f.write_str("main"),
        }
    }
}

impl FromStr for Rule {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<_> = text.split(' ').collect();
        let [family, priority, protocol, kind @ ..] = &*words else { return Err(()) };
        let number = |word: &str| word.parse::<u32>().map_err(drop);
        let kind = match kind {
            ["unmarked", table] => RuleKind::Unmarked(number(table)?),
            ["main"] => RuleKind::MainButDefault,
            _ => return Err(()),
        };
        let protocol = protocol.parse().map_err(drop)?;
        Ok(Self { family: family.parse()?, priority: number(priority)?, protocol, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_recognized_in_what_the_kernel_tells() {
        for kind in [RuleKind::Unmarked(51_820), RuleKind::Unmarked(77), RuleKind::MainButDefault] {
            let rule = Rule { family: Family::V6, priority: 9, protocol: PROTOCOL, kind };
            let seen = AnyRule::of(Family::V6, &rule.message());
            assert_eq!((seen.priority, seen.rule), (9, Some(rule)));
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    #[test]
    fn a_strangers_rule_is_not_taken_for_one_of_a_pair() {
        let rule = Rule { family: Family::V4, priority: 9, protocol: 3, kind: RuleKind::Unmarked(7) };
        let but = |change: fn(&mut RuleMessage)| {
            let mut message = rule.message();
            change(&mut message);
            AnyRule::of(Family::V4, &message)
        };
        let mullvad = but(|message| message.attributes.push(RuleAttribute::Table(8)));
        assert!(mullvad.rule.is_none() && mullvad.is_unmarked && mullvad.table == 8);
        assert!(but(|message| message.header.flags = RuleFlags::empty()).rule.is_none());
        assert!(but(|message| message.attributes.push(RuleAttribute::FwMask(255))).rule.is_none());
        assert!(but(|message| message.attributes.push(RuleAttribute::Iifname("lan".into()))).rule.is_none());
    }

    #[test]
    fn a_pair_goes_before_everything_that_is_there() {
        assert_eq!(next_priority(&[0, 32_766, 32_767]), Some(32_765));
        assert_eq!(next_priority(&[0, 32_764, 32_765, 32_766, 32_767]), Some(32_763));
        assert_eq!(next_priority(&[0, 5_210, 32_766, 32_767]), Some(5_209));
        assert_eq!(next_priority(&[0, 3, 32_766]), Some(2));
        // No room in front.
        assert_eq!(next_priority(&[0, 2, 32_765, 32_766]), Some(32_764));
        assert_eq!(next_priority(&PRIORITIES.collect::<Vec<_>>()), None);
    }
}
