//! The socket's file, `/var/run/wireguard/NAME.sock`: made, taken over, watched and removed.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    inotify::{AddWatchFlags, InitFlags, Inotify},
    stat::{Mode, umask},
};
use socket2::{Domain, SockAddr, Type};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, unix::pipe::Receiver},
    time::sleep,
};
use tracing::warn;

/// Where `wg` looks for the sockets of userspace daemons.
pub const SOCKET_DIR: &str = "/var/run/wireguard";

/// How often the file is looked at where inotify is not to be had.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another daemon answers on it.
    #[error("another daemon is running on {0}")]
    Taken(PathBuf),
    /// A system call failed.
    #[error("cannot make {path}: {source}")]
    Io {
        /// The socket or its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How to mend that [`SOCKET_DIR`], or what belongs into it, cannot be made because of `error`.
pub(crate) fn directory_fix(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!("something else is in its place: rm {SOCKET_DIR}"),
        io::ErrorKind::NotADirectory => {
            format!("take away what is no directory, or a link to none, in: namei {SOCKET_DIR}")
        }
        io::ErrorKind::IsADirectory => "a directory is in its place: take it away".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("mount a tmpfs there: mount -t tmpfs -o mode=0755 tmpfs {SOCKET_DIR}")
        }
        io::ErrorKind::StorageFull => format!("make room for it: df {SOCKET_DIR}"),
        _ => format!("run as root, or: mkdir -p {SOCKET_DIR} and chown it to the user who runs Volley"),
    }
}

/// Where the socket of the interface `name` is.
pub fn socket_path(name: &str) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{name}.sock"))
}

/// True when a daemon listens on the socket. Does not wait for one that is stuck.
pub fn is_alive(path: &Path) -> bool {
    let connected = || {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connected() {
        Ok(()) => true,
        // Its queue is full.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// The bound socket. Its file is removed on drop, if it is still the one we made.
#[derive(Debug)]
pub struct Socket {
    listener: StdListener,
    file: Option<SocketFile>,
}

/// The socket's name in the file system.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }

    /// Resolves when it is no longer in place.
    async fn removal(&self) -> io::Result<()> {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let events = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        watch.add_watch(directory, events)?;
        // Not a pipe, but read like one, and tokio has no type for it that needs no unsafe code.
        let mut watch = Receiver::from_file_unchecked(watch.as_fd().try_clone_to_owned()?.into())?;
        let mut events = [0; 4_096];
        while self.is_in_place() {
            // Which events they are does not matter: the file is looked at again.
            let _length = watch.read(&mut events).await?;
        }
        Ok(())
    }
}

/// What tells a socket's file from any that comes after it: device and inode.
pub(crate) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Socket {
    /// Binds `path`, making its directory if need be. A socket file on which nobody answers is left from a
    /// daemon that died, and is replaced.
    ///
    /// Sets the process's umask for a moment: call it before there are other threads that make files.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { path, source }
        };
        if let Some(directory) = path.parent() {
            make_directory(directory).map_err(failed(directory))?;
        }
        if is_alive(path) {
            return Err(BindError::Taken(path.to_owned()));
        }
        let (listener, identity) = place(path).map_err(failed(path))?;
        Ok(Self { listener, file: Some(SocketFile { path: path.to_owned(), identity }) })
    }

    /// Takes over a listening socket that our parent made (`WG_UAPI_FD`).
    pub fn inherited(fd: OwnedFd) -> Self {
        let listener = StdListener::from(fd);
        let bound = listener.local_addr().ok();
        let file = bound.and_then(|address| SocketFile::of(address.as_pathname()?).ok());
        Self { listener, file }
    }

    /// The listening end for the event loop of the caller.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    /// Resolves when somebody has removed or replaced the socket's file. Where the kernel does not tell, such as past
    /// `fs.inotify.max_user_instances`, it is looked at from time to time.
    pub async fn deleted(&self) {
        let Some(file) = &self.file else { return std::future::pending().await };
        if let Err(error) = file.removal().await {
            warn!(
                "{} is looked at every second, for nobody tells of its removal: {error}",
                file.path.display()
            );
            while file.is_in_place() {
                sleep(LOOK_AGAIN).await;
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|file| file.is_in_place()) {
            let _ = fs::remove_file(&file.path);
        }
    }
}

/// Makes a socket that somebody listens on from its first moment: `wg` removes any other that it finds. Takes the place of
/// what is there. Gives its identity, too.
fn place(path: &Path) -> io::Result<(StdListener, (u64, u64))> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(".new");
    let new = path.with_file_name(name);
    // Of one that was killed in between.
    let _ = fs::remove_file(&new);
    let previous = umask(Mode::from_bits_truncate(0o077));
    let listener = StdListener::bind(&new);
    umask(previous);
    let listener = listener?;
    let moved = identity(&new).and_then(|identity| fs::rename(&new, path).map(|()| identity));
    match moved {
        Ok(identity) => Ok((listener, identity)),
        Err(error) => {
            let _ = fs::remove_file(&new);
            Err(error)
        }
    }
}

/// Makes a directory in which tools that are not root may look.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    // Whatever the umask was: tools that are not root look in here too.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        os::fd::AsRawFd,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    /// A folder for one test's socket, removed with it.
    pub(in crate::uapi) struct Directory(pub(in crate::uapi) PathBuf);

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(in crate::uapi) fn directory() -> Directory {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("volley-uapi-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Directory(std::env::temp_dir().join(name))
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = directory();
        let path = directory.0.join("wg0.sock");
        let first = Socket::bind(&path).expect("binds");
        assert!(matches!(Socket::bind(&path), Err(BindError::Taken(_))));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory.0), mode(&path)), (0o755, 0o700));

        // As a killed daemon leaves it: the file is there, and nobody listens.
        let Socket { listener, .. } = &first;
        nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        let second = Socket::bind(&path).expect("replaces");
        drop(first);
        assert!(path.exists(), "only its own file is removed");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn the_sockets_removal_is_noticed() {
        let directory = directory();
        let path = directory.0.join("wg0.sock");
        let socket = Socket::bind(&path).expect("binds");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut deleted = std::pin::pin!(socket.deleted());
            fs::write(directory.0.join("other"), "").unwrap();
            fs::remove_file(directory.0.join("other")).unwrap();
            assert!(timeout(Duration::from_millis(50), deleted.as_mut()).await.is_err(), "another file's");
            fs::remove_file(&path).unwrap();
            timeout(Duration::from_secs(5), deleted).await.expect("in time");
        });
    }
}
