//! Whether what `up` has made is there still: `nft flush ruleset`, or a manager of networks, takes away what keeps a
//! tunnel's traffic in it, and nobody notices.

use super::{
    journal::{Made, Record},
    net::Net,
    steps,
};

/// What others have taken from an interface that is up, for people. Nothing for what cannot be looked at.
pub(super) async fn taken_away(name: &str) -> Vec<String> {
    let Ok(Some(record)) = Record::read(name) else { return Vec::new() };
    let is_up = record.is_complete && record.link().is_some_and(|link| steps::is_running(name, link));
    let Ok(net) = Net::open() else { return Vec::new() };
    let mut gone = Vec::new();
    for made in record.to_undo().filter(|_| is_up) {
        match made {
            Made::Rule(rule) => {
                let Ok(rules) = net.rules(rule.family).await else { continue };
                if !rules.iter().any(|any| any.rule == Some(*rule)) {
                    gone.push(format!(
                        "a routing rule of {} (priority {})",
                        rule.family.spoken(),
                        rule.priority
                    ));
                }
            }
            Made::Firewall(firewall) if firewall.is_set(name) == Some(false) => {
                gone.push(format!("the firewall of {} (by {})", firewall.family.spoken(), firewall.tool));
            }
            _ => {}
        }
    }
    gone
}
