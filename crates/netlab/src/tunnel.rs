//! Two hosts, a link, two daemons and keys: a tunnel that has carried its first ping.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    clock,
    daemon::{Daemon, Implementation},
    emulator::{Emulator, Impairment},
    link,
    namespace::Host,
    traffic::answers,
    uapi::{DeviceConfig, PeerConfig},
};

/// One end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Left.
    A,
    /// Right.
    B,
}

/// Keys for the lab only, made once with `wg genkey`: they are published here and protect nothing.
struct LabKeys {
    private: &'static str,
    public: &'static str,
}

const KEYS_A: LabKeys = LabKeys {
    private: "980e23d63b6c360bddd811eadf9f982d763e5f91292d3a5e40280c125acf525f",
    public: "d112cc7a2990f4ab0435ba926518df2d06f58bec03f67727ea682141489e8a1a",
};
const KEYS_B: LabKeys = LabKeys {
    private: "b80a0271a380cc7b2dfca31d36ca275b3d5933e400d45715eb1679e3a481687c",
    public: "3b800ee645e312e673632b579cf57ef64a5f38e087e850329c90f13c4c743b3c",
};

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its private key, hexadecimal. Published, for the lab only.
    pub const fn private_key(self) -> &'static str {
        self.keys().private
    }

    /// Its public key, hexadecimal.
    pub const fn public_key(self) -> &'static str {
        self.keys().public
    }

    /// Its IPv4 address in the tunnel.
    pub const fn inner_v4(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, self.number()))
    }

    /// Its IPv6 address in the tunnel.
    pub const fn inner_v6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number() as u16))
    }

    /// Its IPv4 address on the link that the tunnel crosses.
    pub const fn outer_v4(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, self.number()))
    }

    /// Its IPv6 address on the link that the tunnel crosses.
    pub const fn outer_v6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self.number() as u16))
    }

    const fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    const fn keys(self) -> LabKeys {
        match self {
            Self::A => KEYS_A,
            Self::B => KEYS_B,
        }
    }
}

/// The tunnel's interface in both hosts.
const INTERFACE: &str = "wg0";
/// The link's interface in both hosts.
const LINK: &str = "link";
/// WireGuard's customary port.
const PORT: u16 = 51820;
/// Handshake retries come every 5 s: enough for a lost one, and for a slow start.
const READY: Duration = Duration::from_secs(15);
/// Between pings of a tunnel that is not ready.
const ATTEMPT: Duration = Duration::from_millis(100);

/// How to build a [`Tunnel`].
#[derive(Clone, Debug)]
pub struct TunnelBuilder {
    implementations: [Implementation; 2],
    mtu: u32,
    link_mtu: u32,
    outer_v6: bool,
    initiator: Option<Side>,
    preshared_key: Option<String>,
    keepalive: Option<u16>,
    emulated: Option<Impairment>,
}

impl TunnelBuilder {
    /// A tunnel between two implementations over a veth pair, IPv4 outside, with the usual MTUs.
    pub fn new(a: &Implementation, b: &Implementation) -> Self {
        Self {
            implementations: [a.clone(), b.clone()],
            mtu: 1420,
            link_mtu: 1500,
            outer_v6: false,
            initiator: None,
            preshared_key: None,
            keepalive: None,
            emulated: None,
        }
    }

    /// IPv6 outside.
    #[must_use]
    pub fn over_v6(mut self) -> Self {
        self.outer_v6 = true;
        self
    }

    /// Over an emulated link instead of a veth pair.
    #[must_use]
    pub fn over_distance(mut self, each_way: Impairment) -> Self {
        self.emulated = Some(each_way);
        self
    }

    /// The tunnel's MTU and its link's, bytes.
    #[must_use]
    pub fn mtus(mut self, tunnel: u32, link: u32) -> Self {
        (self.mtu, self.link_mtu) = (tunnel, link);
        self
    }

    /// Only this side knows the other's endpoint, so it must initiate, and the other learns where it is.
    #[must_use]
    pub fn initiated_by(mut self, side: Side) -> Self {
        self.initiator = Some(side);
        self
    }

    /// With a pre-shared key, 64 hexadecimal digits.
    #[must_use]
    pub fn preshared_key(mut self, key: &str) -> Self {
        self.preshared_key = Some(key.to_owned());
        self
    }

    /// With persistent keepalives, seconds apart.
    #[must_use]
    pub fn keepalive(mut self, seconds: u16) -> Self {
        self.keepalive = Some(seconds);
        self
    }

    /// Builds it, and waits for the first answered ping.
    ///
    /// # Errors
    /// Without privilege, when a daemon fails, or when no ping is answered in time.
    pub fn start(&self) -> Result<Tunnel> {
        let (a, b) = (Host::new("a")?, Host::new("b")?);
        let emulator = match self.emulated {
            Some(each_way) => Some(Emulator::connect(&a, &b, LINK, self.link_mtu, each_way)?),
            None => link::connect(&a, LINK, &b, LINK, self.link_mtu).map(|()| None)?,
        };
        for (host, side) in [(&a, Side::A), (&b, Side::B)] {
            host.add_address(LINK, side.outer_v4(), 24)?;
            host.add_address(LINK, side.outer_v6(), 64)?;
        }
        let daemon_a = self.start_daemon(&a, Side::A)?;
        let daemon_b = self.start_daemon(&b, Side::B)?;
        let tunnel = Tunnel { daemon_a, daemon_b, emulator, a, b };
        tunnel.wait_for_pings(self.initiator.unwrap_or(Side::A))?;
        Ok(tunnel)
    }

    fn start_daemon(&self, host: &Host, side: Side) -> Result<Daemon> {
        let implementation = &self.implementations[usize::from(side == Side::B)];
        let daemon = Daemon::start(host, implementation, INTERFACE)?;
        let other = side.other();
        let address = if self.outer_v6 { other.outer_v6() } else { other.outer_v4() };
        let knows_endpoint = self.initiator.is_none_or(|initiator| initiator == side);
        let peer = PeerConfig {
            public_key: other.public_key().into(),
            preshared_key: self.preshared_key.clone(),
            endpoint: knows_endpoint.then_some(SocketAddr::new(address, PORT)),
            allowed_ips: vec![format!("{}/32", other.inner_v4()), format!("{}/128", other.inner_v6())],
            keepalive: self.keepalive,
        };
        let config =
            DeviceConfig { private_key: side.private_key().into(), listen_port: PORT, peers: vec![peer] };
        daemon.uapi().set(host, &config)?;
        host.set_mtu(INTERFACE, self.mtu)?;
        host.set_up_tunnel(INTERFACE, PORT)?;
        host.add_address(INTERFACE, side.inner_v4(), 24)?;
        host.add_address(INTERFACE, side.inner_v6(), 64)?;
        Ok(daemon)
    }
}

/// A working tunnel. Dropping it ends the daemons, and the hosts with them.
#[derive(Debug)]
pub struct Tunnel {
    // Dropped first, while their hosts are there.
    daemon_a: Daemon,
    daemon_b: Daemon,
    emulator: Option<Emulator>,
    a: Host,
    b: Host,
}

impl Tunnel {
    /// The tunnel's interface, in both hosts.
    pub const INTERFACE: &str = INTERFACE;
    /// The interface of the link that the tunnel crosses, in both hosts.
    pub const LINK: &str = LINK;

    /// The host at one end.
    pub fn host(&self, side: Side) -> &Host {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// The daemon at one end.
    pub fn daemon(&self, side: Side) -> &Daemon {
        match side {
            Side::A => &self.daemon_a,
            Side::B => &self.daemon_b,
        }
    }

    /// The emulated link, if the tunnel crosses one.
    pub fn emulator(&self) -> Option<&Emulator> {
        self.emulator.as_ref()
    }

    /// The initiator first, over IPv4; then everyone over everything: the kernel puts an IPv6 address to use
    /// some time after it has been added.
    fn wait_for_pings(&self, initiator: Side) -> Result<()> {
        let deadline = clock::now() + READY;
        for from in [initiator, initiator.other()] {
            for to in [from.other().inner_v4(), from.other().inner_v6()] {
                while !answers(self.host(from), to, ATTEMPT)? {
                    let (a, b) = (self.daemon_a.output(), self.daemon_b.output());
                    ensure!(clock::now() < deadline, "{to} answers no ping in {READY:?}\n{a}\n{b}");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Need, TcpPlan, TcpTransfer, ping};

    #[test]
    fn the_lab_itself_works_with_an_implementation_that_is_not_ours() {
        crate::require!(Need::Namespaces, Need::Peer("wireguard-go"));
        let peer = Implementation::find("wireguard-go").unwrap();
        let tunnel = TunnelBuilder::new(&peer, &peer).initiated_by(Side::B).start().unwrap();
        let (a, b) = (tunnel.host(Side::A), tunnel.host(Side::B));
        for address in [Side::B.inner_v4(), Side::B.inner_v6()] {
            let report = ping(a, address, 5, Duration::ZERO).unwrap();
            assert_eq!(report.received(), 5);
            let bytes = 10 << 20;
            let transfer = TcpTransfer::start(a, b, address, TcpPlan::bytes(bytes)).unwrap();
            assert_eq!(transfer.wait().unwrap().bytes, bytes);
        }
        let device = tunnel.daemon(Side::A).uapi().get(a).unwrap();
        assert_ne!(device["last_handshake_time_sec"], "0");
        let pid = tunnel.daemon(Side::A).pid();
        drop(tunnel);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
