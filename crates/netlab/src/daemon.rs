//! WireGuard implementations as processes: started in a host, ready when their socket answers, gone on drop.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{account, clock, find_program, namespace::Host, uapi::Uapi};

/// Folder searched for other implementations before the path; `.ci/run` installs them there.
const PEERS_DIR: &str = "VOLLEY_PEERS_DIR";
/// Starting takes milliseconds; a loaded machine gets three orders of magnitude more.
const START: Duration = Duration::from_secs(10);
/// After SIGTERM and this long, SIGKILL.
const STOP: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);
/// Lines of output kept for when something goes wrong.
const KEPT_LINES: usize = 200;

/// How to start a WireGuard implementation in the foreground on an interface.
#[derive(Clone, Debug)]
pub struct Implementation {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// What stands for the interface in a command line.
const INTERFACE: &str = "{iface}";

impl Implementation {
    /// Volley, with extra arguments (`--no-udp-gso`).
    pub fn volley(program: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().chain(&["--foreground", INTERFACE]);
        Self {
            name: "volley".into(),
            program: program.to_owned(),
            arguments: arguments.map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
        }
    }

    /// A known implementation (`wireguard-go`, `boringtun-cli`, `gotatun`), if it is installed: in
    /// `$VOLLEY_PEERS_DIR` (by default `~/.cache/volley-peers/bin`) or on the path.
    pub fn find(name: &str) -> Option<Self> {
        let arguments: &[&str] = match name {
            "wireguard-go" => &["-f", INTERFACE],
            // Their way to drop privileges asks for the login session, which containers do not have.
            "boringtun-cli" | "gotatun" => &["--foreground", "--disable-drop-privileges", INTERFACE],
            _ => return None,
        };
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/volley-peers/bin"));
        let folder = std::env::var_os(PEERS_DIR).map(PathBuf::from).or(home);
        let in_folder = folder.map(|folder| folder.join(name)).filter(|file| file.is_file());
        Some(Self {
            name: name.to_owned(),
            program: in_folder.or_else(|| find_program(name))?,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
        })
    }

    /// Any implementation, by a command line with `{iface}` in it, split at white space. It should stay in
    /// the foreground (`WG_PROCESS_FOREGROUND=1` is set for it).
    ///
    /// # Errors
    /// When the command is empty or nowhere names the interface.
    pub fn template(name: &str, command: &str) -> Result<Self> {
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next().context("an empty command")?;
        let arguments: Vec<_> = words.collect();
        let named = arguments.iter().any(|argument| argument.contains(INTERFACE));
        ensure!(named, "{command:?} does not say where the interface's name goes: {INTERFACE}");
        Ok(Self { name: name.to_owned(), program: program.into(), arguments, environment: Vec::new() })
    }

    /// The same under another name, for tables.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same with an environment variable set.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its name in tables and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program it runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    fn command(&self, interface: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(self.arguments.iter().map(|argument| argument.replace(INTERFACE, interface)))
            .env("WG_PROCESS_FOREGROUND", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A running implementation. Dropping it ends the process.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    interface: String,
    child: Child,
    output: Arc<Mutex<VecDeque<String>>>,
}

impl Daemon {
    /// Starts `implementation` in `host` and waits until its configuration socket answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time; the error carries its output.
    pub fn start(host: &Host, implementation: &Implementation, interface: &str) -> Result<Self> {
        let mut child = host.spawn(implementation.command(interface))?;
        let output = Arc::new(Mutex::new(VecDeque::new()));
        keep_lines(child.stdout.take(), &output);
        keep_lines(child.stderr.take(), &output);
        let name = format!("{} in {}", implementation.name, host.name());
        let mut daemon = Self { name, interface: interface.to_owned(), child, output };
        daemon.wait_until_ready(host)?;
        Ok(daemon)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its configuration socket.
    pub fn uapi(&self) -> Uapi {
        Uapi::new(&self.interface)
    }

    /// The last lines it wrote.
    pub fn output(&self) -> String {
        let lines = self.output.lock().expect("nobody panics holding it");
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.nix_pid(), signal).with_context(|| self.name.clone())
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it has not ended in `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = clock::now() + limit;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            ensure!(clock::now() < deadline, "{} still runs after {limit:?}", self.name);
            thread::sleep(POLL);
        }
    }

    fn wait_until_ready(&mut self, host: &Host) -> Result<()> {
        let deadline = clock::now() + START;
        let uapi = self.uapi();
        // gotatun 0.10 panics when a client comes while its main thread still makes the device.
        while !(uapi.exists(host) && self.main_thread_sleeps() && uapi.answers(host)) {
            if let Some(status) = self.exited()? {
                // Its last words may still be on the way from the pipe to the list.
                thread::sleep(Duration::from_millis(50));
                bail!("{} ended with {status}:\n{}", self.name, self.output());
            }
            ensure!(
                clock::now() < deadline,
                "{} is not ready after {START:?}:\n{}",
                self.name,
                self.output()
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Whether its main thread waits for something (proc(5): pid (comm) state …).
    fn main_thread_sleeps(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| account::state(&stat) == Some('S'))
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process numbers are positive i32s"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.exited(), Ok(Some(_))) {
            return;
        }
        let _gone_already = self.signal(Signal::SIGTERM);
        if self.wait(STOP).is_err() {
            let _gone_already = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Reads a pipe to its end, on a thread, keeping the last lines.
fn keep_lines(pipe: Option<impl Read + Send + 'static>, lines: &Arc<Mutex<VecDeque<String>>>) {
    let Some(pipe) = pipe else { return };
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let mut lines = lines.lock().expect("nobody panics holding it");
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Need;

    #[test]
    fn a_template_must_name_the_interface() {
        assert!(Implementation::template("x", "daemon -f wg0").is_err());
        assert!(Implementation::template("x", "").is_err());
        let command = Implementation::template("x", "daemon --on={iface}").unwrap().command("wg7");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--on=wg7"]);
    }

    #[test]
    fn a_daemon_that_ends_says_what_it_said() {
        crate::require!(Need::Namespaces);
        let host = Host::new("a").unwrap();
        let implementation = Implementation::template("x", "ls /no-such-folder-{iface}").unwrap();
        let error = Daemon::start(&host, &implementation, "wg0").unwrap_err().to_string();
        assert!(error.contains("/no-such-folder-wg0"), "{error}");
    }
}
