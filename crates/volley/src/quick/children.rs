//! Other people's programs, run so that nothing of them stays behind: each is waited for, and killed with all that it
//! has started when nobody waits for it any longer. Their exit status alone decides.

use std::{
    convert::Infallible,
    fs::{self, File},
    future::pending,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::locks::Lock;
use nix::{
    sys::signal::{
        Signal::{SIGKILL, SIGSTOP},
        kill, killpg,
    },
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::Sender,
    signal::unix::{SignalKind, signal},
};

/// Runs a program that must succeed with `input` on its stdin. It need not read it.
///
/// Its stdout is the file of the lock: should we be killed, nobody has the lock before it is done, or has itself become
/// a daemon and let go.
pub(super) async fn feed(command: &mut Command, input: &str, lock: &Lock) -> io::Result<()> {
    let mut child = Running::start(command.stdin(Stdio::piped()).stdout(lock.shared()?), true)?;
    let stdin = child.process.stdin.take().map(OwnedFd::from);
    let feed = async {
        if let Some(mut pipe) = stdin.and_then(|stdin| Sender::from_owned_fd(stdin).ok()) {
            let _ = pipe.write_all(input.as_bytes()).await;
        }
        pending::<Infallible>().await
    };
    let status = tokio::select! {
        biased;
        status = child.ended() => status?,
        never = feed => match never {},
    };
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// Runs a program with our descriptors, and our terminal, if there is one: it lets only the process group that it belongs
/// to read (a passphrase, say), and its interrupts reach us all.
pub(super) async fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let has_terminal = File::open("/dev/tty").is_ok();
    Running::start(command, !has_terminal)?.ended().await
}

struct Running {
    process: Child,
    /// True when its process group is its own, and not ours.
    leads: bool,
    /// True when it was waited for; until then, its number is nobody else's.
    has_ended: bool,
}

impl Running {
    fn start(command: &mut Command, leads: bool) -> io::Result<Self> {
        if leads {
            command.process_group(0);
        }
        Ok(Self { process: command.spawn()?, leads, has_ended: false })
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let mut changed = signal(SignalKind::child())?;
        loop {
            if let Some(status) = self.process.try_wait()? {
                self.has_ended = true;
                return Ok(status);
            }
            changed.recv().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What it has left behind then is meant to stay.
        if self.has_ended {
            return;
        }
        let id = Pid::from_raw(self.process.id().cast_signed());
        if self.leads {
            let _ = killpg(id, SIGKILL);
        } else {
            kill_with_children(id);
        }
        let _ = self.process.wait();
    }
}

/// Kills a process of our own group, and what it has started: stopped first, they start nothing meanwhile.
fn kill_with_children(process: Pid) {
    let _ = kill(process, SIGSTOP);
    children(process).into_iter().for_each(kill_with_children);
    let _ = kill(process, SIGKILL);
}

/// None where the kernel does not tell (`CONFIG_PROC_CHILDREN`).
fn children(process: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok().map(Pid::from_raw)).collect()
}
