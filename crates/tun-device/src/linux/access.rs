//! Why the kernel refuses: its one errno has many causes, and each has another fix.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use nix::{
    libc,
    sys::statvfs::{FsFlags, statvfs},
    unistd::{AccessFlags, eaccess},
};

use super::TUN_DEVICE;
use crate::{ClosedBy, Error};

/// What it means that [`TUN_DEVICE`] does not open.
pub(super) fn open_error(source: io::Error, name: &str) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOENT) if driver_is_there() => Error::NoNode,
        Some(libc::ENOENT) => Error::NoTun,
        // No driver behind the node, and no `tun` module to be loaded.
        Some(libc::ENODEV | libc::ENXIO) => Error::NoDriver,
        Some(libc::EISDIR) => Error::NotTheNode,
        Some(libc::EPERM) => Error::Closed(ClosedBy::DeviceRules),
        Some(libc::EACCES) => Error::Closed(closed_by()),
        _ => Error::System { call: "opening /dev/net/tun", name: name.into(), source },
    }
}

/// What it means that an open [`TUN_DEVICE`] makes no interface.
pub(super) fn attach_error(source: io::Error, name: &str) -> Error {
    match source.raw_os_error() {
        // The kernel asks for CAP_NET_ADMIN over the network namespace (drivers/net/tun.c).
        Some(libc::EPERM | libc::EACCES) if has_net_admin() => Error::ForeignNetwork { name: name.into() },
        Some(libc::EPERM | libc::EACCES) => Error::NoPrivilege { action: "create", name: name.into() },
        // EBUSY: another process holds it. EINVAL: there is such an interface and it is no TUN device of
        // our kind, for names that passed our own check.
        Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => Error::NameTaken(name.into()),
        _ => Error::System { call: "TUNSETIFF", name: name.into(), source },
    }
}

/// In the order in which the kernel looks (`may_open`, fs/namei.c).
fn closed_by() -> ClosedBy {
    if statvfs(TUN_DEVICE).is_ok_and(|at| at.flags().contains(FsFlags::ST_NODEV)) {
        return ClosedBy::NoDev;
    }
    let may_by_mode = eaccess(TUN_DEVICE, AccessFlags::R_OK | AccessFlags::W_OK).is_ok();
    match fs::metadata(TUN_DEVICE) {
        Ok(node) if !may_by_mode => {
            let (mode, owner) = (node.permissions().mode() & 0o777, node.uid());
            if is_unmapped(owner) {
                ClosedBy::UnmappedOwner { mode }
            } else {
                ClosedBy::Mode { mode, owner, group: node.gid() }
            }
        }
        _ => ClosedBy::Unknown,
    }
}

/// Whether the driver is registered, so that only its node is missing.
fn driver_is_there() -> bool {
    let drivers = fs::read_to_string("/proc/misc").unwrap_or_default();
    drivers.lines().any(|line| line.split_whitespace().eq(["200", "tun"]))
}

/// Whether an owner as `stat` tells it is one that this user namespace does not know, and over whose files its root
/// has therefore no power (user_namespaces(7)).
fn is_unmapped(owner: u32) -> bool {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    let mapped = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everyone = mapped.split_whitespace().eq(["0", "0", "4294967295"]);
    !everyone && !mapped.is_empty() && overflow.trim().parse() == Ok(owner)
}

/// Whether this thread has CAP_NET_ADMIN in its own user namespace.
fn has_net_admin() -> bool {
    const NET_ADMIN: u64 = 1 << 12; // linux/capability.h
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & NET_ADMIN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn opening_without_the_module_says_how_to_load_it() {
        for code in [libc::ENODEV, libc::ENXIO] {
            let error = open_error(errno(code), "wg0");
            assert!(matches!(error, Error::NoDriver), "{error}");
            assert!(error.fix().is_some_and(|fix| fix.contains("modprobe tun")));
        }
        assert!(matches!(open_error(errno(libc::ENOENT), "wg0"), Error::NoNode | Error::NoTun));
        assert!(matches!(open_error(errno(libc::EISDIR), "wg0"), Error::NotTheNode));
        assert!(matches!(open_error(errno(libc::EMFILE), "wg0"), Error::System { .. }));
    }

    #[test]
    fn a_refusal_by_the_containers_device_rules_is_told_from_one_by_mode() {
        let error = open_error(errno(libc::EPERM), "wg0");
        assert!(matches!(error, Error::Closed(ClosedBy::DeviceRules)), "{error}");
        assert!(error.fix().is_some_and(|fix| fix.contains("--device /dev/net/tun")));
    }

    #[test]
    fn attaching_to_a_taken_name_says_so() {
        let taken = attach_error(errno(libc::EBUSY), "wg0");
        assert_eq!(taken.to_string(), "the interface `wg0` is in use, or is not a TUN interface");
        assert!(taken.fix().is_some());
        assert!(matches!(attach_error(errno(libc::ENOMEM), "wg0"), Error::System { .. }));
    }
}
