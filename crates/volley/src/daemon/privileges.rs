//! Giving up what the daemon no longer needs, once it has its interface and its socket.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use nix::sys::prctl::set_no_new_privs;
use tracing::warn;

/// What a running daemon may still do, if it could before: set SO_MARK, force socket buffers and configure
/// its interface; and move to a port below 1024 when `wg` says so, as the kernel's WireGuard does.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];

/// Drops everything but [`KEPT`] from this thread and those it starts from now on: call it before the data
/// plane is started.
///
/// A daemon that may not drop its privileges runs on, and says so.
pub(super) fn reduce() {
    if let Err(error) = try_reduce() {
        warn!("cannot drop privileges: {error}");
    }
    if let Err(error) = set_no_new_privs() {
        warn!("cannot forbid new privileges: {error}");
    }
}

fn try_reduce() -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<_> = KEPT.into_iter().filter(|capability| permitted.contains(capability)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)
}
