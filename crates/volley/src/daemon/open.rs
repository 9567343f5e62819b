//! Making what the daemon needs, in the order that leaves nothing behind when a step fails.

use std::{
    env,
    os::fd::{OwnedFd, RawFd},
};

use nix::net::if_::if_nametoindex;
use tracing::warn;
use tun_device::{LinuxTun, TunDevice, TunOptions};

use super::{DaemonArgs, background::INHERITED, link::Interface};
use crate::{
    Trouble, WithFix,
    metrics::Metrics,
    pcap::Capture,
    uapi::{BindError, Socket, directory_fix, is_alive, socket_path},
};

/// The MTU of a new interface, bytes: 1500, less 40 of IPv6, 8 of UDP and 32 of WireGuard. What the
/// kernel's own device has, and what `wg-quick` sets.
const DEFAULT_MTU: u16 = 1420;

/// The transmit queue of a new interface, packets or super-packets. About what a busy sender of small packets writes in
/// one of the scheduler's time slices (2.8 ms), for which the daemon may have to wait; measured in docs/performance.md.
const DEFAULT_TX_QUEUE_LEN: u32 = 2_000;

/// The interface and the socket, both ready.
pub(super) struct Device {
    pub(super) tun: LinuxTun,
    pub(super) socket: Socket,
    pub(super) name: String,
    pub(super) interface: Interface,
    pub(super) capture: Option<Capture>,
    pub(super) metrics: Option<Metrics>,
}

pub(super) fn open(args: &DaemonArgs) -> Result<Device, Trouble> {
    let [tun_variable, socket_variable] = INHERITED;
    let inherited_tun = inherited(tun_variable)?;
    let inherited_socket = inherited(socket_variable)?;
    let offload = !args.no_tun_offload;
    if inherited_socket.is_none() && is_alive(&socket_path(args.name())) {
        return Err(already_running(args.name()));
    }

    let asked_for = TunOptions { offload, mtu: args.mtu.map(usize::from), tx_queue_len: args.tx_queue_len };
    let is_given = inherited_tun.is_some();
    let tun = match inherited_tun {
        // Whoever made it has chosen its MTU and its queue.
        Some(fd) => LinuxTun::from_fd(fd, &asked_for),
        None => create(args.name(), &asked_for),
    }?;
    let is_ours = !is_given && tun.is_persistent().is_ok_and(|persistent| !persistent);
    // As the kernel's own: an interface that nobody gave an address is silent.
    if is_ours && let Err(error) = tun.generate_no_address() {
        warn!("`{}` will give itself an IPv6 address and solicit routers: {error}", tun.name());
    }
    let name = tun.name().to_owned();
    let index = if_nametoindex(name.as_str()).or_trouble(format!("cannot find the interface `{name}`"))?;
    let mtu = tun.mtu().or_trouble(format!("cannot read the MTU of `{name}`"))?;
    let link = tun.link().or_trouble(format!("cannot watch the interface `{name}`"))?;
    let interface = Interface { link, index, mtu, is_ours };
    let socket = match inherited_socket {
        Some(fd) => Socket::inherited(fd),
        None => bind(&name)?,
    };
    let metrics = args.metrics.as_ref().map(|address| Metrics::bind(address, &name)).transpose()?;
    // Last, for it may replace an older one.
    let capture = args.pcap.as_deref().map(|file| Capture::create(file, &name)).transpose()?;
    Ok(Device { tun, socket, name, interface, capture, metrics })
}

/// Makes the interface, or attaches to one that is there. What nobody asked for is no reason to fail.
fn create(name: &str, asked_for: &TunOptions) -> Result<LinuxTun, tun_device::Error> {
    let mtu = asked_for.mtu.or_else(|| Some(DEFAULT_MTU.into()));
    let tun = LinuxTun::create(name, &TunOptions { mtu, ..*asked_for })?;
    if asked_for.tx_queue_len.is_none()
        && let Err(error) = tun.set_tx_queue_len(DEFAULT_TX_QUEUE_LEN)
    {
        warn!("the transmit queue of `{}` stays as the kernel made it: {error}", tun.name());
    }
    Ok(tun)
}

fn bind(name: &str) -> Result<Socket, Trouble> {
    Socket::bind(&socket_path(name)).map_err(|error| match error {
        BindError::Taken(_) => already_running(name),
        BindError::Io { ref source, .. } => {
            let fix = directory_fix(source);
            Trouble::new(error.to_string()).fix(fix)
        }
    })
}

fn already_running(name: &str) -> Trouble {
    let end = match if_nametoindex(name) {
        Ok(_) => format!("ip link delete {name}"),
        // Its interface is in another network namespace, or has another name by now; it ends with its socket, too.
        Err(_) => format!("rm {}", socket_path(name).display()),
    };
    Trouble::new(format!("a daemon is already running for `{name}`"))
        .fix(format!("use it as it is, or end it first: {end}"))
}

/// The descriptor that an environment variable names, if it is set.
fn inherited(variable: &str) -> Result<Option<OwnedFd>, Trouble> {
    let Some(value) = env::var_os(variable) else { return Ok(None) };
    let wrong = || {
        Trouble::new(format!("{variable} does not name an open file descriptor"))
            .fix(format!("unset {variable}, or pass the descriptor on without close-on-exec"))
    };
    let number: RawFd = value.to_str().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    tun_device::inherited_fd(number).map(Some).map_err(|_| wrong())
}
