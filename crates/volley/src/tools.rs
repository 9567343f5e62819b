//! The small commands: keys, completions and the manual page; and what several commands share.

use std::{
    env,
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    process::Command,
};

use clap::CommandFactory;
use clap_complete::Shell;
use encrypt::{PresharedKey, PrivateKey};
use nix::unistd::{AccessFlags, eaccess};
use zeroize::Zeroizing;

use crate::{Trouble, WithFix, cli::Cli};

/// A key in base64 is 44 characters; more is no key.
const MAX_KEY_INPUT: u64 = 256;

/// `volley genkey`: a new private key in base64.
pub(crate) fn genkey() -> Result<(), Trouble> {
    print(&PrivateKey::generate().to_base64())
}

/// `volley genpsk`: a new pre-shared key in base64.
pub(crate) fn genpsk() -> Result<(), Trouble> {
    print(&PresharedKey::generate().to_base64())
}

/// `volley pubkey`: the public key of the private key on stdin.
pub(crate) fn pubkey() -> Result<(), Trouble> {
    let mut input = Zeroizing::new(String::with_capacity(MAX_KEY_INPUT as usize));
    io::stdin().take(MAX_KEY_INPUT).read_to_string(&mut input).or_trouble("cannot read the private key")?;
    let key = PrivateKey::from_base64(input.trim()).map_err(|error| {
        Trouble::new(format!("stdin holds no private key: {error}")).fix("volley genkey | volley pubkey")
    })?;
    print(&key.public_key().to_base64())
}

/// `volley completions SHELL`.
pub(crate) fn completions(shell: Shell) -> Result<(), Trouble> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "volley", &mut text);
    write(&text)
}

/// `volley man`: the manual page, for `man -l -`.
pub(crate) fn man() -> Result<(), Trouble> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).or_trouble("cannot write the manual page")?;
    for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
        let page = clap_mangen::Man::new(command.clone());
        let name = format!(".SH COMMAND volley {}\n", command.get_name());
        text.extend_from_slice(name.as_bytes());
        page.render_description_section(&mut text).or_trouble("cannot write the manual page")?;
        page.render_options_section(&mut text).or_trouble("cannot write the manual page")?;
    }
    text.extend_from_slice(environment().as_bytes());
    write(&text)
}

/// The manual's section about variables: those of options, and those without one.
fn environment() -> String {
    const OTHERS: [(&str, &str); 5] = [
        ("WG_LOG_LEVEL, LOG_LEVEL", "As --log-level."),
        ("WG_TUN_FD", "The number of an open TUN device to use, instead of making one."),
        ("WG_UAPI_FD", "The number of a listening configuration socket to use, instead of making one."),
        (
            "WG_ENDPOINT_RESOLUTION_RETRIES",
            "How often `volley up` tries to resolve an endpoint; 15 if not set.",
        ),
        ("NOTIFY_SOCKET", "Where systemd is told that the daemon is ready, and that it ends."),
    ];
    let command = Cli::command();
    let of_options = command.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((variable, format!("As --{}.", argument.get_long()?)))
    });
    let others = OTHERS.iter().map(|(variable, meaning)| ((*variable).to_owned(), (*meaning).to_owned()));
    let entries = of_options.chain(others);
    let entries = entries.map(|(variable, meaning)| format!(".TP\n\\fB{variable}\\fR\n{meaning}\n"));
    std::iter::once(".SH ENVIRONMENT\n".to_owned()).chain(entries).collect()
}

/// Where programs are when nobody says: bash's choice, so that hooks, too, find what they find there. The C library's
/// has no `sbin`, and thus no `nft`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())
}

/// True when a program of this name is on the `PATH`, and may be run.
pub(crate) fn is_installed(tool: &str) -> bool {
    is_on_path(tool, env::split_paths(&path()))
}

/// A program on the `PATH`, which it gets.
pub(crate) fn command(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.env("PATH", path());
    command
}

pub(crate) fn is_on_path(tool: &str, mut path: impl Iterator<Item = PathBuf>) -> bool {
    path.any(|directory| eaccess(&directory.join(tool), AccessFlags::X_OK).is_ok())
}

/// Prints one line, and says so if it could not: half a key in a file is worse than none.
pub(crate) fn print(line: &str) -> Result<(), Trouble> {
    let mut text = Zeroizing::new(Vec::with_capacity(line.len() + 1));
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    write(&text)
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no error.
pub(crate) fn write(text: &[u8]) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).or_trouble("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
