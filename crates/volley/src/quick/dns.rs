//! Name servers, by way of resolvconf.

use std::fs;

use super::{children::feed, locks::Lock};
use crate::{
    Trouble, WithFix,
    config::Interface,
    output,
    programs::{command, is_installed},
};

/// The name of the interface's entry at resolvconf, if it gives anything to the system. Search domains without a server
/// are not given, as `wg-quick` gives none.
pub(super) fn entry(name: &str, interface: &Interface) -> Option<String> {
    (!interface.dns.is_empty()).then(|| entry_name(name))
}

/// The same, if nobody knows whether it has one.
pub(super) fn entry_of_anybody(name: &str) -> Option<String> {
    is_installed("resolvconf").then(|| entry_name(name))
}

/// Gives the name servers to the system.
pub(super) async fn set(entry: &str, interface: &Interface, lock: &Lock) -> Result<(), Trouble> {
    let servers = interface.dns.iter().map(|server| format!("nameserver {server}\n"));
    let mut lines: String = servers.collect();
    if !interface.dns_search.is_empty() {
        lines += &format!("search {}\n", interface.dns_search.join(" "));
    }
    let given = feed(command("resolvconf").args(["-a", entry, "-m", "0", "-x"]), &lines, lock).await;
    given.map_err(|error| {
        Trouble::new(format!("cannot set DNS with resolvconf: {error}"))
            .fix("install resolvconf (openresolv or systemd-resolved's), or take DNS out of the file")
    })
}

/// Says what of the file is not given to anybody.
pub(super) fn warn(interface: &Interface) {
    if interface.dns.is_empty() && !interface.dns_search.is_empty() {
        let domains = interface.dns_search.join(" ");
        output::notice(format_args!(
            "volley: warning: DNS names no server, so the search domains are not set: {domains}"
        ));
    }
}

/// Takes an entry back; one that is gone is no error to resolvconf.
pub(super) async fn unset(entry: &str, lock: &Lock) -> Result<(), Trouble> {
    let taken = feed(command("resolvconf").args(["-d", entry, "-f"]), "", lock).await;
    taken.or_trouble("cannot take the name servers back with resolvconf")
}

/// resolvconf may order interfaces by the first part of a dotted name.
fn entry_name(name: &str) -> String {
    let order = fs::read_to_string("/etc/resolvconf/interface-order").unwrap_or_default();
    let plain = |prefix: &&str| {
        !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match order.lines().filter_map(|line| line.strip_suffix('*')).find(plain) {
        Some(prefix) => format!("{prefix}.{name}"),
        None => name.to_owned(),
    }
}
