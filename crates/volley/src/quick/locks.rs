//! Locks between processes: one for each interface, so that `up` and `down` of it take turns; and one for what tunnels
//! share, the choice of a table and the editing of rules.
//!
//! The kernel lets go of them when their holder ends, however it ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::OFlag;
use tokio::time::sleep;

use super::journal::directory;
use crate::{Trouble, uapi::SOCKET_DIR};

/// How long to wait for another process, in steps.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// No interface can have this name: it is too long for one.
const SHARED: &str = "routing-of-all-volleys";

/// Held while this lives, or a clone of its file does.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Of an interface.
    pub(super) async fn of_interface(name: &str) -> Result<Self, Trouble> {
        let lock = Self::take(&directory()?.join(format!("{name}.lock"))).await;
        lock.map_err(|error| refused(&format!("`{name}`"), &error))?.ok_or_else(|| {
            Trouble::new(format!("another `volley up` or `volley down` of `{name}` is at work"))
                .fix("wait until it is done, or end it")
        })
    }

    /// Of what tunnels share.
    pub(super) async fn of_routing() -> Result<Self, Trouble> {
        let lock = Self::take(&directory()?.join(format!("{SHARED}.lock"))).await;
        lock.map_err(|error| refused("the routing rules", &error))?.ok_or_else(|| {
            Trouble::new("another `volley up` or `volley down` has held the routing rules for too long")
                .fix("wait until it is done, or end it")
        })
    }

    /// `None` if somebody else has it for longer than we wait.
    async fn take(path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
            let mut options = File::options();
            options.read(true).write(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
            let file = options.open(path)?;
            match file.try_lock() {
                // Its last holder may have removed it meanwhile.
                Ok(()) if is_at(&file, path) => return Ok(Some(Self { file, path: path.to_owned() })),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => sleep(STEP).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What keeps the lock for as long as any process has it open.
    pub(super) fn shared(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Lets go of it, and leaves no file behind.
    pub(super) fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn refused(what: &str, error: &io::Error) -> Trouble {
    let trouble = Trouble::new(format!("cannot lock {what} in {SOCKET_DIR}: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => trouble.fix(format!(
            "run as root, or as the user whose other tunnels are; or make {SOCKET_DIR} writable for this user"
        )),
        _ => trouble,
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}
