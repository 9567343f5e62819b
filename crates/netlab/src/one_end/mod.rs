//! One end of a tunnel alone: a real daemon, and at the other end what costs next to nothing.
//!
//! To let it *send*, packets are put into its interface, and its peers' host throws away what is longer than a
//! handshake before anybody looks at it. To let it *receive*, a peer seals everything beforehand and then only sends; what
//! comes out of the tunnel is thrown away. What was carried is read off the interfaces' counters.

mod far;
mod frames;
mod incoming;
mod meter;
mod outgoing;
mod pace;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use encrypt::PublicKey;
use tun_device::{LinuxTun, TunOptions};

use self::{
    far::FarEnd,
    frames::Packets,
    incoming::Sealed,
    meter::{Counted, Meter},
    outgoing::Entry,
};
pub use self::{
    frames::{InnerProtocol, PACKET_LEN, super_packet},
    incoming::Incoming,
    meter::Measured,
    outgoing::Outgoing,
};
use crate::{
    daemon::{Daemon, Implementation},
    link,
    namespace::Host,
    placement::{Placement, confine},
    tunnel::Side,
    uapi::{DeviceConfig, PeerConfig},
};

/// The most full packets that one call hands over, at either side of a tunnel.
pub const FULL_TRAIN: usize = 45;

const INTERFACE: &str = "wg0";
const LINK: &str = "link";
/// The interface whose packets are forwarded into the tunnel.
const ENTRY: &str = "entry";
const ENTRY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// Who is behind it.
const ENTRY_HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const PORT: u16 = 51820;
/// The peers' addresses on the link (198.18.0.0/15) and in the tunnel (10.128.0.0/9).
const OUTER_PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
const INNER_PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
/// IPv4 and UDP, and the longest handshake message; then some room.
const LONGEST_HANDSHAKE: usize = 200;

/// What is measured, and how it is set up.
#[derive(Clone, Debug)]
pub struct OneEndPlan {
    /// The daemon.
    pub implementation: Implementation,
    /// How many peers it has.
    pub peers: usize,
    /// Where everything runs; `None` leaves that to the scheduler.
    pub placement: Option<Placement>,
    /// What the peers seal with.
    pub cipher: FarCipher,
}

/// What the peers seal data messages with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarCipher {
    /// What WireGuard says.
    WireGuard,
    /// Nothing: for a daemon that was built without a cipher, to show what everything else costs.
    None,
}

/// A daemon with its peers. Dropping it ends the daemon, and the hosts with it.
pub struct OneEnd {
    plan: OneEndPlan,
    // Dropped first, while its host is there.
    daemon: Daemon,
    far: FarEnd,
    sealed: Sealed,
    socket: UdpSocket,
    entry: LinuxTun,
    _hosts: [Host; 2],
}

impl OneEnd {
    /// Starts the daemon and tells it its peers. Sessions are made when they are needed.
    ///
    /// # Errors
    /// Without privilege or `nft`, or when the daemon fails.
    pub fn start(plan: &OneEndPlan) -> Result<Self> {
        let (end, far) = (Host::new("end")?, Host::new("far")?);
        if let Some(placement) = plan.placement.clone() {
            end.run(move || confine(&placement.daemon))?;
        }
        link::connect(&end, LINK, &far, LINK, 1500)?;
        for (host, side) in [(&end, Side::A), (&far, Side::B)] {
            host.add_address(LINK, side.outer_v4(), 24)?;
        }
        let (IpAddr::V4(daemon_address), IpAddr::V4(far_address)) = (Side::A.outer_v4(), Side::B.outer_v4())
        else {
            unreachable!("they are IPv4's")
        };
        // On the loopback, an address makes its whole prefix the host's own.
        far.add_address("lo", far::outer_address(0).into(), OUTER_PREFIX.1)?;
        end.add_route_via(OUTER_PREFIX.0, OUTER_PREFIX.1, far_address)?;

        let daemon = Daemon::start(&end, &plan.implementation, INTERFACE)?;
        daemon.uapi().set(&end, &config(plan.peers))?;
        end.set_mtu(INTERFACE, PACKET_LEN as u32)?;
        end.set_up_tunnel(INTERFACE, PORT)?;
        end.add_address(INTERFACE, Side::A.inner_v4(), 24)?;
        end.add_route(INNER_PREFIX.0.into(), INNER_PREFIX.1, INTERFACE)?;

        drop_early(&end, &format!("iifname {INTERFACE}"))?;
        drop_early(&far, &format!("iifname {LINK} meta length > {LONGEST_HANDSHAKE}"))?;

        let entry = end.run(|| {
            let options = TunOptions { mtu: Some(PACKET_LEN), ..TunOptions::default() };
            LinuxTun::create(ENTRY, &options)
        })?;
        end.add_address(ENTRY, ENTRY_ADDRESS.into(), 24)?;
        end.set_up(ENTRY)?;
        end.sysctl("net/ipv4/ip_forward", "1")?;

        let socket = end.run(|| UdpSocket::bind((Side::A.inner_v4(), 0))).context("the load's socket")?;
        let far_socket =
            far.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).context("the peers' socket")?;
        let daemon_key = PublicKey::from_hex(Side::A.public_key())?;
        let far_end =
            FarEnd::new(far_socket, SocketAddrV4::new(daemon_address, PORT), daemon_key, plan.peers)?;
        Ok(Self {
            plan: plan.clone(),
            daemon,
            far: far_end,
            sealed: Sealed::default(),
            socket,
            entry,
            _hosts: [end, far],
        })
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The daemon's host.
    pub fn host(&self) -> &Host {
        &self._hosts[0]
    }

    /// Lets the daemon send.
    ///
    /// # Errors
    /// When a peer gets no session, or the load cannot be made. Losses are no error.
    pub fn send(&mut self, load: &Outgoing) -> Result<Measured> {
        load.check(self.plan.peers)?;
        self.far.connect(load.peers).with_context(|| self.daemon.output())?;
        let meter = Meter { daemon: self.daemon.pid(), interface: LINK, counted: Counted::Leaving };
        let (socket, tun) = (&self.socket, &self.entry);
        on_the_loads_processors(self.plan.placement.as_ref(), || {
            let mut entry = Entry::new(socket, tun, ENTRY_HOST, load);
            let start = meter.read()?;
            let sent = entry.run(load)?;
            let end = meter.read()?;
            meter.settle(&start, sent, end)
        })
    }

    /// Lets the daemon receive, from its first peer.
    ///
    /// # Errors
    /// When that gets no session, or the load cannot be made. Losses are no error.
    pub fn receive(&mut self, load: &Incoming) -> Result<Measured> {
        load.check()?;
        let keys = self.far.connect_anew(0).with_context(|| self.daemon.output())?;
        let counted = Counted::Delivered(load.protocol);
        let meter = Meter { daemon: self.daemon.pid(), interface: INTERFACE, counted };
        let IpAddr::V4(to) = Side::A.inner_v4() else { unreachable!("it is IPv4's") };
        let mut packets = Packets::new(load.protocol, far::inner_address(0), to);
        let (sealed, far) = (&mut self.sealed, &self.far);
        let cipher = self.plan.cipher;
        on_the_loads_processors(self.plan.placement.as_ref(), || {
            let mut all = Measured::default();
            for trains in load.goes() {
                sealed.prepare(&mut packets, &keys, cipher, trains)?;
                let start = meter.read()?;
                let sent = sealed.send(far, load)?;
                let end = meter.read()?;
                all += meter.settle(&start, sent, end)?;
            }
            Ok(all)
        })
    }
}

fn config(peers: usize) -> DeviceConfig {
    let peer = |number| PeerConfig {
        public_key: far::public_key(number),
        endpoint: Some(SocketAddr::new(far::outer_address(number).into(), PORT)),
        allowed_ips: vec![format!("{}/32", far::inner_address(number))],
        ..PeerConfig::default()
    };
    DeviceConfig {
        private_key: Side::A.private_key().into(),
        listen_port: PORT,
        peers: (0..peers).map(peer).collect(),
    }
}

/// Drops the packets that `matching` describes where they arrive, before routing and connection tracking: nothing
/// earlier is to be had for every kind of interface.
fn drop_early(host: &Host, matching: &str) -> Result<()> {
    let rules = format!(
        "add table inet netlab; \
         add chain inet netlab raw {{ type filter hook prerouting priority raw; }}; \
         add rule inet netlab raw {matching} drop"
    );
    let output = host
        .run(move || Command::new("nft").arg(rules).output())
        .context("cannot run nft: install nftables")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft in {}: {}", host.name(), said.trim());
    Ok(())
}

/// Does the load's work on a thread of its own, on the load's processors.
fn on_the_loads_processors<T: Send>(
    placement: Option<&Placement>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let load = || {
        placement.map_or(Ok(()), |placement| confine(&placement.load))?;
        // Without this the kernel may stretch each short sleep by 50 µs (prctl(2), PR_SET_TIMERSLACK).
        nix::sys::prctl::set_timerslack(1_000)?;
        work()
    };
    thread::scope(|scope| scope.spawn(load).join()).map_err(|_| anyhow!("the load panicked"))?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Need;

    #[test]
    fn every_packet_of_a_gentle_load_is_carried_and_counted() {
        crate::require!(Need::Namespaces, Need::Program("nft"), Need::Peer("wireguard-go"));
        let implementation = Implementation::find("wireguard-go").unwrap();
        let placement = Some(Placement::cores(1).unwrap());
        let plan = OneEndPlan { implementation, peers: 20, placement, cipher: FarCipher::WireGuard };
        let mut end = OneEnd::start(&plan).unwrap();
        // All of it fits the shortest queue and the smallest buffer, should the daemon be kept waiting.
        let (rate, time) = (5e6, Duration::from_millis(200));
        let is_whole = |measured: Measured| {
            assert!(measured.sent > 0, "{measured:?}");
            assert_eq!(measured.carried, measured.sent);
            assert!(measured.daemon_cpu > Duration::ZERO && measured.load_cpu > Duration::ZERO);
        };
        for (protocol, train, peers) in [
            (InnerProtocol::Udp, FULL_TRAIN, 1),
            (InnerProtocol::Tcp, FULL_TRAIN, 1),
            (InnerProtocol::Udp, 1, 20),
        ] {
            is_whole(end.send(&Outgoing { protocol, train, peers, rate, time }).unwrap());
        }
        for protocol in [InnerProtocol::Udp, InnerProtocol::Tcp] {
            // A train at a time.
            let memory = FULL_TRAIN * 1_452;
            is_whole(end.receive(&Incoming { protocol, rate, time, memory }).unwrap());
        }
    }
}
