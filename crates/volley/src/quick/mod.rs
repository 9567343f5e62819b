//! `volley up` and `volley down`: what `wg-quick` does, by netlink, so that neither it nor a loaded kernel
//! module matters. The file's format and its meaning are the same.

mod file;
mod firewall;
mod first_process;
mod hooks;
mod net;
mod resolve;
mod save;

use std::{fs, io, thread, time::Duration};

use caps::{CapSet, Capability};
use io_runtime::DeviceUpdate;
use ipnet::IpNet;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tun_device::check_interface_name;

use self::{
    file::ConfigFile,
    net::{Family, Net},
};
use crate::{
    Trouble, WithFix,
    config::{self, Config, Table},
    daemon, output,
    uapi::{client, is_alive, socket_path},
};

/// What WireGuard adds to a packet at most, bytes: 40 of IPv6, 8 of UDP, 32 of its own.
const OVERHEAD: u32 = 80;

/// The MTU of the network below where nothing is known about it, bytes.
const ETHERNET_MTU: u32 = 1_500;

/// The first table for default routes, and the mark that goes with it: what `wg-quick` begins with.
const FIRST_TABLE: u32 = 51_820;

/// `volley up CONF`. With `running`, its daemon is there already: systemd starts it.
///
/// As a container's first process it stays while the daemon runs, for both would end with it; asked to end, it takes
/// down what it has brought up.
pub(crate) fn up(argument: &str, running: bool) -> Result<(), Trouble> {
    let file = ConfigFile::read(argument)?;
    let config = file.parse()?;
    let name = &file.interface;
    require_privilege()?;
    let update = resolve::update(&config)?;
    event_loop()?.block_on(async {
        let net = Net::open().or_trouble("cannot open a netlink socket")?;
        let exists = net.index(name).await.or_trouble("cannot list interfaces")?.is_some();
        if exists && !running {
            return Err(Trouble::new(format!("the interface `{name}` exists already"))
                .fix(format!("take it down first: volley down {argument}")));
        }
        let mut end = EndSignals::listen()?;
        tokio::select! {
            done = hooks::run(&config.interface.hooks.pre_up, name) => done?,
            asked = end.any() => return Err(Trouble::new(asked)),
        }
        let daemon = if running { None } else { Some(daemon::launch(name)?) };
        let done = tokio::select! {
            done = bring_up(&net, name, &config, &update) => done,
            asked = end.any() => Err(Trouble::new(asked)),
        };
        if done.is_err() {
            // What went wrong first is what matters.
            let _ = take_down(&net, name, &config).await;
            return done;
        }
        let Some(daemon) = daemon else { return Ok(()) };
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        if !first_process::is_this() {
            return Ok(());
        }
        tokio::select! {
            ended = first_process::ended(daemon) => ended,
            _ = end.any() => bring_down(&net, &file, &config).await,
        }
    })
}

/// The signals that ask a program to end.
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    fn listen() -> Result<Self, Trouble> {
        let listen = |kind| signal(kind).or_trouble("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Resolves when one comes, and says how.
    async fn any(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }
}

async fn bring_up(net: &Net, name: &str, config: &Config, update: &DeviceUpdate) -> Result<(), Trouble> {
    let interface = &config.interface;
    client::set(&socket_path(name), update).map_err(|error| explain_refusal(&error, update))?;
    let index = net.index(name).await.or_trouble("cannot find the interface")?;
    let index = index.ok_or_else(|| Trouble::new(format!("the interface `{name}` vanished")))?;
    for address in &interface.addresses {
        net.add_address(index, address).await.or_trouble(format!("cannot add the address {address}"))?;
    }
    let mtu = match interface.mtu {
        Some(mtu) => mtu,
        None => suitable_mtu(net, update).await,
    };
    net.set_up(index, mtu).await.or_trouble(format!("cannot bring `{name}` up with an MTU of {mtu}"))?;
    hooks::set_dns(name, interface)?;
    for network in routed_networks(config) {
        add_route(net, name, index, config, &network).await?;
    }
    hooks::run(&interface.hooks.post_up, name).await
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

/// Every allowed IP once, the most specific first.
fn routed_networks(config: &Config) -> Vec<IpNet> {
    let mut networks: Vec<_> = config.peers.iter().flat_map(|peer| &peer.allowed_ips).copied().collect();
    networks.sort_by_key(|network| std::cmp::Reverse((network.prefix_len(), *network)));
    networks.dedup();
    networks
}

async fn add_route(
    net: &Net,
    name: &str,
    index: u32,
    config: &Config,
    network: &IpNet,
) -> Result<(), Trouble> {
    const MAIN: u32 = 254;
    let table = match &config.interface.table {
        Table::Off => return Ok(()),
        Table::Auto if network.prefix_len() == 0 => {
            return add_default(net, name, index, network).await;
        }
        Table::Auto if net.covers(index, network).await.or_trouble("cannot list routes")? => return Ok(()),
        Table::Auto => MAIN,
        Table::Named(table) => table_number(table)?,
    };
    net.add_route(index, network, table).await.or_trouble(format!("cannot add the route {network}"))
}

/// Sends everything through the tunnel, but for the tunnel's own datagrams, which carry a mark.
async fn add_default(net: &Net, name: &str, index: u32, network: &IpNet) -> Result<(), Trouble> {
    let family = Family::of(network);
    let socket = socket_path(name);
    let mut table = client::get(&socket).or_trouble("cannot read the mark")?.fwmark;
    if table == 0 {
        table = FIRST_TABLE;
        while !net.is_empty(table).await.or_trouble("cannot list routes")? {
            table += 1;
        }
        // Rules to an empty table are left from a daemon that was killed.
        for family in Family::ALL {
            net.delete_rules(family, table).await.or_trouble("cannot remove old rules")?;
        }
        let mark = DeviceUpdate { fwmark: Some(table), ..DeviceUpdate::default() };
        client::set(&socket, &mark).or_trouble("cannot set the mark")?;
    }
    net.add_route(index, network, table).await.or_trouble(format!("cannot add the route {network}"))?;
    net.add_mark_rule(family, table).await.or_trouble("cannot add the rule for marked packets")?;
    net.add_suppress_rule(family).await.or_trouble("cannot add the rule for the main table")?;
    if family == Family::V4 {
        let_marks_count()?;
    }
    let addresses = net.addresses(index).await.or_trouble("cannot list addresses")?;
    firewall::set(name, family, &addresses, table)
}

/// Makes the kernel look at marks when it checks the reverse path of what comes in.
fn let_marks_count() -> Result<(), Trouble> {
    const SWITCH: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";
    // In a container it may be set already, and not ours to write.
    if fs::read_to_string(SWITCH).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    fs::write(SWITCH, "1").map_err(|error| {
        Trouble::new(format!("cannot set {SWITCH}: {error}"))
            .fix("set it before: sysctl -w net.ipv4.conf.all.src_valid_mark=1, or --sysctl in a container")
    })
}

/// A table's number, by itself or from the names that iproute2 knows.
fn table_number(table: &str) -> Result<u32, Trouble> {
    if let Ok(number) = table.parse() {
        return Ok(number);
    }
    let files = ["/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables"];
    let texts: String = files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let named = texts.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        (words.next()? == table).then_some(number)
    });
    named.ok_or_else(|| {
        Trouble::new(format!("there is no routing table `{table}`")).fix("name it in /etc/iproute2/rt_tables")
    })
}

/// `volley down CONF`. Without a file, the interface goes without hooks.
pub(crate) fn down(argument: &str) -> Result<(), Trouble> {
    require_privilege()?;
    let running = check_interface_name(argument).is_ok() && is_alive(&socket_path(argument));
    let (name, file) = match ConfigFile::read(argument) {
        Ok(file) => (file.interface.clone(), Some(file)),
        Err(_) if running => (argument.to_owned(), None),
        Err(trouble) => return Err(trouble),
    };
    let config = file.as_ref().map_or_else(|| Ok(Config::default()), ConfigFile::parse)?;
    if !is_alive(&socket_path(&name)) {
        return Err(Trouble::new(format!("`{name}` is not running")).fix(format!("volley up {argument}")));
    }
    event_loop()?.block_on(async {
        let net = Net::open().or_trouble("cannot open a netlink socket")?;
        match file {
            Some(file) => bring_down(&net, &file, &config).await,
            None => take_down(&net, &name, &config).await,
        }
    })
}

/// What `down` does, hooks and all.
async fn bring_down(net: &Net, file: &ConfigFile, config: &Config) -> Result<(), Trouble> {
    let (name, hooks) = (&file.interface, &config.interface.hooks);
    hooks::run(&hooks.pre_down, name).await?;
    if config.interface.save {
        save::save(net, file, config).await?;
    }
    take_down(net, name, config).await?;
    hooks::run(&hooks.post_down, name).await
}

/// `volley save CONF`: writes what is in force to the file.
pub(crate) fn save(argument: &str) -> Result<(), Trouble> {
    let file = ConfigFile::read(argument)?;
    let config = file.parse()?;
    event_loop()?.block_on(async {
        let net = Net::open().or_trouble("cannot open a netlink socket")?;
        save::save(&net, &file, &config).await
    })
}

/// `volley strip CONF`.
pub(crate) fn strip(argument: &str) -> Result<(), Trouble> {
    let file = ConfigFile::read(argument)?;
    output::write(config::strip(file.text()).as_bytes())
}

/// Removes everything that [`bring_up`] may have made.
async fn take_down(net: &Net, name: &str, config: &Config) -> Result<(), Trouble> {
    hooks::unset_dns(name, &config.interface);
    firewall::remove(name);
    let socket = socket_path(name);
    if let Ok(device) = client::get(&socket)
        && device.fwmark != 0
        && config.interface.table == Table::Auto
    {
        for family in Family::ALL {
            net.delete_rules(family, device.fwmark).await.or_trouble("cannot remove the rules")?;
        }
    }
    if let Some(index) = net.index(name).await.or_trouble("cannot list interfaces")? {
        net.delete_link(index).await.or_trouble(format!("cannot delete `{name}`"))?;
    }
    // Whoever comes next should not find the old daemon, nor its socket: that goes last.
    for _ in 0..200 {
        if !socket.exists() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(Trouble::new(format!("the daemon of `{name}` has not ended, though its interface is gone"))
        .fix(format!("take its socket away: rm {}", socket.display())))
}

/// Says so at once, rather than with the first step that needs it.
fn require_privilege() -> Result<(), Trouble> {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(false) => {
            Err(Trouble::new("no permission to set interfaces up").fix("run as root, or with CAP_NET_ADMIN"))
        }
        _ => Ok(()),
    }
}

fn event_loop() -> Result<tokio::runtime::Runtime, Trouble> {
    let started: io::Result<_> = tokio::runtime::Builder::new_current_thread().enable_all().build();
    started.or_trouble("cannot start the event loop")
}
