//! What is to be done: from the configuration and what is there to steps, and from what is there to what `up` must have
//! made. No system calls.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    firewall::Firewall,
    journal::{Made, ValidMark},
    net::{Family, Route},
    rules::{AnyRule, PROTOCOL, Rule, RuleKind, next_priority},
};
use crate::{Trouble, config::Config};

/// The first table for default routes, and the mark that goes with it: what `wg-quick` begins with.
const FIRST_TABLE: u32 = 51_820;

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The daemon marks its own datagrams.
    Mark(u32),
    /// A route to the interface.
    Route {
        /// Whereto.
        network: IpNet,
        /// In which table.
        table: u32,
    },
    /// Removes a rule of ours that no record knows.
    Forget(Rule),
    /// A routing rule.
    Rule(Rule),
    /// The kernel looks at marks when it checks the reverse path of what comes in.
    ValidMark(ValidMark),
    /// The firewall of one family.
    Firewall {
        /// Which.
        family: Family,
        /// The daemon's mark.
        mark: u32,
    },
}

/// Where routes go, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The main table, or one of our own for default routes.
    Auto,
    /// This table.
    Table(u32),
}

/// What is there when routes are planned.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// The interface's index.
    pub(super) index: u32,
    /// The daemon's mark; 0 is none.
    pub(super) mark: u32,
    pub(super) routes: Vec<Route>,
    pub(super) rules: Vec<(Family, AnyRule)>,
    /// What other tunnels have made, or promised to.
    pub(super) promised: Vec<Made>,
    /// The value of `src_valid_mark`.
    pub(super) valid_mark: String,
}

/// Every allowed IP that is in force, the most specific first.
pub(super) fn routed_networks(config: &Config) -> Vec<IpNet> {
    let mut networks = config.allowed_ips();
    networks.sort_by_key(|network| std::cmp::Reverse((network.prefix_len(), *network)));
    networks
}

/// True when routes to `networks` need rules, which all tunnels share.
pub(super) fn needs_rules(networks: &[IpNet], target: Target) -> bool {
    target == Target::Auto && networks.iter().any(is_default)
}

fn is_default(network: &IpNet) -> bool {
    network.prefix_len() == 0
}

/// The routes to `networks`, and what goes with those to everywhere.
pub(super) fn routing(
    networks: &[IpNet],
    target: Target,
    around: &Surroundings,
) -> Result<Vec<Step>, Trouble> {
    let mut steps = Vec::new();
    let mut mark = around.mark;
    for network in networks.iter().copied() {
        match target {
            Target::Table(table) => steps.push(Step::Route { network, table }),
            Target::Auto if is_default(&network) => {
                if mark == 0 {
                    mark = around.free_table();
                    steps.push(Step::Mark(mark));
                    steps.extend(around.forgotten(mark).map(Step::Forget));
                }
                steps.extend(around.everywhere(network, mark)?);
            }
            Target::Auto if around.covers(&network) => {}
            Target::Auto => steps.push(Step::Route { network, table: Route::MAIN }),
        }
    }
    Ok(steps)
}

impl Surroundings {
    /// Sends everything through the tunnel, but for the tunnel's own datagrams, which carry a mark.
    fn everywhere(&self, network: IpNet, mark: u32) -> Result<Vec<Step>, Trouble> {
        let family = Family::of(&network);
        let priority = next_priority(&self.priorities(family))
            .ok_or_else(|| Trouble::new("there is no room for one more routing rule"))?;
        let rule = |priority, kind| Step::Rule(Rule { family, priority, protocol: PROTOCOL, kind });
        let mut steps = vec![
            Step::Route { network, table: mark },
            // First, lest what goes to the neighbours takes the tunnel for a moment.
            rule(priority - 1, RuleKind::MainButDefault),
            rule(priority, RuleKind::Unmarked(mark)),
        ];
        if family == Family::V4 {
            steps.push(Step::ValidMark(self.valid_mark_before()));
        }
        steps.push(Step::Firewall { family, mark });
        Ok(steps)
    }

    /// True when the main table sends all of `network` to the interface already.
    fn covers(&self, network: &IpNet) -> bool {
        let ours = |route: &&Route| route.table == Route::MAIN && route.interface == Some(self.index);
        self.routes.iter().filter(ours).any(|route| route.destination.contains(network))
    }

    fn promised_rules(&self) -> impl Iterator<Item = Rule> {
        self.promised.iter().filter_map(|made| match made {
            Made::Rule(rule) => Some(*rule),
            _ => None,
        })
    }

    /// The first table with nothing in it, to which no rule of others leads, and of which no record speaks: its rules may
    /// be there still, or soon.
    fn free_table(&self) -> u32 {
        let mut taken: BTreeSet<_> = self.routes.iter().map(|route| route.table).collect();
        taken.extend(self.rules.iter().filter(|(_, any)| !any.is_ours()).map(|(_, any)| any.table));
        taken.extend(self.promised_rules().filter_map(|rule| match rule.kind {
            RuleKind::Unmarked(table) => Some(table),
            RuleKind::MainButDefault => None,
        }));
        (FIRST_TABLE..).find(|table| !taken.contains(table)).unwrap_or(FIRST_TABLE)
    }

    fn priorities(&self, family: Family) -> Vec<u32> {
        let there = self.rules.iter().filter(|(of, _)| *of == family).map(|(_, rule)| rule.priority);
        let promised = self.promised_rules().filter(|rule| rule.family == family).map(|rule| rule.priority);
        there.chain(promised).collect()
    }

    /// Rules of ours to an empty table of which no record speaks: their record is lost.
    fn forgotten(&self, table: u32) -> impl Iterator<Item = Rule> {
        pairs(self, move |_, rule| rule.kind == RuleKind::Unmarked(table) && rule.is_ours())
    }

    /// If another tunnel needs the switch, it is what that one found.
    fn valid_mark_before(&self) -> ValidMark {
        let found = self.promised.iter().find_map(|made| match made {
            Made::ValidMark(before) => Some(before.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| {
            let rules = self.rules.iter().filter(|(family, _)| *family == Family::V4).map(|(_, rule)| rule);
            ValidMark { value: self.valid_mark.clone(), tables: tables_of_others(rules, &self.routes) }
        })
    }
}

/// Every pair of rules of which `is_wanted` says so by the one about the mark.
fn pairs(around: &Surroundings, is_wanted: impl Fn(Family, &Rule) -> bool) -> impl Iterator<Item = Rule> {
    let all = || around.rules.iter().filter_map(|(_, any)| any.rule);
    all().filter(move |rule| is_wanted(rule.family, rule)).flat_map(move |rule| {
        let partner =
            Rule { priority: rule.priority.saturating_sub(1), kind: RuleKind::MainButDefault, ..rule };
        all().find(|other| *other == partner).into_iter().chain([rule])
    })
}

/// What was made beside an interface of which there is no record, such as by `wg-quick`: the rules by its mark, if they
/// lead to it, and the firewalls of its name.
pub(super) fn found(around: &Surroundings) -> Vec<Made> {
    let leads_here = |family, table| {
        let ours = |route: &&Route| route.table == table && route.interface == Some(around.index);
        around.routes.iter().filter(ours).any(|route| Family::of(&route.destination) == family)
    };
    let is_its = |family, rule: &Rule| {
        around.mark != 0 && rule.kind == RuleKind::Unmarked(around.mark) && leads_here(family, around.mark)
    };
    let rules = pairs(around, is_its).map(Made::Rule);
    let firewalls = Firewall::any().map(Made::Firewall);
    rules.chain(firewalls).collect()
}

/// The tables, with something of others in them, to which rules that are not ours send packets without a mark: who made them may
/// need `src_valid_mark`, too.
pub(super) fn tables_of_others<'a>(
    rules: impl IntoIterator<Item = &'a AnyRule>,
    routes: &[Route],
) -> BTreeSet<u32> {
    let theirs = rules.into_iter().filter(|any| any.is_unmarked && !any.is_ours());
    let tables: BTreeSet<_> = theirs.map(|any| any.table).collect();
    tables
        .into_iter()
        .filter(|table| routes.iter().any(|route| route.table == *table && !route.is_ours))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYWHERE: &str = "0.0.0.0/0";

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn route(table: u32, destination: &str, interface: u32) -> Route {
        Route {
            table,
            destination: destination.parse().expect("a network"),
            interface: Some(interface),
            is_ours: false,
        }
    }

    fn rule(priority: u32, kind: RuleKind) -> Rule {
        Rule { family: Family::V4, priority, protocol: PROTOCOL, kind }
    }

    fn any(rule: Rule) -> (Family, AnyRule) {
        (rule.family, AnyRule::of(rule.family, &rule.message()))
    }

    /// A kernel's own rules, and an interface of index 7.
    fn bare() -> Surroundings {
        let rules = [0, 32_766, 32_767]
            .map(|priority| (Family::V4, AnyRule { priority, table: 0, is_unmarked: false, rule: None }))
            .into();
        Surroundings { index: 7, rules, valid_mark: "0".to_owned(), ..Surroundings::default() }
    }

    #[test]
    fn a_default_route_has_a_table_two_rules_and_a_firewall() {
        let steps = routing(&networks(&[EVERYWHERE]), Target::Auto, &bare()).expect("a plan");
        assert_eq!(
            steps,
            [
                Step::Mark(51_820),
                Step::Route { network: networks(&[EVERYWHERE])[0], table: 51_820 },
                Step::Rule(rule(32_764, RuleKind::MainButDefault)),
                Step::Rule(rule(32_765, RuleKind::Unmarked(51_820))),
                Step::ValidMark(ValidMark { value: "0".to_owned(), tables: BTreeSet::new() }),
                Step::Firewall { family: Family::V4, mark: 51_820 },
            ]
        );
    }

    #[test]
    fn a_table_or_a_priority_that_a_record_speaks_of_is_taken() {
        let mut around = bare();
        let found = ValidMark { value: "2".to_owned(), tables: [7].into() };
        around.routes = vec![route(51_820, EVERYWHERE, 3)];
        around.promised = vec![
            Made::Rule(rule(32_765, RuleKind::Unmarked(51_821))),
            Made::Rule(rule(32_764, RuleKind::MainButDefault)),
            Made::ValidMark(found.clone()),
        ];
        let steps = routing(&networks(&[EVERYWHERE]), Target::Auto, &around).expect("a plan");
        assert_eq!(steps[0], Step::Mark(51_822));
        assert!(steps.contains(&Step::Rule(rule(32_763, RuleKind::Unmarked(51_822)))), "{steps:?}");
        assert!(steps.contains(&Step::ValidMark(found)), "{steps:?}");
    }

    #[test]
    fn rules_of_ours_whose_record_is_lost_are_not_added_to() {
        let mut around = bare();
        let lost = [rule(32_764, RuleKind::MainButDefault), rule(32_765, RuleKind::Unmarked(51_820))];
        around.rules.extend(lost.map(any));
        let steps = routing(&networks(&[EVERYWHERE]), Target::Auto, &around).expect("a plan");
        assert_eq!(steps[1..3], lost.map(Step::Forget));
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::Forget(_))).count(), 2);
    }

    #[test]
    fn a_table_to_which_others_lead_is_not_ours_to_fill() {
        let mut around = bare();
        around.rules.push(any(Rule { protocol: 3, ..rule(100, RuleKind::Unmarked(51_820)) }));
        let steps = routing(&networks(&[EVERYWHERE]), Target::Auto, &around).expect("a plan");
        assert_eq!(steps[0], Step::Mark(51_821));
    }

    #[test]
    fn what_the_addresses_cover_has_its_route_already() {
        let mut around = bare();
        around.routes = vec![route(Route::MAIN, "10.7.0.0/24", 7), route(Route::MAIN, "10.8.0.0/16", 3)];
        let wanted = networks(&["10.7.0.9/32", "10.8.0.0/24"]);
        let steps = routing(&wanted, Target::Auto, &around).expect("a plan");
        assert_eq!(steps, [Step::Route { network: wanted[1], table: Route::MAIN }]);
        assert_eq!(routing(&wanted, Target::Table(9), &around).expect("a plan").len(), 2);
    }

    #[test]
    fn without_a_record_only_rules_that_lead_to_the_interface_are_found() {
        let wg_quicks = |priority, kind| Rule { protocol: 3, ..rule(priority, kind) };
        let (one, two) = (RuleKind::Unmarked(51_820), RuleKind::Unmarked(51_821));
        let mut around = bare();
        around.mark = 51_820;
        around.rules.extend([
            any(wg_quicks(32_762, RuleKind::MainButDefault)), // the other tunnel's
            any(wg_quicks(32_763, two)),
            any(wg_quicks(32_764, RuleKind::MainButDefault)),
            any(wg_quicks(32_765, one)),
        ]);
        let rules = |around: &Surroundings| {
            let found = found(around).into_iter();
            found.filter(|made| matches!(made, Made::Rule(_))).collect::<Vec<_>>()
        };
        assert_eq!(rules(&around), [], "the mark alone makes nobody an owner");
        around.routes = vec![route(51_820, EVERYWHERE, 7), route(51_821, EVERYWHERE, 8)];
        assert_eq!(
            rules(&around),
            [Made::Rule(wg_quicks(32_764, RuleKind::MainButDefault)), Made::Rule(wg_quicks(32_765, one))]
        );
    }

    #[test]
    fn a_strangers_rule_needs_the_switch_if_it_leads_anywhere() {
        let theirs = any(Rule { protocol: 3, ..rule(9, RuleKind::Unmarked(7)) }).1;
        let ours = any(rule(9, RuleKind::Unmarked(8))).1;
        let routes = [route(8, EVERYWHERE, 1)];
        assert_eq!(tables_of_others(&[theirs, ours], &routes), [].into());
        assert_eq!(tables_of_others(&[theirs, ours], &[route(7, EVERYWHERE, 1)]), [7].into());
    }
}
