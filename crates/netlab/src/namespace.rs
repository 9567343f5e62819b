//! Hosts: anonymous network namespaces, each held by a thread. Nothing outlives the process, and no
//! outside tool is run.

use std::{
    fs::{self, File},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Child, Command},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd,
};

type Job = Box<dyn FnOnce() + Send>;

/// A machine of its own, as far as the network goes: an anonymous network namespace with a private
/// `/run` (so that daemons of different hosts can use the same interface names).
///
/// A thread holds it and does in it what [`Host::run`] gives it; threads and processes started from there
/// live in it too. The namespace goes when the host, its threads and its processes have gone.
#[derive(Debug)]
pub struct Host {
    name: String,
    jobs: Option<mpsc::Sender<Job>>,
    namespace: File,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Makes a host with its loopback up.
    ///
    /// # Errors
    /// Without the privilege to make namespaces; see [`enter_user_namespace`].
    pub fn new(name: &str) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::channel();
        let thread = thread::Builder::new().name(format!("host {name}")).spawn(move || {
            let namespace = enter_new_namespaces();
            let alive = namespace.is_ok();
            if ready.send(namespace).is_ok() && alive {
                queue.into_iter().for_each(|job| job());
            }
        })?;
        let namespace = entered.recv().context("the host's thread ended")??;
        let host = Self { name: name.to_owned(), jobs: Some(jobs), namespace, thread: Some(thread) };
        host.set_up("lo")?;
        Ok(host)
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` in the host and gives its answer. One at a time: long work belongs in [`Self::spawn_thread`].
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = mpsc::channel();
        let job = Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            let _caller_waits = answer.send(outcome);
        });
        let jobs = self.jobs.as_ref().expect("present until drop");
        jobs.send(job).expect("the host's thread lives as long as the host");
        result.recv().expect("every job answers").unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Starts a thread in the host.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.run(move || thread::spawn(work))
    }

    /// Starts a process in the host.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(move || command.spawn()).with_context(|| format!("cannot start {program}"))
    }

    /// The namespace's file descriptor, to move links into it.
    pub(crate) fn raw_namespace(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }

    /// The namespace, for `setns`.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Writes a sysctl (`net.ipv4.tcp_rmem` as `net/ipv4/tcp_rmem`) of this host.
    ///
    /// # Errors
    /// When there is no such setting or the value is refused.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(path);
        let value = value.to_owned();
        self.run(move || fs::write(&path, value).with_context(|| path.display().to_string()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Gives this process the rights to make hosts: as root there is nothing to do; anyone else becomes root of
/// a new user namespace. Call it first thing in `main`, while the process has one thread.
///
/// # Errors
/// When the kernel or a security module forbids user namespaces, or there are other threads already.
pub fn enter_user_namespace() -> Result<()> {
    if unistd::geteuid().is_root() && can_make_namespaces() {
        return Ok(());
    }
    let (user, group) = (unistd::geteuid(), unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).context(
        "user namespaces are not available to you here: run as root, or allow them \
         (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    )?;
    fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("gid_map")?;
    Ok(())
}

/// Why hosts with TUN devices cannot be made here; `None` when they can.
pub fn unavailable() -> Option<String> {
    if !unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if !can_make_namespaces() {
        return Some("this root may not make network namespaces".into());
    }
    match File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/net/tun: {error}")),
    }
}

/// Tries it on a thread that is then gone, and the namespaces with it.
fn can_make_namespaces() -> bool {
    thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_ok())
        .join()
        .unwrap_or(false)
}

/// Moves the calling thread into network and mount namespaces of its own; gives the network's handle.
fn enter_new_namespaces() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make a network namespace")?;
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("private mounts")?;
    // /sys shows the network namespace it was mounted from. A user namespace may be refused a new one; then
    // only tools that look there are misled, and ours do not.
    let _optional = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE);
    let run = fs::canonicalize("/var/run").or_else(|_| fs::canonicalize("/run")).context("/var/run")?;
    if !run.is_dir() {
        bail!("{} is not a folder", run.display());
    }
    mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .with_context(|| format!("tmpfs on {}", run.display()))?;
    File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_networks_of_their_own_and_leave_nothing_behind() {
        crate::require!(crate::Need::Namespaces);
        let namespace = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let here = namespace();
        let host = Host::new("a").unwrap();
        let there = host.run(namespace);
        assert_ne!(here, there);
        assert_eq!(there, host.spawn_thread(namespace).join().unwrap());
        assert_eq!(here, namespace());
        let output = host.run(|| Command::new("readlink").arg("/proc/self/ns/net").output().unwrap());
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), there.to_string_lossy());
    }

    #[test]
    fn each_host_has_a_run_folder_of_its_own() {
        crate::require!(crate::Need::Namespaces);
        let (a, b) = (Host::new("a").unwrap(), Host::new("b").unwrap());
        a.run(|| fs::create_dir("/var/run/only-here").unwrap());
        assert!(!b.run(|| Path::new("/var/run/only-here").exists()));
        assert!(!Path::new("/var/run/only-here").exists());
    }

    #[test]
    fn a_panic_in_a_host_reaches_the_caller_and_the_host_lives_on() {
        crate::require!(crate::Need::Namespaces);
        let host = Host::new("a").unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| host.run(|| panic!("on purpose"))));
        assert!(outcome.is_err());
        assert_eq!(host.run(|| 7), 7);
    }
}
