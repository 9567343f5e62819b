//! What a container's first process owes: it stays, for with it everything ends, and it waits for every process that
//! is left to it.

use std::process::{self, Child};

use nix::{
    errno::Errno,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Trouble, WithFix};

/// True when this process is the first of its PID namespace.
pub(super) fn is_this() -> bool {
    process::id() == 1
}

/// Resolves when the daemon has ended.
///
/// # Errors
/// When it did not end well.
pub(super) async fn ended(daemon: Child) -> Result<(), Trouble> {
    let mut changed = signal(SignalKind::child()).or_trouble("cannot listen for signals")?;
    loop {
        while let Some((process, well)) = reap()? {
            if process.cast_unsigned() == daemon.id() {
                return if well {
                    Ok(())
                } else {
                    Err(Trouble::new("the daemon failed; see the system's log"))
                };
            }
        }
        changed.recv().await;
    }
}

/// A process that has ended, whosever it was, and whether it ended well; `None` if all run on.
fn reap() -> Result<Option<(i32, bool)>, Trouble> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(process, status)) => Ok(Some((process.as_raw(), status == 0))),
        Ok(WaitStatus::Signaled(process, ..)) => Ok(Some((process.as_raw(), false))),
        Ok(_) | Err(Errno::EINTR) => Ok(None),
        Err(error) => Err(error).or_trouble("cannot wait for the daemon"),
    }
}
