//! The two system calls, which neither nix nor socket2 knows.
#![allow(unsafe_code)]

use std::io;

use nix::libc;

/// `SCHED_RESET_ON_FORK` of linux/sched.h: a flag beside the policy.
const RESET_ON_FORK: libc::c_long = 0x4000_0000;

/// Those of sched(7) that we choose between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// `SCHED_OTHER`.
    Other,
    /// `SCHED_BATCH`.
    Batch,
}

/// The calling thread's policy. `None` if it is one that somebody chose for a reason, such as `SCHED_FIFO`.
///
/// Not the libc functions: musl's always fail.
pub(super) fn policy() -> io::Result<Option<Policy>> {
    // SAFETY: no pointers; 0 is the calling thread.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    match policy & !RESET_ON_FORK {
        _ if policy < 0 => Err(io::Error::last_os_error()),
        other if other == libc::SCHED_OTHER.into() => Ok(Some(Policy::Other)),
        batch if batch == libc::SCHED_BATCH.into() => Ok(Some(Policy::Batch)),
        _ => Ok(None),
    }
}

/// Changes the calling thread's policy. Its nice value stays. No privilege is needed between these two.
pub(super) fn set_policy(policy: Policy) -> io::Result<()> {
    let policy = match policy {
        Policy::Other => libc::SCHED_OTHER,
        Policy::Batch => libc::SCHED_BATCH,
    };
    let priority: libc::c_int = 0; // all that is in a `struct sched_param`, and 0 outside of real time
    // SAFETY: 0 is the calling thread; the kernel reads one int from `priority`, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
