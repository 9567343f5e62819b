//! Taking an interface down: what its record says is undone. Where there is none, as when `wg-quick` has set it up, what
//! must have been made is found by the interface and its mark.

use super::{
    dns,
    file::ConfigFile,
    hooks,
    journal::{Made, Record},
    locks::Lock,
    net::Net,
    plan, report, save,
    steps::{self, Site},
};
use crate::{
    Trouble,
    config::Config,
    output,
    signals::EndSignals,
    uapi::{is_alive, socket_path},
};

/// Why an interface is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Somebody wants it. A hook that fails beforehand stops it.
    Asked,
    /// We end, and it with us.
    Must,
    /// Its daemon is dead; where it is not, or nothing is left, there is nothing to do.
    Leftovers,
}

/// One interface that is to go.
pub(super) struct Stop<'a> {
    pub(super) net: &'a Net,
    pub(super) name: &'a str,
    /// Where what is in force is saved.
    pub(super) file: Option<&'a ConfigFile>,
    pub(super) config: &'a Config,
    /// What the user calls it.
    pub(super) argument: &'a str,
}

/// True when there is something to take down, though there be no file.
pub(super) fn is_known(name: &str) -> bool {
    is_alive(&socket_path(name)) || !matches!(Record::read(name), Ok(None))
}

impl Stop<'_> {
    /// What `down` does, hooks and all.
    pub(super) async fn take_down(&self, ending: Ending) -> Result<(), Trouble> {
        let Self { net, name, config, .. } = *self;
        let mut end = EndSignals::listen()?;
        let lock = end.unless(Lock::of_interface(name)).await?;
        let record = Record::read(name)?;
        let lives = is_alive(&socket_path(name));
        let is_left = record.is_some() && !lives;
        match ending {
            Ending::Asked | Ending::Must if !lives && record.is_none() => {
                lock.remove();
                return match ending {
                    Ending::Must => Ok(()),
                    _ => Err(Trouble::new(format!("`{name}` is not running"))
                        .fix(format!("volley up {}", self.argument))),
                };
            }
            Ending::Leftovers if !is_left => {
                if record.is_none() {
                    lock.remove();
                }
                return Ok(());
            }
            _ => {}
        }
        let mut troubles = Vec::new();
        if let Err(trouble) = end.unless(self.before()).await {
            if ending == Ending::Asked && lives {
                return Err(trouble);
            }
            troubles.push(trouble);
        }
        let (made, trouble) = self.made(record).await;
        troubles.extend(trouble);
        // From here on a signal stops nothing.
        let failed = steps::undo(&Site { net, name, lock: &lock }, &mut end, made.iter()).await;
        troubles.extend(report(name, failed).err());
        let mut end = EndSignals::listen()?;
        troubles.extend(end.unless(self.run(&config.interface.hooks.post_down)).await.err());
        lock.remove();
        let mut troubles = troubles.into_iter();
        troubles.next().map_or(Ok(()), |first| Err(first.and(troubles)))
    }

    /// What is to happen while it is there.
    async fn before(&self) -> Result<(), Trouble> {
        let Self { net, name, config, .. } = *self;
        self.run(&config.interface.hooks.pre_down).await?;
        match self.file {
            Some(file) if config.interface.save && is_alive(&socket_path(name)) => {
                save::save(net, file, config).await
            }
            _ => Ok(()),
        }
    }

    /// Runs hooks. Without the file, there are none.
    async fn run(&self, hooks: &[String]) -> Result<(), Trouble> {
        match self.file {
            Some(file) => hooks::run(hooks, file, self.config).await,
            None => Ok(()),
        }
    }

    /// What is to be undone; and why it may not be all.
    async fn made(&self, record: Option<Record>) -> (Vec<Made>, Option<Trouble>) {
        let name = self.name;
        let record = record.unwrap_or_default();
        let mut made: Vec<_> = record.to_undo().cloned().collect();
        if !is_alive(&socket_path(name)) || record.link().is_some_and(|link| steps::is_running(name, link)) {
            return (made, None);
        }
        // A daemon of which the record says nothing.
        let entry = match self.file {
            Some(_) => dns::entry(name, &self.config.interface),
            None => dns::entry_of_anybody(name),
        };
        made.extend(entry.map(Made::Dns));
        made.push(Made::Daemon);
        let trouble = match steps::link(self.net, name).await {
            Ok(Some(link)) => {
                made.push(Made::Link(link));
                let around = steps::look_around(self.net, name, link.index).await;
                around.map(|around| made.extend(plan::found(&around))).err()
            }
            Ok(None) => {
                output::notice(format_args!(
                    "volley: the interface of the daemon of `{name}` is not in this network namespace"
                ));
                None
            }
            Err(trouble) => Some(trouble),
        };
        (made, trouble)
    }
}
