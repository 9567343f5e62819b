//! The small commands: keys, completions and the manual page.

use std::{fs::File, io, os::fd::AsFd};

use clap::Command;
use clap_complete::Shell;
use encrypt::{PresharedKey, PrivateKey};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::{
    Trouble, WithFix,
    output::{self, print, write},
    secrets::read_to_end,
};

/// A key in base64 is 44 characters; more is no key.
const MAX_KEY_INPUT: usize = 256;

/// `volley genkey`: a new private key in base64.
pub(crate) fn genkey() -> Result<(), Trouble> {
    warn_if_open_to_all();
    print(&PrivateKey::generate().to_base64())
}

/// `volley genpsk`: a new pre-shared key in base64.
pub(crate) fn genpsk() -> Result<(), Trouble> {
    warn_if_open_to_all();
    print(&PresharedKey::generate().to_base64())
}

/// As `wg` does: a shell has made the file, with a umask that suits other files.
fn warn_if_open_to_all() {
    let Ok(file) = fstat(io::stdout()) else { return };
    let kind = SFlag::from_bits_truncate(file.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFREG && file.st_mode & Mode::S_IRWXO.bits() != 0 {
        output::notice(
            "volley: warning: the secret goes to a file that others may use; umask 077, and try again",
        );
    }
}

/// `volley pubkey`: the public key of the private key on stdin.
pub(crate) fn pubkey() -> Result<(), Trouble> {
    // Not through `Stdin`, whose buffer nobody wipes.
    let input = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let input = input.and_then(|input| read_to_end(input, MAX_KEY_INPUT, MAX_KEY_INPUT));
    let input = input.or_trouble("cannot read the private key")?;
    let text = str::from_utf8(&input).unwrap_or_default();
    let key = PrivateKey::from_base64(text.trim()).map_err(|error| {
        Trouble::new(format!("stdin holds no private key: {error}")).fix("volley genkey | volley pubkey")
    })?;
    print(&key.public_key().to_base64())
}

/// `volley completions SHELL`.
pub(crate) fn completions(shell: Shell, mut volley: Command) -> Result<(), Trouble> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut volley, "volley", &mut text);
    write(&text)
}

/// `volley man`: the manual page, for `man -l -`.
pub(crate) fn man(volley: &Command) -> Result<(), Trouble> {
    let mut text = Vec::new();
    clap_mangen::Man::new(volley.clone()).render(&mut text).or_trouble("cannot write the manual page")?;
    for command in volley.get_subcommands().filter(|command| command.get_name() != "help") {
        let page = clap_mangen::Man::new(command.clone());
        let name = format!(".SH COMMAND volley {}\n", command.get_name());
        text.extend_from_slice(name.as_bytes());
        page.render_description_section(&mut text).or_trouble("cannot write the manual page")?;
        page.render_options_section(&mut text).or_trouble("cannot write the manual page")?;
    }
    text.extend_from_slice(environment(volley).as_bytes());
    write(&text)
}

/// The manual's section about variables: those of options, and those without one.
fn environment(volley: &Command) -> String {
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
    let of_options = volley.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((variable, format!("As --{}.", argument.get_long()?)))
    });
    let others = OTHERS.iter().map(|(variable, meaning)| ((*variable).to_owned(), (*meaning).to_owned()));
    let entries = of_options.chain(others);
    let entries = entries.map(|(variable, meaning)| format!(".TP\n\\fB{variable}\\fR\n{meaning}\n"));
    std::iter::once(".SH ENVIRONMENT\n".to_owned()).chain(entries).collect()
}
