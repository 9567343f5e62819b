//! The command line. `wg-quick` starts a daemon with a name and nothing else, so every option of the daemon
//! has an environment variable.

use std::{
    io::{stderr, stdout},
    iter, panic,
    process::ExitCode,
};

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};
use clap_complete::Shell;

use crate::{
    Trouble,
    daemon::{self, DaemonArgs, switch},
    doctor, log, output, quick, secrets, show, tools,
};

/// A userspace WireGuard daemon that sends in volleys: one system call for many packets.
///
/// `volley NAME` makes the interface NAME and its configuration socket, and returns when both are ready;
/// `wg` and `wg-quick` then treat it as they treat the kernel's.
///
/// An interface that is named like one of the commands below is started with `volley run NAME`.
#[derive(Debug, Parser)]
#[command(name = "volley", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the daemon, as the bare `volley NAME` does, whatever the name.
    Run(DaemonArgs),
    /// Show an interface, or all: peers, which fast paths are on, and counters.
    Show {
        /// The interface; all if not given.
        #[arg(value_parser = daemon::interface_name)]
        name: Option<String>,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Bring an interface up from a `wg-quick` configuration file, with addresses, routes and hooks.
    Up {
        /// Its daemon runs already (systemd starts it): set it up only.
        #[arg(long)]
        running: bool,
        /// Stay until the daemon ends, and take the interface down when asked to end.
        #[arg(short, long, env = "WG_PROCESS_FOREGROUND", value_parser = switch, action = ArgAction::SetTrue)]
        foreground: bool,
        /// A file, or NAME for /etc/wireguard/NAME.conf.
        #[arg(value_name = "CONF")]
        file: String,
    },
    /// Take it down again.
    Down {
        /// Only undo what is left of it if its daemon was killed; if there is nothing, that is no error.
        #[arg(long)]
        leftovers: bool,
        /// A file, or NAME for /etc/wireguard/NAME.conf.
        #[arg(value_name = "CONF")]
        file: String,
    },
    /// Write what is in force to the configuration file.
    Save {
        /// A file, or NAME for /etc/wireguard/NAME.conf.
        #[arg(value_name = "CONF")]
        file: String,
    },
    /// Print a configuration file without what only `up` and `wg-quick` know, for `wg setconf`.
    Strip {
        /// A file, or NAME for /etc/wireguard/NAME.conf.
        #[arg(value_name = "CONF")]
        file: String,
    },
    /// Check what Volley needs of this machine, and tell how to mend what is amiss.
    ///
    /// Some checks try the real thing: packets over the loopback, and a TUN interface for a moment, in a
    /// network of its own where that is allowed. Nothing is changed. The exit status is 0 unless a check
    /// fails; warnings are about speed and convenience.
    Doctor(doctor::Args),
    /// Print a new private key.
    Genkey,
    /// Print the public key of the private key on stdin.
    Pubkey,
    /// Print a new pre-shared key.
    Genpsk,
    /// Print a shell's completions.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page (for `man -l -`).
    Man,
}

/// Checks a command line without running it, for those who write unit files and scripts.
///
/// # Errors
/// What is wrong with it.
pub fn check<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<(), clap::Error> {
    Cli::try_parse_from(iter::once("volley").chain(arguments)).map(drop)
}

/// Runs the program.
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(log::panicked));
    // Whatever the command: most have to do with keys.
    secrets::close_memory();
    match parse() {
        Ok(cli) => exit_code(cli.run()),
        Err(error) => explain(&error),
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = without_empty_variables(Cli::command()).try_get_matches()?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command()))
}

impl Cli {
    fn run(&self) -> Result<(), Trouble> {
        match &self.command {
            None => daemon::start(&self.daemon),
            Some(Command::Run(args)) => daemon::start(args),
            Some(Command::Show { name, json }) => show::show(name.as_deref(), *json),
            Some(Command::Up { running, foreground, file }) => quick::up(file, *running, *foreground),
            Some(Command::Down { leftovers, file }) => quick::down(file, *leftovers),
            Some(Command::Save { file }) => quick::save(file),
            Some(Command::Strip { file }) => quick::strip(file),
            Some(Command::Doctor(args)) => doctor::run(args),
            Some(Command::Genkey) => tools::genkey(),
            Some(Command::Pubkey) => tools::pubkey(),
            Some(Command::Genpsk) => tools::genpsk(),
            Some(Command::Completions { shell }) => tools::completions(*shell, Self::command()),
            Some(Command::Man) => tools::man(&Self::command()),
        }
    }
}

fn exit_code(result: Result<(), Trouble>) -> ExitCode {
    let Err(trouble) = result else { return ExitCode::SUCCESS };
    if !trouble.is_told() {
        output::notice(format_args!("volley: {trouble}"));
    }
    ExitCode::FAILURE
}

/// Why clap has not given a command: it was asked for help, which is a result, or has a complaint.
fn explain(error: &clap::Error) -> ExitCode {
    let styled = if error.use_stderr() { output::is_styled(&stderr()) } else { output::is_styled(&stdout()) };
    let text = error.render();
    let text = if styled { text.ansi().to_string() } else { text.to_string() };
    if !error.use_stderr() {
        return exit_code(output::write(text.as_bytes()));
    }
    output::notice(text.trim_end());
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// In an environment file, `VOLLEY_METRICS=` means that there are none: an empty variable counts as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    let forget =
        move |argument: Arg| if is_empty(&argument) { argument.env(Resettable::Reset) } else { argument };
    let command = command.mut_args(forget).mut_subcommand("run", |run| run.mut_args(forget));
    command.mut_subcommand("up", |up| up.mut_args(forget))
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["volley"].iter().chain(args))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_name_starts_the_daemon() {
        let cli = parse(&["wg0"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.daemon.name(), "wg0");
    }

    #[test]
    fn a_commands_name_is_reached_with_run() {
        let cli = parse(&["run", "show"]).unwrap();
        assert!(matches!(&cli.command, Some(Command::Run(args)) if args.name() == "show"));
    }

    #[test]
    fn help_and_bad_names_never_become_interfaces() {
        assert_eq!(parse(&["--help"]).unwrap_err().kind(), ErrorKind::DisplayHelp);
        for args in [&["--hepl"][..], &["--", "--help"], &["a/b"], &["sixteen-bytes-xx"], &[""], &[".."], &[]]
        {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
