//! The daemon in other environments than a login: in each, the `volley` of a lab is a script that enters the
//! environment and becomes the real one. What the environments are, [`Environment`] tells.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use io_runtime::Backend;
use netlab::{BACKEND, Environment};

/// `CAP_NET_ADMIN` (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

/// What every lab has on its `PATH`, after `volley`.
pub(crate) const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A `PATH` that ends in the lab's is the lab's: `wg-quick` puts its own directory before it. Any other is an option
/// that a test passes, like these variables.
const ENV_I: &str = r#"#!/bin/sh
case "$PATH" in *SYSTEM_PATH) ;; *) set -- "PATH=$PATH" "$@" ;; esac
options='s/^\(WG_[A-Z_]*\|VOLLEY_[A-Z_]*\|LOG_LEVEL\|NOTIFY_SOCKET\|DIR\)=.*/\1/p'
for name in $(/usr/bin/env | /usr/bin/sed -n "$options"); do
    eval "value=\$$name"
    set -- "$name=$value" "$@"
done
exec /usr/bin/env -i "$@"
"#;

/// A stdin that a test gives, such as a key, is left.
const NO_TERMINAL: &str = r#"#!/bin/sh
[ "$(/usr/bin/readlink /proc/self/fd/0)" = /dev/null ] && exec <&-
exec /usr/bin/setsid --wait "$@"
"#;

const PID_1: &str = r#"#!/bin/sh
exec /usr/bin/unshare --pid --fork --kill-child --mount-proc "$@"
"#;

/// The kernel gives root every capability at `exec` that the bounding set does not forbid.
const NET_ADMIN_ONLY: &str = r#"#!/bin/sh
exec /usr/bin/setpriv --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin --ambient-caps=-all "$@"
"#;

/// How a lab runs `volley`.
pub(crate) struct Entrance {
    environment: Option<Environment>,
    directory: PathBuf,
    /// The beginning of a shell command that enters it.
    run: String,
}

impl Entrance {
    /// Writes the scripts that the environment of this run needs into `directory`.
    pub(crate) fn build(directory: PathBuf) -> Self {
        let real = env!("CARGO_BIN_EXE_volley");
        let environment = Environment::current();
        let enter = match environment {
            // The variable that names the backend is all.
            None | Some(Environment::OtherBackend) => {
                let directory = Path::new(real).parent().expect("a directory").to_owned();
                return Self { environment, directory, run: String::new() };
            }
            Some(Environment::EnvI) => ENV_I.replace("SYSTEM_PATH", SYSTEM_PATH),
            Some(Environment::NoTerminal) => NO_TERMINAL.to_owned(),
            Some(Environment::Pid1) => PID_1.to_owned(),
            Some(Environment::NetAdmin) => NET_ADMIN_ONLY.to_owned(),
        };
        fs::create_dir_all(&directory).expect("a directory");
        let script = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
            path.display().to_string()
        };
        let enter = script("enter", &enter);
        let run = if environment == Some(Environment::Pid1) {
            let runtime = script("container.py", include_str!("container.py"));
            format!("/usr/bin/python3 '{runtime}' '{enter}'")
        } else {
            format!("'{enter}'")
        };
        script("volley", &format!("#!/bin/sh\nexec {run} '{real}' \"$@\"\n"));
        Self { environment, directory, run }
    }

    /// The directory that holds `volley`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The arguments of `unshare` that make `volley` a container's first process.
    pub(crate) fn container(&self) -> [String; 5] {
        let program = match self.environment {
            Some(Environment::Pid1) => env!("CARGO_BIN_EXE_volley").to_owned(), // that much it does itself
            _ => self.directory.join("volley").display().to_string(),
        };
        let [pid, fork, kill, proc] = ["--pid", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned);
        [pid, fork, kill, proc, program]
    }

    /// What a test must have to enter the environment.
    pub(crate) fn tools() -> &'static [&'static str] {
        match Environment::current() {
            None | Some(Environment::OtherBackend) => &[],
            Some(Environment::EnvI) => &["env", "sed"],
            Some(Environment::NoTerminal) => &["setsid", "readlink"],
            Some(Environment::Pid1) => &["unshare", "python3"],
            Some(Environment::NetAdmin) => &["setpriv"],
        }
    }

    /// The beginning of a shell command that changes its own rights and becomes `volley`. Who has no more than
    /// `CAP_NET_ADMIN` cannot do the former: there, what the test asks for stands for the environment.
    pub(crate) fn before_rights(&self) -> String {
        match self.environment {
            Some(Environment::NetAdmin) => String::new(),
            _ => self.run.clone(),
        }
    }

    /// The daemon's process, of which a test has started `child`.
    pub(crate) fn daemon(&self, child: u32) -> u32 {
        if self.environment != Some(Environment::Pid1) {
            return child; // the others become the daemon
        }
        first_process(child)
    }

    /// The environment is what it says: otherwise the tests would pass without it, too.
    pub(crate) fn assert_entered(&self, daemon: u32) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{daemon}/{file}")).expect("the daemon");
        let status = |name: &str| {
            let status = read("status");
            status.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned()
        };
        match self.environment {
            None => {}
            Some(Environment::EnvI) => {
                let variables = read("environ");
                let of_a_login = |line: &&str| {
                    ["PATH=", "HOME=", "TERM=", "USER=", "LOGNAME="].iter().any(|name| line.starts_with(name))
                };
                assert_eq!(variables.split('\0').find(of_a_login), None);
            }
            Some(Environment::NoTerminal) => {
                // proc(5): pid (comm) state ppid pgrp session tty_nr
                let stat = read("stat");
                let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
                assert_eq!(fields[3..5], [&*daemon.to_string(), "0"], "session and terminal: {stat}");
            }
            Some(Environment::Pid1) => {
                assert_eq!(status("NSpid:").split_whitespace().last(), Some("1"));
            }
            Some(Environment::OtherBackend) => {
                let other = std::env::var(BACKEND).expect("a backend");
                assert_ne!(other, Backend::default().to_string());
                let variables = read("environ");
                assert!(variables.split('\0').any(|line| line == format!("{BACKEND}={other}")));
            }
            Some(Environment::NetAdmin) => {
                assert_eq!(u64::from_str_radix(&status("CapBnd:"), 16), Ok(NET_ADMIN));
            }
        }
    }
}

/// The first process of the container that the process `runtime` holds.
pub(crate) fn first_process(runtime: u32) -> u32 {
    let children = format!("/proc/{runtime}/task/{runtime}/children");
    let children = fs::read_to_string(children).expect("the container's runtime");
    children.trim().parse().expect("one first process")
}
