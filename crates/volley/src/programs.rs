//! Other programs: where they are, and how to start them.

use std::{env, ffi::OsString, path::PathBuf, process::Command};

use caps::CapSet;
use nix::unistd::{AccessFlags, eaccess, geteuid};

/// Where programs are when nobody says: bash's choice, so that hooks, too, find what they find there. The C library's
/// has no `sbin`, and thus no `nft`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())
}

/// True when a program of this name is on the `PATH`, and may be run.
pub(crate) fn is_installed(program: &str) -> bool {
    is_on_path(program, env::split_paths(&path()))
}

/// A program on the `PATH`, which it gets, with `wg-quick`'s locale. Started from this thread, it may do what we may.
pub(crate) fn command(program: &str) -> Command {
    lend_capabilities();
    let mut command = Command::new(program);
    command.env("PATH", path()).env("LC_ALL", "C");
    command
}

/// Has programs that this thread starts run with what it may do. Root's do anyhow; another user's do if the capabilities
/// are in the ambient set (capabilities(7)). Where that is forbidden, they say themselves what they may not do.
fn lend_capabilities() {
    if geteuid().is_root() {
        return;
    }
    for capability in caps::read(None, CapSet::Permitted).unwrap_or_default() {
        let _ = caps::raise(None, CapSet::Inheritable, capability)
            .and_then(|()| caps::raise(None, CapSet::Ambient, capability));
    }
}

fn is_on_path(program: &str, mut path: impl Iterator<Item = PathBuf>) -> bool {
    path.any(|directory| eaccess(&directory.join(program), AccessFlags::X_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_where_the_shell_looks() {
        let path = || ["/nowhere", "/usr/bin", "/bin"].into_iter().map(PathBuf::from);
        assert!(is_on_path("sh", path()));
        assert!(!is_on_path("no-such-tool", path()));
    }
}
