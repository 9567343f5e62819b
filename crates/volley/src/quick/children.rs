//! Other people's programs, run so that nothing of them stays behind: each is waited for, and killed with all that it
//! has started when nobody waits for it any longer. Their exit status alone decides.

use std::{
    convert::Infallible,
    fs::File,
    future::pending,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::locks::Lock;
use nix::{
    sys::signal::{Signal::SIGKILL, kill, killpg},
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
}

impl Running {
    fn start(command: &mut Command, leads: bool) -> io::Result<Self> {
        if leads {
            command.process_group(0);
        }
        Ok(Self { process: command.spawn()?, leads })
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let mut changed = signal(SignalKind::child())?;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            changed.recv().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let id = Pid::from_raw(self.process.id().cast_signed());
        let _ = if self.leads { killpg(id, SIGKILL) } else { kill(id, SIGKILL) };
        let _ = self.process.wait();
    }
}
