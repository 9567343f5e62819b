//! Bringing an interface up: everything that is made is written down first, and undone if something fails.

use std::process::Child;

use io_runtime::DeviceUpdate;
use ipnet::IpNet;

use super::{
    dns,
    file::ConfigFile,
    hooks,
    journal::{Journal, Link, Made, Record},
    locks::Lock,
    net::Net,
    plan::{self, Target},
    report, resolve,
    steps::{self, Site},
    tables,
};
use crate::{
    Trouble, WithFix,
    config::{Config, Table},
    daemon, output,
    signals::EndSignals,
    uapi::{client, is_alive, socket_path},
};

/// What WireGuard adds to a packet at most, bytes: 40 of IPv6, 8 of UDP, 32 of its own.
const OVERHEAD: u32 = 80;

/// The MTU of the network below where nothing is known about it, bytes.
const ETHERNET_MTU: u32 = 1_500;

/// The smallest MTU of an interface that has IPv6, bytes (RFC 8200 §5; `IPV6_MIN_MTU`, linux/ipv6.h).
const IPV6_MIN_MTU: u32 = 1_280;

/// One interface that is to come up, its lock held.
pub(super) struct Start<'a> {
    pub(super) net: &'a Net,
    pub(super) file: &'a ConfigFile,
    /// What it says.
    pub(super) config: &'a Config,
    /// Its daemon is there already.
    pub(super) running: bool,
    pub(super) lock: &'a Lock,
}

impl Start<'_> {
    fn name(&self) -> &str {
        &self.file.interface
    }

    pub(super) fn site(&self) -> Site<'_> {
        Site { net: self.net, name: self.name(), lock: self.lock }
    }

    /// Refuses what is there, and undoes what is left of an earlier start that did not come to its end, or whose daemon
    /// was killed.
    pub(super) async fn clear_the_way(&self, end_signals: &mut EndSignals) -> Result<(), Trouble> {
        let name = self.name();
        let taken = |what: &str| {
            Trouble::new(format!("{what} `{name}` exists already"))
                .fix(format!("take it down first: volley down {}", self.file.path.display()))
        };
        let link = if self.running { Some(self.running_link().await?) } else { None };
        if let Some(record) = Record::read(name)? {
            let is_this = link.is_some() && record.link() == link;
            let lives = record.link().is_some_and(|link| steps::is_running(name, link));
            if is_this || (lives && record.is_complete) {
                return Err(taken("the interface"));
            }
            output::notice(format_args!("volley: undoing what an earlier `{name}` has left"));
            // A daemon that runs already is not the one of the record.
            let of_others = |made: &&Made| !(self.running && **made == Made::Daemon);
            let failed = steps::undo(&self.site(), end_signals, record.to_undo().filter(of_others)).await;
            report(name, failed)?;
        }
        if self.running {
            return Ok(());
        }
        if self.net.index(name).await.or_trouble("cannot list interfaces")?.is_some() {
            return Err(taken("the interface"));
        }
        // `ip link delete`, and `wg-quick down`, do not wait for its end.
        if !steps::is_gone(name).await {
            return Err(taken("the daemon of"));
        }
        Ok(())
    }

    /// The interface whose daemon somebody else has started.
    async fn running_link(&self) -> Result<Link, Trouble> {
        let name = self.name();
        let socket = socket_path(name);
        if !is_alive(&socket) {
            return Err(Trouble::new(format!("no daemon runs for `{name}`"))
                .fix(format!("start it first: volley run {name}; or leave --running out")));
        }
        steps::link(self.net, name).await?.ok_or_else(|| {
            Trouble::new(format!("`{name}` is not the interface of the daemon that runs for it"))
                .fix("rename the one that has its name, or look for the daemon's in other network namespaces")
        })
    }

    /// Makes the interface and all that goes with it. Gives the daemon, if this has started it.
    ///
    /// Dropped, or failing, it leaves what is in `journal`.
    pub(super) async fn bring_up(&self, journal: &mut Journal) -> Result<Option<Child>, Trouble> {
        let Self { net, file, config, .. } = *self;
        let (name, interface) = (self.name(), &config.interface);
        hooks::run(&interface.hooks.pre_up, file, config).await?;
        // Only now: a hook may have brought the network up, or the name.
        let update = &resolve::update(config).await?;
        let daemon = if self.running { None } else { Some(self.launch(journal).await?) };
        let link = steps::link(self.net, name)
            .await?
            .ok_or_else(|| Trouble::new(format!("the interface `{name}` vanished")))?;
        journal.write_down(Made::Link(link))?;
        let index = link.index;
        client::set(&socket_path(name), update).map_err(|error| explain_refusal(&error, update))?;
        for address in &interface.addresses {
            net.add_address(index, address).await.or_trouble(format!("cannot add the address {address}"))?;
        }
        let mtu = match interface.mtu {
            Some(mtu) => mtu,
            None => suitable_mtu(net, update).await,
        };
        allow_for_ipv6(mtu, config)?;
        net.set_up(index, mtu).await.or_trouble(format!("cannot bring `{name}` up with an MTU of {mtu}"))?;
        dns::warn(interface);
        if let Some(entry) = dns::entry(name, interface) {
            journal.write_down(Made::Dns(entry.clone()))?;
            dns::set(&entry, interface, self.lock).await?;
        }
        self.add_routes(journal, index).await?;
        hooks::run(&interface.hooks.post_up, file, config).await?;
        journal.complete()?;
        Ok(daemon)
    }

    async fn launch(&self, journal: &mut Journal) -> Result<Child, Trouble> {
        let lock = self.lock.shared().or_trouble("cannot pass the lock on")?;
        journal.write_down(Made::Daemon)?;
        // If there is one now, it is somebody else's.
        daemon::launch(self.name(), lock).await.inspect_err(|_| journal.withdraw())
    }

    async fn add_routes(&self, journal: &mut Journal, index: u32) -> Result<(), Trouble> {
        let Self { net, config, .. } = *self;
        let name = self.name();
        let target = match &config.interface.table {
            Table::Off => return Ok(()),
            Table::Auto => Target::Auto,
            Table::Named(table) => Target::Table(tables::number(table)?),
        };
        let networks = plan::routed_networks(config);
        // Nobody else chooses a table or a place for rules meanwhile.
        let lock = match plan::needs_rules(&networks, target) {
            true => Some(Lock::of_routing().await?),
            false => None,
        };
        let around = steps::look_around(net, name, index).await?;
        for step in plan::routing(&networks, target, &around)? {
            steps::carry_out(&self.site(), index, journal, &step).await?;
        }
        drop(lock);
        Ok(())
    }
}

/// The kernel takes IPv6 away from an interface whose MTU is too small for it, addresses and all, and says nothing.
fn allow_for_ipv6(mtu: u32, config: &Config) -> Result<(), Trouble> {
    if mtu >= IPV6_MIN_MTU {
        return Ok(());
    }
    let is_v6 = |network: &&IpNet| matches!(network, IpNet::V6(_));
    let small = format!("an MTU of {mtu} is too small for IPv6, which needs {IPV6_MIN_MTU}");
    let routed =
        if config.interface.table == Table::Off { Vec::new() } else { plan::routed_networks(config) };
    if let Some(network) = routed.iter().find(is_v6) {
        return Err(Trouble::new(format!("cannot add the route {network}: {small}"))
            .fix(format!("set MTU = {IPV6_MIN_MTU} or more, or take IPv6 out of AllowedIPs")));
    }
    let lost: Vec<_> = config.interface.addresses.iter().filter(is_v6).map(ToString::to_string).collect();
    if !lost.is_empty() {
        output::notice(format_args!("volley: warning: {small}: the interface has no {}", lost.join(", ")));
    }
    Ok(())
}

fn explain_refusal(error: &client::Error, update: &DeviceUpdate) -> Trouble {
    let trouble = Trouble::new(format!("cannot configure the interface: {error}"));
    match (error, update.listen_port) {
        (client::Error::Refused(98), Some(port)) => {
            trouble.fix(format!("choose another ListenPort than {port}"))
        }
        _ => trouble,
    }
}

/// As `wg-quick` finds it: the largest on the way to any peer, less the overhead.
async fn suitable_mtu(net: &Net, update: &DeviceUpdate) -> u32 {
    let mut largest = None;
    for endpoint in update.tunnel.peers.iter().filter_map(|peer| peer.endpoint) {
        largest = largest.max(net.mtu_to(endpoint.ip()).await);
    }
    let below = match largest {
        Some(mtu) => mtu,
        None => net.default_mtu().await.unwrap_or(ETHERNET_MTU),
    };
    // Not less than every IPv4 host must take (RFC 791 §3.1), not more than a TUN interface may have.
    below.saturating_sub(OVERHEAD).clamp(576, 65_535)
}
