//! `PreUp` and its like, run as `wg-quick` runs them.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    process::ExitStatus,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{children, file::ConfigFile};
use crate::{
    Trouble, WithFix,
    config::{self, Config, Table},
    output,
    programs::command,
    secrets::SecretText,
};

/// Runs hooks of `file`, which says `config`, with bash, or with sh where there is no bash. `%i` is the interface.
///
/// Dropped, it kills what runs: a hook that hangs must not keep a start that is interrupted.
///
/// # Errors
/// The first hook that fails: any of its commands does, as under `set -e`.
pub(super) async fn run(hooks: &[String], file: &ConfigFile, config: &Config) -> Result<(), Trouble> {
    for hook in hooks {
        let hook = hook.replace("%i", &file.interface);
        output::notice(format_args!("[#] {hook}"));
        let status = match bash(&hook, file, config).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => sh(&hook, file, config).await,
            status => status,
        };
        let status = status.or_trouble("cannot run a shell for a hook")?;
        if !status.success() {
            return Err(Trouble::new(format!("the hook `{hook}` failed: {status}")));
        }
    }
    Ok(())
}

/// With what stands before a hook in `wg-quick`.
async fn bash(hook: &str, file: &ConfigFile, config: &Config) -> io::Result<ExitStatus> {
    let lists = lists(config);
    let mut known = SecretText::default();
    for part in [&*words(hook, file, config), &lists, "WG_CONFIG=", &wg_config(file), "\n"] {
        known.push_str(part);
    }
    let known = readable(&known)?;
    let number = known.as_raw_fd();
    let script = format!(
        "set -e -o pipefail; shopt -s extglob; IFS= read -r -d '' -u {number} hook || true; exec {number}<&-; \
         eval \"$hook\"; (eval \"$hook\")"
    );
    children::run(command("bash").args(["-c", &script, "volley"])).await
}

/// The nearest to it that any shell can do.
async fn sh(hook: &str, file: &ConfigFile, config: &Config) -> io::Result<ExitStatus> {
    let known = readable(&words(hook, file, config))?;
    let number = known.as_raw_fd();
    let script = format!(
        "set -e; if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi; \
         eval \"$(cat /proc/self/fd/{number})\"; (eval \"$hook\")"
    );
    children::run(command("sh").args(["-c", &script, "volley"])).await
}

/// What the shell is to read, as a file in memory that it gets: a command line can be read by everybody, and has an end.
fn readable(text: &str) -> io::Result<File> {
    /// `MFD_NOEXEC_SEAL` (linux/memfd.h), which a machine may insist on (vm.memfd_noexec); older than 6.3, it knows none.
    const NO_PROGRAM: MFdFlags = MFdFlags::from_bits_retain(8);
    let created = memfd_create("hook", NO_PROGRAM).or_else(|_| memfd_create("hook", MFdFlags::empty()));
    let mut file = File::from(created?);
    file.write_all(text.as_bytes())?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// The variables of `wg-quick` that are words, as assignments, and the hook among them.
fn words(hook: &str, file: &ConfigFile, config: &Config) -> String {
    let interface = &config.interface;
    let table = match &interface.table {
        Table::Auto => "",
        Table::Off => "off",
        Table::Named(table) => table,
    };
    let mtu = interface.mtu.map_or_else(String::new, |mtu| mtu.to_string());
    let words = [
        ("PROGRAM", "volley"),
        ("INTERFACE", &file.interface),
        ("CONFIG_FILE", &file.path.to_string_lossy()),
        ("MTU", &mtu),
        ("TABLE", table),
        ("SAVE_CONFIG", if interface.save { "1" } else { "0" }),
        ("hook", hook),
    ];
    words.map(|(name, value)| format!("{name}={}\n", &*quoted(value))).concat()
}

/// Those that are lists.
fn lists(config: &Config) -> String {
    let interface = &config.interface;
    let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
    let hooks = &interface.hooks;
    let lists = [
        ("ADDRESSES", &addresses),
        ("DNS", &interface.dns),
        ("DNS_SEARCH", &interface.dns_search),
        ("PRE_UP", &hooks.pre_up),
        ("POST_UP", &hooks.post_up),
        ("PRE_DOWN", &hooks.pre_down),
        ("POST_DOWN", &hooks.post_down),
    ];
    let list = |(name, values): (&str, &Vec<String>)| {
        let values: String = values.iter().map(|value| format!("{} ", &*quoted(value))).collect();
        format!("{name}=( {values})\n")
    };
    lists.map(list).concat()
}

/// The file as `wg` is given it, with its keys.
fn wg_config(file: &ConfigFile) -> SecretText {
    let text = config::strip(file.text());
    quoted(text.strip_suffix('\n').unwrap_or(&text))
}

fn quoted(value: &str) -> SecretText {
    let mut quoted = SecretText::with_capacity(value.len() + 2);
    let mut before = "'";
    for part in value.split('\'') {
        quoted.push_str(before);
        quoted.push_str(part);
        before = r"'\''";
    }
    quoted.push_str("'");
    quoted
}
