//! Carrying out what is planned, each step written down before it is done; and undoing it.

use std::{fs, time::Duration};

use io_runtime::DeviceUpdate;
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    dns,
    firewall::Firewall,
    journal::{Journal, Link, Made, Record, ValidMark},
    locks::Lock,
    net::{Family, Net},
    plan::{self, Step, Surroundings},
};
use crate::{
    Trouble, WithFix, output,
    signals::EndSignals,
    uapi::{self, client, is_alive, socket_path},
};

/// Whether the kernel looks at marks when it checks the reverse path of what comes in.
const VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// How long a daemon may take to end. It should take half a second, on a machine that has the time.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a program may take to undo its part when somebody has asked us to end.
const GRACE: Duration = Duration::from_secs(2);

/// Whose steps, and the lock that is held for them.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) net: &'a Net,
    pub(super) name: &'a str,
    pub(super) lock: &'a Lock,
}

/// The interface of the daemon that answers on the socket of this name; `None` if the one with this name, if any, is
/// somebody else's.
pub(super) async fn link(net: &Net, name: &str) -> Result<Option<Link>, Trouble> {
    let Some(index) = net.index(name).await.or_trouble("cannot list interfaces")? else { return Ok(None) };
    let is_tun = net.is_tun(index).await.or_trouble("cannot look at the interface")?;
    let socket = uapi::identity(&socket_path(name)).or_trouble("cannot find the daemon's socket")?;
    Ok(is_tun.then_some(Link { index, socket }))
}

/// True when the daemon of this interface lives.
pub(super) fn is_running(name: &str, link: Link) -> bool {
    let socket = socket_path(name);
    uapi::identity(&socket).is_ok_and(|identity| identity == link.socket) && is_alive(&socket)
}

/// What is there, for the plan.
pub(super) async fn look_around(net: &Net, name: &str, index: u32) -> Result<Surroundings, Trouble> {
    let mark = client::get(&socket_path(name)).or_trouble("cannot read the mark")?.fwmark;
    let routes = net.all_routes().await.or_trouble("cannot list routes")?;
    let mut rules = Vec::new();
    for family in Family::ALL {
        let found = net.rules(family).await.or_trouble("cannot list rules")?;
        rules.extend(found.into_iter().map(|rule| (family, rule)));
    }
    let promised = Record::of_others(name);
    let valid_mark = valid_mark().unwrap_or_default();
    Ok(Surroundings { index, mark, routes, rules, promised, valid_mark })
}

/// Does one step for the interface.
pub(super) async fn carry_out(
    site: &Site<'_>,
    index: u32,
    journal: &mut Journal,
    step: &Step,
) -> Result<(), Trouble> {
    let Site { net, name, lock } = *site;
    match step {
        Step::Mark(mark) => {
            let update = DeviceUpdate { fwmark: Some(*mark), ..DeviceUpdate::default() };
            client::set(&socket_path(name), &update).or_trouble("cannot set the mark")
        }
        Step::Route { network, table } => {
            let added = net.add_route(index, network, *table).await;
            added.or_trouble(format!("cannot add the route {network} to table {table}"))
        }
        Step::Forget(rule) => net.delete_rule(rule).await.or_trouble("cannot remove an old rule"),
        Step::Rule(rule) => {
            journal.write_down(Made::Rule(*rule))?;
            net.add_rule(rule).await.or_trouble("cannot add a routing rule")
        }
        Step::ValidMark(before) => {
            journal.write_down(Made::ValidMark(before.clone()))?;
            let_marks_count()
        }
        Step::Firewall { family, mark } => {
            let firewall = Firewall::of(*family)?;
            journal.write_down(Made::Firewall(firewall))?;
            let addresses = net.addresses(index).await.or_trouble("cannot list addresses")?;
            firewall.set(name, &addresses, *mark, lock).await
        }
    }
}

/// Undoes what was made, the last first. What is gone already is no error, and an error does not stop the rest: what
/// could not be undone is given with its reason.
///
/// A signal does not stop it either, but other people's programs then have little time left.
pub(super) async fn undo(
    site: &Site<'_>,
    end_signals: &mut EndSignals,
    made: impl DoubleEndedIterator<Item = &Made>,
) -> Vec<(Made, Trouble)> {
    let Site { net, name, lock } = *site;
    let made: Vec<_> = made.collect();
    // Not having it makes nothing impossible: only who restores the switch is then a matter of luck.
    let is_shared = |made: &&&Made| matches!(made, Made::Rule(_) | Made::Firewall(_) | Made::ValidMark(_));
    let mut routing = match made.iter().find(is_shared) {
        Some(_) => Lock::of_routing().await.ok(),
        None => None,
    };
    let mut failed = Vec::new();
    let mut hurry = Hurry { end_signals, is_asked: false };
    let has_link = made.iter().any(|made| matches!(made, Made::Link(_)));
    for made in made.into_iter().rev() {
        let undone = match made {
            Made::Dns(entry) => hurry.up("resolvconf", dns::unset(entry, lock)).await,
            Made::Rule(rule) => net.delete_rule(rule).await.or_trouble("cannot remove a routing rule"),
            Made::Firewall(firewall) => {
                hurry.up(&firewall.tool.to_string(), firewall.remove(name, lock)).await
            }
            Made::ValidMark(before) => restore_valid_mark(net, name, before).await,
            Made::Link(link) => {
                routing = None;
                end(net, name, Some(*link)).await
            }
            Made::Daemon if has_link => Ok(()),
            Made::Daemon => {
                routing = None;
                end(net, name, None).await
            }
        };
        match undone {
            Ok(()) => Record::strike(name, made),
            Err(trouble) => failed.push((made.clone(), trouble)),
        }
    }
    drop(routing);
    failed.reverse();
    failed
}

/// Whether somebody has asked us to end.
struct Hurry<'a> {
    end_signals: &'a mut EndSignals,
    is_asked: bool,
}

impl Hurry<'_> {
    /// The end of a program's work, for which there is no bound until somebody asks.
    async fn up(
        &mut self,
        program: &str,
        work: impl Future<Output = Result<(), Trouble>>,
    ) -> Result<(), Trouble> {
        let too_long = async {
            if !self.is_asked {
                let _signal = self.end_signals.any().await;
                self.is_asked = true;
            }
            sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = too_long => Err(Trouble::new(format!("{program} took too long to undo its part, and was killed"))),
        }
    }
}

fn valid_mark() -> Option<String> {
    Some(fs::read_to_string(VALID_MARK).ok()?.trim().to_owned())
}

fn let_marks_count() -> Result<(), Trouble> {
    // In a container it may be set already, and not ours to write.
    if valid_mark().is_some_and(|value| value == "1") {
        return Ok(());
    }
    fs::write(VALID_MARK, "1").map_err(|error| {
        Trouble::new(format!("cannot set {VALID_MARK}: {error}"))
            .fix("set it before: sysctl -w net.ipv4.conf.all.src_valid_mark=1, or --sysctl in a container")
    })
}

/// Makes the switch what it was, unless somebody needs it still.
async fn restore_valid_mark(net: &Net, name: &str, before: &ValidMark) -> Result<(), Trouble> {
    let ValidMark { value: before, tables } = before;
    let is_needed = Record::of_others(name).iter().any(|made| matches!(made, Made::ValidMark(_)));
    if is_needed || before.is_empty() || before == "1" || valid_mark().is_none_or(|value| value == *before) {
        return Ok(());
    }
    let rules = net.rules(Family::V4).await.or_trouble("cannot list rules")?;
    let routes = net.all_routes().await.or_trouble("cannot list routes")?;
    if !plan::tables_of_others(&rules, &routes).is_subset(tables) {
        return Ok(()); // somebody who has come since may need it
    }
    fs::write(VALID_MARK, before).or_trouble(format!("cannot set {VALID_MARK} to {before} again"))
}

/// Deletes the daemon's interface, and waits for the end of the daemon. If the interface is not known, or not in this
/// network namespace, the daemon takes it along.
async fn end(net: &Net, name: &str, link: Option<Link>) -> Result<(), Trouble> {
    let socket = socket_path(name);
    let is_its = |link: Link| uapi::identity(&socket).is_ok_and(|identity| identity == link.socket);
    let daemon = if link.is_none_or(is_its) { UnixStream::connect(&socket).await.ok() } else { None };
    let deleted = match link {
        Some(link) => net.delete_link(link.index).await,
        None => Ok(false),
    };
    if let Some(daemon) = daemon {
        if !matches!(deleted, Ok(true)) {
            // It ends when its socket goes.
            let _ = fs::remove_file(&socket);
            if matches!(deleted, Ok(false)) && link.is_some() {
                output::notice(format_args!(
                    "volley: `{name}` is not in this network namespace: its daemon was told to end, and takes it along"
                ));
            }
        }
        let ended = async {
            closed(daemon).await;
            // It lets go of its socket first, and then of an interface that we have not deleted.
            while link.is_none() && is_there(net, name).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, ended).await.is_err() {
            return Err(Trouble::new(format!("the daemon of `{name}` does not end"))
                .fix("see whether it is stopped, and kill it"));
        }
    } else if let Err(error) = deleted {
        return Err(error).or_trouble(format!("cannot delete `{name}`"));
    }
    // A daemon that was killed leaves its socket.
    if link.is_none_or(is_its) && !is_alive(&socket) {
        let _ = fs::remove_file(&socket);
    }
    Ok(())
}

/// True when there is an interface of this name that may be a daemon's.
async fn is_there(net: &Net, name: &str) -> bool {
    match net.index(name).await {
        Ok(Some(index)) => net.is_tun(index).await.unwrap_or(false),
        _ => false,
    }
}

/// True when the daemon of an interface that is gone is gone, too, or goes in a moment.
pub(super) async fn is_gone(name: &str) -> bool {
    match UnixStream::connect(socket_path(name)).await {
        Ok(daemon) => timeout(PATIENCE, closed(daemon)).await.is_ok(),
        Err(_) => true,
    }
}

/// Resolves when the daemon at the other end has ended.
async fn closed(mut daemon: UnixStream) {
    let mut rest = [0; 64];
    while daemon.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}
