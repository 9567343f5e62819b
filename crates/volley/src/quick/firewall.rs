//! The firewall that goes with a default route: replies keep the mark, so that strict reverse-path filters
//! let them in, and nobody reaches the tunnel's addresses from outside it.
//!
//! Made by nft or, where there is none, by iptables, under the names that `wg-quick` uses: it can take down
//! what we put up, and we what it did.

use std::process::Stdio;

use ipnet::IpNet;

use super::{hooks::feed, net::Family};
use crate::{
    Trouble,
    programs::{command, is_installed},
};

pub(super) fn set(interface: &str, family: Family, addresses: &[IpNet], mark: u32) -> Result<(), Trouble> {
    let addresses: Vec<_> =
        addresses.iter().copied().filter(|address| Family::of(address) == family).collect();
    let restore = format!("{}-restore", iptables(family));
    let (program, done) = if is_installed("nft") {
        let script = nft_script(interface, family, &addresses, mark);
        ("nft", feed(command("nft").args(["-f", "-"]), &script))
    } else if is_installed(&restore) {
        let script = iptables_script(interface, &addresses, mark);
        (restore.as_str(), feed(command(&restore).arg("-n"), &script))
    } else {
        return Err(Trouble::new("there is neither nft nor iptables to set the firewall up with")
            .fix("install nftables; or set `Table = off` and route by your own rules"));
    };
    done.map_err(|error| {
        Trouble::new(format!("cannot set the firewall up with {program}: {error}"))
            .fix("load the firewall's kernel modules (modprobe nf_tables), or set `Table = off`")
    })
}

/// Removes what there is; nothing is not an error.
pub(super) fn remove(interface: &str) {
    for family in Family::ALL {
        if is_installed("nft") {
            let mut nft = command("nft");
            nft.args(["delete", "table", nft_family(family), &table_name(interface)]);
            let _ = nft.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let (save, restore) = (format!("{}-save", iptables(family)), format!("{}-restore", iptables(family)));
        if !is_installed(&save) {
            continue;
        }
        let Ok(saved) = command(&save).stdin(Stdio::null()).stderr(Stdio::null()).output() else {
            continue;
        };
        if let Some(script) = removal_script(&String::from_utf8_lossy(&saved.stdout), interface) {
            let _ = feed(command(&restore).arg("-n"), &script);
        }
    }
}

fn nft_script(interface: &str, family: Family, addresses: &[IpNet], mark: u32) -> String {
    let kind = nft_family(family);
    let table = table_name(interface);
    let guard = |address: &IpNet| {
        let address = address.addr();
        format!(
            "add rule {kind} {table} preraw iifname != \"{interface}\" {kind} daddr {address} fib saddr type != local drop\n"
        )
    };
    let guards: String = addresses.iter().map(guard).collect();
    format!(
        "add table {kind} {table}\n\
         add chain {kind} {table} preraw {{ type filter hook prerouting priority -300; }}\n\
         add chain {kind} {table} premangle {{ type filter hook prerouting priority -150; }}\n\
         add chain {kind} {table} postmangle {{ type filter hook postrouting priority -150; }}\n\
         {guards}\
         add rule {kind} {table} postmangle meta l4proto udp mark {mark} ct mark set mark\n\
         add rule {kind} {table} premangle meta l4proto udp meta mark set ct mark\n"
    )
}

fn iptables_script(interface: &str, addresses: &[IpNet], mark: u32) -> String {
    let comment = comment(interface);
    let guard = |address: &IpNet| {
        let address = address.addr();
        format!(
            "-I PREROUTING ! -i {interface} -d {address} -m addrtype ! --src-type LOCAL -j DROP {comment}\n"
        )
    };
    let guards: String = addresses.iter().map(guard).collect();
    format!(
        "*raw\n{guards}COMMIT\n*mangle\n\
         -I POSTROUTING -m mark --mark {mark} -p udp -j CONNMARK --save-mark {comment}\n\
         -I PREROUTING -p udp -j CONNMARK --restore-mark {comment}\nCOMMIT\n"
    )
}

/// Deletes our rules among those that `iptables-save` printed; `None` if there are none.
fn removal_script(saved: &str, interface: &str) -> Option<String> {
    let comment = comment(interface);
    let ours = |line: &&str| line.starts_with("-A ") && line.contains(&comment);
    saved.lines().find(ours)?;
    let kept = saved.lines().filter(|line| line.starts_with('*') || *line == "COMMIT" || ours(line));
    Some(kept.map(|line| format!("{}\n", line.replacen("-A ", "-D ", usize::from(ours(&line))))).collect())
}

fn table_name(interface: &str) -> String {
    format!("wg-quick-{interface}")
}

fn comment(interface: &str) -> String {
    format!("-m comment --comment \"wg-quick(8) rule for {interface}\"")
}

const fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

const fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_rules_are_removed() {
        let saved = "# by\n*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j LOG\n\
                     -A PREROUTING -d 10.0.0.1/32 -m comment --comment \"wg-quick(8) rule for wg0\" -j DROP\nCOMMIT\n";
        assert_eq!(
            removal_script(saved, "wg0").as_deref(),
            Some(
                "*raw\n-D PREROUTING -d 10.0.0.1/32 -m comment --comment \"wg-quick(8) rule for wg0\" -j DROP\nCOMMIT\n"
            )
        );
        assert_eq!(removal_script(saved, "wg"), None);
        assert_eq!(removal_script("", "wg0"), None);
    }
}
