//! Other people's programs: hooks and resolvconf.

use std::{
    fs, io,
    io::Write,
    process::{Command, Stdio},
};

use crate::{Trouble, WithFix, config::Interface, output, programs::command};

/// Runs commands with bash, as `wg-quick` does, or with sh where there is no bash. `%i` is the interface.
///
/// Dropped, it kills the shell: a hook that hangs must not keep a start that is interrupted.
pub(super) async fn run(hooks: &[String], interface: &str) -> Result<(), Trouble> {
    for hook in hooks {
        let hook = hook.replace("%i", interface);
        output::notice(format_args!("[#] {hook}"));
        let shell = |program| {
            let mut shell = tokio::process::Command::from(command(program));
            shell.args(["-c", &hook]).kill_on_drop(true).spawn()
        };
        let child = match shell("bash") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => shell("sh"),
            child => child,
        };
        let mut child = child.or_trouble("cannot start a shell for a hook")?;
        let status = child.wait().await.or_trouble("cannot wait for a hook")?;
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
    feed(command("resolvconf").args(["-a", &resolvconf_name(name), "-m", "0", "-x"]), &lines).map_err(
        |error| {
            Trouble::new(format!("cannot set DNS with resolvconf: {error}"))
                .fix("install resolvconf (openresolv or systemd-resolved's), or take DNS out of the file")
        },
    )
}

/// The name of the interface's entry at resolvconf, if it gives anything to the system.
pub(super) fn dns_entry(name: &str, interface: &Interface) -> Option<String> {
    let gives = !(interface.dns.is_empty() && interface.dns_search.is_empty());
    gives.then(|| resolvconf_name(name))
}

/// Takes an entry back; one that is gone is no error to resolvconf.
pub(super) fn unset_dns(entry: &str) -> Result<(), Trouble> {
    let taken = feed(command("resolvconf").args(["-d", entry, "-f"]), "");
    taken.or_trouble("cannot take the name servers back with resolvconf")
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

/// Runs a program that must succeed with `input` on its stdin.
pub(super) fn feed(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}
