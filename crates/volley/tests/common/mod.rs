//! What the namespace tests share: a private network and socket directory for each test, and bounded waits.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod clocks;
pub(crate) mod environment;
pub(crate) mod step;
pub(crate) mod system;

use std::{
    fs,
    io::Write,
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        stat::{Mode, umask},
    },
    unistd::Pid,
};

use self::environment::{Entrance, SYSTEM_PATH};

/// Where `ip netns` keeps names.
const NETNS_DIR: &str = "/run/netns";

/// A user without rights, in `setpriv`'s words.
pub(crate) const NOBODY: &str = "--reuid 65534 --regid 65534 --clear-groups";

pub(crate) const SOCKET_DIR: &str = "/run/wireguard";

/// How long anything may take before a test fails. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace, a private `/run/wireguard`, a `/dev/net/tun` that is root's alone, and a directory for files,
/// all gone with the test.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    entrance: Entrance,
}

/// Runs a test as root in a lab of its own. Says loudly when it cannot; with `VOLLEY_REQUIRE_ALL=1` that is
/// a failure.
pub(crate) fn lab(tools: &[&str], test: impl FnOnce(&Lab) + Send + 'static) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let missing = if nix::unistd::geteuid().is_root() {
        let mut needed = tools.iter().chain(Entrance::tools());
        needed.find(|tool| which(tool).is_none()).map(|tool| format!("{tool} is not installed"))
    } else {
        Some("it needs root".to_owned())
    };
    if let Some(why) = missing {
        netlab::not_run(&name, &why);
        return;
    }
    let body = move || {
        let lab = Lab::enter();
        test(&lab);
    };
    let done = thread::Builder::new().name(name).spawn(body).expect("a thread");
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

fn which(tool: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| path.exists())
}

impl Lab {
    fn enter() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
        // This thread's alone, like its directory: what it makes has the modes that the test means.
        umask(Mode::from_bits_truncate(0o022));
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        one_run_directory();
        private(Path::new(SOCKET_DIR));
        // So that `ip netns add` leaves nothing on the machine.
        private(Path::new(NETNS_DIR));
        // The machine's TUN device may be closed to all but root, or open, or on a mount without devices.
        private(Path::new("/dev/net"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("volley-test-{}-{number}", std::process::id()));
        // Scripts run here, and devices work, whatever the machine's /tmp forbids.
        private(&dir);
        let entrance = Entrance::build(dir.join("environment"));
        let lab = Self { dir, entrance };
        lab.run("ip link set lo up && mknod -m 0600 /dev/net/tun c 10 200");
        lab
    }

    /// Runs `test` with the TUN device of a bare kernel, and with the one that udev makes.
    pub(crate) fn with_either_device(&self, mut test: impl FnMut(u32)) {
        for mode in [0o600, 0o666] {
            self.run(&format!("chmod {mode:o} /dev/net/tun"));
            test(mode);
        }
    }

    /// A shell command; its output is kept.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let mut command = self.command("sh", &["-c", script]);
        command.output().expect("sh runs")
    }

    /// A shell command that must succeed. Gives its stdout.
    pub(crate) fn run(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "`{script}` failed: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A program with the environment of a login, with Volley first in its `PATH`.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let path = format!("{}:{SYSTEM_PATH}", self.entrance.directory().display());
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", path).env("DIR", &self.dir).current_dir(&self.dir);
        command.envs([("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root"), ("TERM", "dumb")]);
        command.envs(std::env::var_os(netlab::BACKEND).map(|backend| (netlab::BACKEND, backend)));
        command.stdin(Stdio::null());
        command
    }

    /// Where the `volley` is that this run is for.
    pub(crate) fn program(&self) -> String {
        self.entrance.directory().join("volley").display().to_string()
    }

    pub(crate) fn volley(&self, args: &[&str]) -> Command {
        self.command(&self.program(), args)
    }

    /// The beginning of a shell command that runs `volley` with other rights, in `setpriv`'s words.
    ///
    /// Through a copy that others may run: the build directory may be closed to them.
    pub(crate) fn volley_with(&self, rights: &str) -> String {
        let copy = Path::new(SOCKET_DIR).join("volley");
        // By a process of its own: until it has done, no other thread's child may hold the file open for writing.
        self.run(&format!("cp {} {}", env!("CARGO_BIN_EXE_volley"), copy.display()));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("executable");
        format!("{} setpriv {rights} {}", self.entrance.before_rights(), copy.display())
    }

    /// `volley` as a container's first process; [`environment::first_process`] tells the process of its child.
    pub(crate) fn container(&self, args: &[&str]) -> Command {
        let mut command = self.command("unshare", &[]);
        command.args(self.entrance.container()).args(args);
        command
    }

    /// The process of the daemon of which `child` was started, in the foreground.
    pub(crate) fn daemon_process(&self, child: &Child) -> u32 {
        self.entrance.daemon(child.id())
    }

    /// A daemon in the foreground, killed with the test. Its log goes to a file.
    pub(crate) fn daemon(&self, name: &str, args: &[&str]) -> Daemon {
        self.daemon_from(self.volley(args), name)
    }

    /// The same, in a namespace that `ip netns add` made.
    pub(crate) fn daemon_in(&self, namespace: &str, name: &str) -> Daemon {
        self.daemon_from(
            self.command("nsenter", &[&format!("--net={NETNS_DIR}/{namespace}"), "volley"]),
            name,
        )
    }

    /// The same, with a command of the test's own.
    pub(crate) fn daemon_from(&self, mut command: Command, name: &str) -> Daemon {
        let log = self.dir.join(format!("{name}.log"));
        command.arg("-f").arg(name).stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log"));
        let child = command.spawn().expect("the daemon starts");
        let mut daemon = Daemon { pid: child.id(), child, name: name.to_owned(), log };
        eventually("the daemon answers", || volley::uapi::client::get(&daemon.socket()).is_ok());
        daemon.pid = self.daemon_process(&daemon.child);
        self.entrance.assert_entered(daemon.pid);
        daemon
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        let mut options = fs::File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create(true).truncate(true).open(&path).expect("a file");
        file.write_all(content.as_bytes()).expect("written");
        path
    }
}

/// Makes `directory` one of the test's own, empty.
fn private(directory: &Path) {
    fs::create_dir_all(directory).expect("a mount point");
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).expect("a tmpfs");
}

/// `/var/run` and `/run` are the same almost everywhere; here they are.
fn one_run_directory() {
    let (old, new) = (Path::new("/var/run"), Path::new("/run"));
    if fs::canonicalize(old).ok() != fs::canonicalize(new).ok() {
        fs::create_dir_all(old).expect("a mount point");
        let none: Option<&str> = None;
        mount(Some(new), old, none, MsFlags::MS_BIND, none).expect("one /run");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A failed test may leave daemons in the background; they end without their sockets.
        for entry in fs::read_dir(SOCKET_DIR).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.dir);
    }
}

/// A daemon in the foreground.
pub(crate) struct Daemon {
    child: Child,
    pid: u32,
    name: String,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid as i32), signal).expect("signalled");
    }

    /// True when it ended with success within `limit`.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> bool {
        waits(limit, || self.child.try_wait().expect("a child").is_some_and(|status| status.success()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn socket(name: &str) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{name}.sock"))
}

/// Waits for `condition`, and fails if it does not come.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(waits(PATIENCE, condition), "in vain: {what}");
}

#[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
pub(crate) fn waits(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
pub(crate) fn took<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed())
}

/// A new key pair in base64: private, public.
pub(crate) fn keys(lab: &Lab) -> (String, String) {
    let private = lab.run("wg genkey").trim().to_owned();
    let public = lab.run(&format!("echo {private} | wg pubkey")).trim().to_owned();
    (private, public)
}

/// A UDP port that is in use for as long as this lives.
pub(crate) fn busy_port() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let port = socket.local_addr().expect("its address").port();
    (socket, port)
}
