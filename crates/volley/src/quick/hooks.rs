//! Other people's programs: hooks, resolvconf and nft.

use std::{
    fs, io,
    io::Write,
    process::{Command, Stdio},
};

use ipnet::IpNet;

use super::net::Family;
use crate::{Trouble, WithFix, config::Interface};

/// Runs commands with bash, as `wg-quick` does, or with sh where there is no bash. `%i` is the interface.
pub(super) fn run(hooks: &[String], interface: &str) -> Result<(), Trouble> {
    for hook in hooks {
        let hook = hook.replace("%i", interface);
        eprintln!("[#] {hook}");
        let shell = |program| Command::new(program).args(["-c", &hook]).status();
        let status = match shell("bash") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => shell("sh"),
            status => status,
        };
        let status = status.or_trouble("cannot start a shell for a hook")?;
        if !status.success() {
            return Err(Trouble::new(format!("the hook `{hook}` failed: {status}")));
        }
    }
    Ok(())
}

/// Gives the name servers to the system.
pub(super) fn set_dns(name: &str, interface: &Interface) -> Result<(), Trouble> {
    let (servers, domains) = (&interface.dns, &interface.dns_search);
    if servers.is_empty() && domains.is_empty() {
        return Ok(());
    }
    let mut lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !domains.is_empty() {
        lines += &format!("search {}\n", domains.join(" "));
    }
    feed(Command::new("resolvconf").args(["-a", &resolvconf_name(name), "-m", "0", "-x"]), &lines).map_err(
        |error| {
            Trouble::new(format!("cannot set DNS with resolvconf: {error}"))
                .fix("install resolvconf (openresolv or systemd-resolved's), or take DNS out of the file")
        },
    )
}

/// Takes them back.
pub(super) fn unset_dns(name: &str, interface: &Interface) {
    if !(interface.dns.is_empty() && interface.dns_search.is_empty()) {
        let _ = feed(Command::new("resolvconf").args(["-d", &resolvconf_name(name), "-f"]), "");
    }
}

/// resolvconf may order interfaces by the first part of a dotted name.
fn resolvconf_name(name: &str) -> String {
    let order = fs::read_to_string("/etc/resolvconf/interface-order").unwrap_or_default();
    let plain = |prefix: &&str| {
        !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match order.lines().filter_map(|line| line.strip_suffix('*')).find(plain) {
        Some(prefix) => format!("{prefix}.{name}"),
        None => name.to_owned(),
    }
}

/// The firewall that goes with a default route: replies keep the mark, so that strict reverse-path filters
/// let them in, and nobody reaches the tunnel's addresses from outside it.
pub(super) fn set_firewall(
    name: &str,
    family: Family,
    addresses: &[IpNet],
    mark: u32,
) -> Result<(), Trouble> {
    let kind = nft_family(family);
    let table = table_name(name);
    let ours = addresses.iter().filter(|address| Family::of(address) == family);
    let guards: String = ours
        .map(|address| {
            format!(
                "add rule {kind} {table} preraw iifname != \"{name}\" {kind} daddr {} fib saddr type != local drop\n",
                address.addr()
            )
        })
        .collect();
    let script = format!(
        "add table {kind} {table}\n\
         add chain {kind} {table} preraw {{ type filter hook prerouting priority -300; }}\n\
         add chain {kind} {table} premangle {{ type filter hook prerouting priority -150; }}\n\
         add chain {kind} {table} postmangle {{ type filter hook postrouting priority -150; }}\n\
         {guards}\
         add rule {kind} {table} postmangle meta l4proto udp mark {mark} ct mark set mark\n\
         add rule {kind} {table} premangle meta l4proto udp meta mark set ct mark\n"
    );
    feed(Command::new("nft").args(["-f", "-"]), &script).map_err(|error| {
        Trouble::new(format!("cannot set the firewall up with nft: {error}"))
            .fix("install nftables; or set `Table = off` and route by your own rules")
    })
}

/// Removes it.
pub(super) fn remove_firewall(name: &str) {
    for family in Family::ALL {
        let mut command = Command::new("nft");
        command.args(["delete", "table", nft_family(family), &table_name(name)]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// The same name that `wg-quick` uses, so that it can take down what we put up.
fn table_name(interface: &str) -> String {
    format!("wg-quick-{interface}")
}

const fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Runs a program that must succeed with `input` on its stdin.
fn feed(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}
