//! Leaving the terminal without `fork`: the program starts itself once more in a session of its own, waits
//! until that one is ready, and returns. Until then the child's errors reach the caller's stderr; from then
//! on it holds nothing of the caller's.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write, stdout},
    os::{
        fd::RawFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{self, Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};
use sd_notify::NotifyState;
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};
use tracing::level_filters::LevelFilter;

use crate::{Trouble, WithFix, log};

/// Tells the child that it is one. Not for people.
const CHILD_MARK: &str = "VOLLEY_INTERNAL_CHILD";

/// What the child writes to its stdout, a pipe to the parent, when it is ready.
const READY: &[u8] = b"ready\n";

/// The variables that name descriptors which a parent means for us.
pub(super) const INHERITED: [&str; 2] = ["WG_TUN_FD", "WG_UAPI_FD"];

const STDERR: RawFd = 2;

/// Whom to tell that the daemon is ready.
pub(super) enum Readiness {
    /// Only a service manager, if there is one.
    Foreground,
    /// The process that started us and waits.
    Parent,
}

impl Readiness {
    /// Decides whether this process is the daemon; `None` if it is to start one.
    pub(super) fn of(foreground: bool) -> Option<Self> {
        if env::var_os(CHILD_MARK).is_some() {
            // Fails only for a process group's leader, which is a session's already or needs none.
            let _ = setsid();
            close_inherited();
            return Some(Self::Parent);
        }
        // When a container's first process ends, the container ends.
        let first = process::id() == 1;
        (foreground || first).then_some(Self::Foreground)
    }

    /// Sets up logging. In the background a start that succeeds is silent: the terminal is somebody else's.
    pub(super) fn start_log(&self, level: LevelFilter) {
        let on_stderr = match self {
            Self::Foreground => level,
            Self::Parent => {
                log::open_system_log();
                level.min(LevelFilter::WARN)
            }
        };
        log::init(level, on_stderr);
    }

    /// Says that interface and socket are ready.
    ///
    /// # Errors
    /// When the parent is gone: whoever wanted the daemon has given up.
    pub(super) fn announce(self, name: &str) -> Result<(), Trouble> {
        let status = format!("{name} is ready");
        let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        match self {
            Self::Foreground => Ok(()),
            Self::Parent => leave_terminal().or_trouble("the program that started the daemon is gone"),
        }
    }
}

/// Lets go of every descriptor that the caller did not mean for us: whoever waits for the end of a pipe
/// (a shell's process substitution, a test runner) would wait for the daemon's.
///
/// Only at the very start, when this process has opened nothing itself.
fn close_inherited() {
    let meant = |number: &RawFd| {
        INHERITED.iter().any(|name| env::var(name).is_ok_and(|value| value.parse() == Ok(*number)))
    };
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > STDERR && !meant(number)) {
        // One of them was the directory's own, and is closed already.
        let _ = close(number);
    }
}

fn leave_terminal() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // Before the parent returns: its caller may wait for the end of our stderr.
    dup2_stderr(&null)?;
    let mut parent = stdout();
    parent.write_all(READY)?;
    parent.flush()?;
    dup2_stdout(&null)?;
    // It may be a lock that we share with the parent until now.
    dup2_stdin(&null)?;
    Ok(())
}

/// `volley ARGUMENTS`, whatever it is called here.
pub(super) fn this(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = Command::new(program());
    if let Some(name) = env::args_os().next() {
        command.arg0(name);
    }
    command.args(arguments);
    command
}

/// Starts a daemon in the background, with the stdin that `command` has, waits until it is ready, and gives its process.
/// Dropped meanwhile, it leaves none.
///
/// # Errors
/// When it is not ready; mostly the child has said why.
pub(super) async fn launch(command: &mut Command) -> Result<Child, Trouble> {
    let child = command.env(CHILD_MARK, "1").stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| {
        if Path::new("/proc/self/exe").exists() {
            return Trouble::new(format!("cannot start the daemon: {error}"));
        }
        // That is how a program finds itself.
        Trouble::new("cannot start a daemon in the background: /proc is not mounted")
            .fix("mount -t proc proc /proc, or keep it in the foreground: --foreground")
    })?;
    let pipe = child.stdout.take();
    let answer = {
        let mut starting = Starting(Some(&mut child));
        let answer = answer(pipe).await.or_trouble("cannot hear from the daemon")?;
        starting.0 = None;
        answer
    };
    if answer == READY {
        return Ok(child);
    }
    let status = child.wait().or_trouble("cannot wait for the daemon")?;
    Err(match (status.success(), status.signal()) {
        (_, Some(signal)) => {
            Trouble::new(format!("the daemon was killed by signal {signal} before it was ready"))
        }
        (true, None) => Trouble::new("the daemon ended before it was ready"),
        (false, None) => Trouble::told(),
    })
}

/// What a daemon says until it is ready: it closes its end then, and when it dies.
async fn answer(pipe: Option<ChildStdout>) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    if let Some(pipe) = pipe {
        let pipe = Receiver::from_owned_fd(pipe.into())?;
        pipe.take(READY.len() as u64).read_to_end(&mut answer).await?;
    }
    Ok(answer)
}

/// A daemon that nobody waits for any longer when this is dropped.
struct Starting<'a>(Option<&'a mut Child>);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let Some(child) = self.0.take() else { return };
        // It listens, or has made nothing yet. Either way it ends, and what it has made goes first.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        let _ = child.wait();
    }
}

/// This very program; the link in /proc works even if the file was replaced since.
fn program() -> PathBuf {
    env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}
