//! What can go wrong with a device, whose fault it is, and how to mend it.

use std::io;

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
    /// The environment's: there is no /dev/net/tun.
    #[error("this system offers no TUN devices: /dev/net/tun is missing")]
    NoTun(#[source] io::Error),
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
                "run as root, or grant CAP_NET_ADMIN (setcap cap_net_admin+ep PROGRAM, or --cap-add NET_ADMIN)",
            ),
            Self::NoTun(_) => {
                Some("run `modprobe tun`; in a container, pass it in with --device /dev/net/tun")
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
