//! What can go wrong with a device, whose fault it is, and how to mend it.

use std::{fmt, io};

/// Why a TUN device could not be made or changed.
///
/// [`Display`](std::fmt::Display) says what went wrong in one line, [`Error::fix`] how to mend it in another.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's: the kernel would not take this name, or it is surely a mistake (`--help`).
    #[error("`{name}` cannot be an interface name: {rule}")]
    BadName {
        /// The name as given.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The environment's: we may not create or change interfaces.
    #[error("no permission to {action} the TUN interface `{name}`")]
    NoPrivilege {
        /// What was tried.
        action: &'static str,
        /// The interface.
        name: String,
    },
    /// The environment's: we may create interfaces, but not in this network.
    #[error("no permission to create `{name}`: this network namespace belongs to another user namespace")]
    ForeignNetwork {
        /// The interface.
        name: String,
    },
    /// The environment's: /dev/net/tun is there, and we may not open it.
    #[error("/dev/net/tun is closed to this process: {0}")]
    Closed(ClosedBy),
    /// The environment's: there is no /dev/net/tun, and no sign of a driver.
    #[error("this system offers no TUN devices: /dev/net/tun is missing")]
    NoTun,
    /// The environment's: there is no /dev/net/tun, though there is a driver.
    #[error("/dev/net/tun is missing, though the kernel has its driver")]
    NoNode,
    /// The environment's: there is a /dev/net/tun without a driver.
    #[error("this system offers no TUN devices: the kernel has no driver for /dev/net/tun")]
    NoDriver,
    /// The environment's: what is called /dev/net/tun is something else.
    #[error("/dev/net/tun is not the TUN device, but something else of that name")]
    NotTheNode,
    /// Somebody has this interface already.
    #[error("the interface `{0}` is in use, or is not a TUN interface")]
    NameTaken(String),
    /// The caller's: a descriptor that we cannot use as a TUN device.
    #[error("this file descriptor is not a usable TUN device: {0}")]
    NotTun(&'static str),
    /// Anything else the kernel answers.
    #[error("{call} on `{name}` failed: {source}")]
    System {
        /// The system call or ioctl.
        call: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// One line that tells a person how to mend it, where we know.
    pub const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::BadName { .. } => Some("choose a name of 1 to 15 letters and digits, such as wg0"),
            Self::NoPrivilege { .. } => Some(
                "run as root, or with CAP_NET_ADMIN (systemd: AmbientCapabilities=; in a container: --cap-add NET_ADMIN)",
            ),
            Self::ForeignNetwork { .. } => Some(
                "make a network namespace along with the user namespace (unshare --net, or a container network of its own), or run as root outside of it",
            ),
            Self::Closed(by) => Some(by.fix()),
            Self::NoTun => Some("run `modprobe tun`; in a container, pass it in with --device /dev/net/tun"),
            Self::NoNode => Some(
                "mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200; in a container, pass it in with --device /dev/net/tun",
            ),
            Self::NoDriver => Some(
                "run `modprobe tun`, on the host if this is a container, or a kernel that has CONFIG_TUN",
            ),
            Self::NotTheNode => {
                Some("take it away, and: mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200")
            }
            Self::NameTaken(_) => Some(
                "stop the program that holds it, remove it with `ip link delete`, or choose another name",
            ),
            Self::NotTun(_) => Some(
                "open /dev/net/tun with IFF_TUN | IFF_NO_PI, best with IFF_VNET_HDR too, before handing it over",
            ),
            Self::System { .. } => None,
        }
    }
}

/// Who keeps /dev/net/tun from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClosedBy {
    /// Its mode: CAP_NET_ADMIN does not help.
    Mode {
        /// Permission bits.
        mode: u32,
        /// User ID.
        owner: u32,
        /// Group ID.
        group: u32,
    },
    /// Its mode, and an owner outside of this user namespace, over whose files its root has no power.
    UnmappedOwner {
        /// Permission bits.
        mode: u32,
    },
    /// Devices do not open on the file system that it is on.
    NoDev,
    /// The container's list of devices (cgroups).
    DeviceRules,
    /// None of these: a directory above it, or a security module.
    Unknown,
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode { mode, owner, group } => {
                write!(f, "its mode is {mode:04o}, its owner user {owner} and group {group}")
            }
            Self::UnmappedOwner { mode } => {
                write!(f, "its mode is {mode:04o}, and its owner is nobody of this user namespace")
            }
            Self::NoDev => f.write_str("it is on a file system that is mounted `nodev`"),
            Self::DeviceRules => f.write_str("the container's device rules forbid it"),
            Self::Unknown => f.write_str("permission denied"),
        }
    }
}

impl ClosedBy {
    const fn fix(self) -> &'static str {
        match self {
            Self::Mode { .. } => {
                "chmod 0666 /dev/net/tun, as udev does (making interfaces takes CAP_NET_ADMIN all the same), or run as its owner"
            }
            Self::UnmappedOwner { .. } => "outside of the user namespace, as root: chmod 0666 /dev/net/tun",
            Self::NoDev => {
                "mount with `dev` what `findmnt -T /dev/net/tun` shows; in a container, pass the device in with --device /dev/net/tun"
            }
            Self::DeviceRules => {
                "pass it in with --device /dev/net/tun, or systemd's DeviceAllow=/dev/net/tun rw"
            }
            Self::Unknown => {
                "see `namei -l /dev/net/tun` for a closed directory, and the log for SELinux or AppArmor"
            }
        }
    }
}
