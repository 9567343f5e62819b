//! The firewall that goes with a default route: replies keep the mark, so that strict reverse-path filters
//! let them in, and nobody reaches the tunnel's addresses from outside it.
//!
//! Made by nft or, where there is none, by iptables, under the names that `wg-quick` uses: it can take down
//! what we put up, and we what it did.

use std::{
    fmt, io,
    process::{Command, Stdio},
};

use ipnet::IpNet;

use super::{children::feed, locks::Lock, net::Family};
use crate::{
    Trouble,
    programs::{command, is_installed},
};

/// The firewall of one family, and what it is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Firewall {
    pub(super) family: Family,
    pub(super) tool: Tool,
}

/// What makes firewalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Nft,
    Iptables,
}

impl Tool {
    pub(super) const ALL: [Self; 2] = [Self::Nft, Self::Iptables];
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        })
    }
}

impl Firewall {
    /// With what is installed.
    pub(super) fn of(family: Family) -> Result<Self, Trouble> {
        let restore = format!("{}-restore", iptables(family));
        let tool = if is_installed("nft") {
            Tool::Nft
        } else if is_installed(&restore) {
            Tool::Iptables
        } else {
            return Err(Trouble::new(format!(
                "there is neither nft nor {restore} to set the firewall up with"
            ))
            .fix("install nftables; or set `Table = off` and route by your own rules"));
        };
        Ok(Self { family, tool })
    }

    /// All that there may be, of which nobody knows.
    pub(super) fn any() -> impl Iterator<Item = Self> {
        let all = Family::ALL.into_iter().flat_map(|family| Tool::ALL.map(|tool| Self { family, tool }));
        all.filter(|firewall| is_installed(&firewall.program()))
    }

    /// Replaces the interface's.
    pub(super) async fn set(
        self,
        interface: &str,
        addresses: &[IpNet],
        mark: u32,
        lock: &Lock,
    ) -> Result<(), Trouble> {
        let Self { family, tool } = self;
        let addresses: Vec<_> =
            addresses.iter().copied().filter(|address| Family::of(address) == family).collect();
        let script = match tool {
            Tool::Nft => nft_script(interface, family, &addresses, mark),
            Tool::Iptables => iptables_script(interface, &addresses, mark),
        };
        self.run(&script, lock).await.map_err(|error| {
            Trouble::new(format!("cannot set the firewall up with {}: {error}", self.program()))
                .fix("load the firewall's kernel modules (modprobe nf_tables), or set `Table = off`")
        })
    }

    /// Removes the interface's; nothing is not an error.
    pub(super) async fn remove(self, interface: &str, lock: &Lock) -> Result<(), Trouble> {
        let removed = match self.tool {
            Tool::Nft => self.run(&nft_removal(interface, self.family), lock).await,
            Tool::Iptables => match removal_script(&self.saved().unwrap_or_default(), interface) {
                Some(script) => self.run(&script, lock).await,
                None => Ok(()),
            },
        };
        removed.map_err(|error| {
            Trouble::new(format!("cannot remove the firewall with {}: {error}", self.program()))
        })
    }

    /// Whether the interface's is there; `None` if nobody may look.
    pub(super) fn is_set(self, interface: &str) -> Option<bool> {
        match self.tool {
            Tool::Nft => {
                let tables = printed(command("nft").args(["list", "tables"]))?;
                let table = format!("table {} {}", self.family, table_name(interface));
                Some(tables.lines().any(|line| line == table))
            }
            Tool::Iptables => Some(removal_script(&self.saved()?, interface).is_some()),
        }
    }

    fn program(self) -> String {
        match self.tool {
            Tool::Nft => "nft".to_owned(),
            Tool::Iptables => format!("{}-restore", iptables(self.family)),
        }
    }

    async fn run(self, script: &str, lock: &Lock) -> io::Result<()> {
        let mut program = command(&self.program());
        match self.tool {
            Tool::Nft => program.args(["-f", "-"]),
            Tool::Iptables => program.arg("-n"),
        };
        feed(&mut program, script, lock).await
    }

    /// What iptables has in all its tables.
    fn saved(self) -> Option<String> {
        printed(&mut command(&format!("{}-save", iptables(self.family))))
    }
}

/// What a program that succeeds prints.
fn printed(program: &mut Command) -> Option<String> {
    let output = program.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes the table whether it is there or not: one transaction makes and deletes it.
fn nft_removal(interface: &str, family: Family) -> String {
    let table = table_name(interface);
    format!("add table {family} {table}\ndelete table {family} {table}\n")
}

fn nft_script(interface: &str, family: Family, addresses: &[IpNet], mark: u32) -> String {
    let kind = family;
    let table = table_name(interface);
    let removal = nft_removal(interface, family);
    let guard = |address: &IpNet| {
        let address = address.addr();
        format!(
            "add rule {kind} {table} preraw iifname != \"{interface}\" {kind} daddr {address} fib saddr type != local drop\n"
        )
    };
    let guards: String = addresses.iter().map(guard).collect();
    format!(
        "{removal}\
         add table {kind} {table}\n\
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

/// As `wg-quick` names it; what nft's grammar has no place for in a name is written as a number.
fn table_name(interface: &str) -> String {
    format!("wg-quick-{}", interface.replace('+', "/2b").replace('=', "/3d"))
}

fn comment(interface: &str) -> String {
    format!("-m comment --comment \"wg-quick(8) rule for {interface}\"")
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
