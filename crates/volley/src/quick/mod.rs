//! `volley up` and `volley down`: what `wg-quick` does, by netlink, so that neither it nor a loaded kernel
//! module matters. The file's format and its meaning are the same.
//!
//! Everything that is made is known by whom it was made. [`plan`] tells, from the configuration and what is there, the
//! steps; [`steps`] carries each of them out when the [`journal`] has it written down, and undoes what a journal says:
//! in the middle of a start that fails, at its regular end, or after somebody has died.

mod children;
mod dns;
mod down;
mod file;
mod firewall;
mod first_process;
mod hooks;
mod intact;
mod journal;
mod locks;
mod net;
mod plan;
mod refusal;
mod resolve;
mod rules;
mod save;
mod steps;
mod tables;
mod up;

use std::path::Path;

use caps::{CapSet, Capability};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};

use self::{
    down::{Ending, Stop},
    file::ConfigFile,
    journal::{Journal, Made, Record},
    locks::Lock,
    net::Net,
    up::Start,
};
use crate::{Trouble, WithFix, config, config::Config, output, signals::event_loop};

/// `volley up CONF`. With `running`, its daemon is there already: systemd starts it.
///
/// In the foreground, and as a container's first process, it stays while the daemon runs, for both would end with it;
/// asked to end, it takes down what it has brought up.
pub(crate) fn up(argument: &str, running: bool, foreground: bool) -> Result<(), Trouble> {
    let (runtime, mut end) = event_loop()?;
    let mut file = ConfigFile::read(argument)?;
    let mut config = file.parse()?;
    let name = &file.interface.clone();
    require_privilege()?;
    run(runtime, async {
        let net = Net::open().or_trouble("cannot open a netlink socket")?;
        let lock = end.unless(Lock::of_interface(name)).await?;
        let start = Start { net: &net, file: &file, config: &config, running, lock: &lock };
        if let Err(trouble) = start.clear_the_way(&mut end).await {
            lock.remove();
            return Err(trouble);
        }
        let mut journal = Journal::create(name)?;
        let started = end.unless(start.bring_up(&mut journal)).await;
        let daemon = match started {
            Ok(daemon) => daemon,
            Err(trouble) => {
                let failed = steps::undo(&start.site(), &mut end, journal.into_record().to_undo()).await;
                let others = report(name, failed).err();
                lock.remove();
                return Err(trouble.and(others));
            }
        };
        drop(lock);
        let Some(daemon) = daemon else { return Ok(()) };
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        if !foreground && !first_process::is_this() {
            return Ok(());
        }
        // Hooks are told all of the file; nobody else needs its keys any more.
        if config.interface.hooks.pre_down.is_empty() && config.interface.hooks.post_down.is_empty() {
            file.forget_text();
            config.forget_keys();
        }
        let (ending, ended) = tokio::select! {
            ended = first_process::ended(daemon) => (Ending::Leftovers, ended),
            _ = end.any() => (Ending::Must, Ok(())),
        };
        let stop = Stop { net: &net, name, file: Some(&file), config: &config, argument };
        match (ended, stop.take_down(ending).await) {
            (Err(trouble), others) => Err(trouble.and(others.err())),
            (Ok(()), done) => done,
        }
    })
}

/// `volley down CONF`. Without a file that can be read, the interface goes without hooks. With `leftovers`, only what a
/// daemon that was killed has left.
pub(crate) fn down(argument: &str, leftovers: bool) -> Result<(), Trouble> {
    require_privilege()?;
    let (_, name) = ConfigFile::locate(argument)?;
    let read = ConfigFile::read(argument).and_then(|file| Ok((file.parse()?, file)));
    let (config, file) = match read {
        Ok((config, file)) => (config, Some(file)),
        Err(trouble) if down::is_known(&name) => {
            output::notice(format_args!("volley: `{name}` goes without its hooks: {trouble}"));
            (Config::default(), None)
        }
        Err(_) if leftovers => return Ok(()),
        Err(trouble) => return Err(trouble),
    };
    run(event_loop()?.0, async {
        let net = Net::open().or_trouble("cannot open a netlink socket")?;
        let stop = Stop { net: &net, name: &name, file: file.as_ref(), config: &config, argument };
        stop.take_down(if leftovers { Ending::Leftovers } else { Ending::Asked }).await
    })
}

/// What others have taken away of what `up` has made for an interface, for people.
pub(crate) fn taken_away(name: &str) -> Vec<String> {
    // Signals go on ending us.
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    runtime.block_on(intact::taken_away(name))
}

/// Keeps a record of what could not be undone, and tells it.
fn report(name: &str, failed: Vec<(Made, Trouble)>) -> Result<(), Trouble> {
    let (left, troubles): (Vec<_>, Vec<_>) = failed.into_iter().unzip();
    let kept = Record::leave(name, left).err();
    let mut troubles = troubles.into_iter().chain(kept);
    match troubles.next() {
        Some(first) => Err(first.and(troubles)),
        None => Ok(()),
    }
}

/// `volley save CONF`: writes what is in force to the file.
pub(crate) fn save(argument: &str) -> Result<(), Trouble> {
    let file = ConfigFile::read(argument)?;
    let config = file.parse()?;
    run(event_loop()?.0, async {
        let net = Net::open().or_trouble("cannot open a netlink socket")?;
        save::save(&net, &file, &config).await
    })
}

/// `volley strip CONF`.
pub(crate) fn strip(argument: &str) -> Result<(), Trouble> {
    let file = ConfigFile::read(argument)?;
    output::write(config::strip(file.text()).as_bytes())
}

/// Says so at once, rather than with the first step that needs it.
fn require_privilege() -> Result<(), Trouble> {
    if !Path::new("/proc/self").exists() {
        return Err(Trouble::new("cannot set interfaces up or down: /proc is not mounted")
            .fix("mount -t proc proc /proc"));
    }
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(false) => {
            Err(Trouble::new("no permission to set interfaces up").fix("run as root, or with CAP_NET_ADMIN"))
        }
        _ => Ok(()),
    }
}

fn run<T>(runtime: Runtime, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let done = runtime.block_on(work);
    // What still runs in the background, such as a question to a name server, must not hold the process up.
    runtime.shutdown_background();
    done
}
