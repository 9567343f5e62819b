//! The configuration protocol: what `wg`, `wg-quick` and mesh agents speak to a WireGuard daemon over
//! its UNIX socket.
//!
//! [`RequestParser`] and the printers do no I/O, so that they can be tested and fuzzed alone; [`server`]
//! and [`client`] put them on a [`Socket`].

pub mod client;
mod lines;
mod parse;
mod print;
pub mod server;
mod socket;
mod status;

pub use parse::{Failure, MAX_LINE_LEN, MAX_REQUEST_LEN, Operation, Request, RequestParser, ScopeLookup};
pub use print::{Device, Peer, print_get, print_set};
pub use socket::{BindError, SOCKET_DIR, Socket, is_alive, socket_path};
pub(crate) use socket::{directory_fix, identity, make_directory};
pub use status::{Feature, Status};

/// The error numbers of answers (asm-generic/errno.h). `set` answers carry them negated, `get` answers
/// as they are: `wg` relies on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// EIO: the daemon could not do it.
    Io,
    /// EACCES: the daemon may not do it, such as use a port below 1024.
    PermissionDenied,
    /// EINVAL: a key or a value is wrong.
    Invalid,
    /// EPROTO: this is not a request.
    Protocol,
    /// EADDRINUSE: the port is taken.
    AddrInUse,
}

impl Errno {
    /// The plain, positive number.
    pub const fn number(self) -> i32 {
        match self {
            Self::Io => 5,
            Self::PermissionDenied => 13,
            Self::Invalid => 22,
            Self::Protocol => 71,
            Self::AddrInUse => 98,
        }
    }
}
