//! Configuration files as `wg-quick` reads them: what `wg setconf` knows, and in `[Interface]` also
//! addresses, routes and hooks. Parsed whole, with the line of every mistake, before anything is done.

mod parse;
mod print;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::SocketAddr,
};

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use io_runtime::DeviceUpdate;
use ipnet::IpNet;
use tunnel_core::{AllowedIpUpdate, PeerUpdate, TunnelUpdate};

pub use parse::{Error, strip};

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[Interface]`.
    pub interface: Interface,
    /// Every `[Peer]`, in order. Several may be about one peer: what a later one says replaces what an earlier one
    /// said, and its allowed IPs all of theirs.
    pub peers: Vec<Peer>,
}

/// `[Interface]`: the first three are WireGuard's, the others are about the system around it.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// `PrivateKey`.
    pub private_key: Option<PrivateKey>,
    /// `ListenPort`.
    pub listen_port: Option<u16>,
    /// `FwMark`.
    pub fwmark: Option<u32>,
    /// `Address`.
    pub addresses: Vec<IpNet>,
    /// `DNS`: servers.
    pub dns: Vec<String>,
    /// `DNS`: search domains.
    pub dns_search: Vec<String>,
    /// `MTU`.
    pub mtu: Option<u32>,
    /// `Table`.
    pub table: Table,
    /// `PreUp`, `PostUp`, `PreDown` and `PostDown`.
    pub hooks: Hooks,
    /// `SaveConfig`.
    pub save: bool,
}

/// Where routes go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table, or one of our own for default routes.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// A table by its number or its name in `rt_tables`.
    Named(String),
}

/// Commands to run, for bash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before the interface is there.
    pub pre_up: Vec<String>,
    /// When it is set up.
    pub post_up: Vec<String>,
    /// Before it is taken down.
    pub pre_down: Vec<String>,
    /// When it is gone.
    pub post_down: Vec<String>,
}

/// `[Peer]`.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `PublicKey`.
    pub public_key: PublicKey,
    /// `PresharedKey`; all zeros clears what an earlier section of the same peer says.
    pub preshared_key: Option<PresharedKey>,
    /// `Endpoint`.
    pub endpoint: Option<Endpoint>,
    /// `PersistentKeepalive`, seconds; 0 is off, as it is where no section of the peer says anything.
    pub persistent_keepalive: Option<u16>,
    /// `AllowedIPs`.
    pub allowed_ips: Vec<IpNet>,
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Without brackets.
    pub host: String,
    /// UDP.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Config {
    /// What `wg setconf` would make of the file: everything it does not say is cleared.
    ///
    /// # Errors
    /// The first endpoint that `resolve` cannot turn into an address, with its error.
    pub fn update(
        &self,
        mut resolve: impl FnMut(&Endpoint) -> io::Result<SocketAddr>,
    ) -> Result<DeviceUpdate, (Endpoint, io::Error)> {
        let mut peer_update = |peer: &Peer| {
            let resolved = |endpoint: &Endpoint| resolve(endpoint).map_err(|error| (endpoint.clone(), error));
            Ok(PeerUpdate {
                preshared_key: peer.preshared_key.clone().map(|key| (!key.is_zero()).then_some(key)),
                endpoint: peer.endpoint.as_ref().map(resolved).transpose()?,
                persistent_keepalive: peer.persistent_keepalive,
                replace_allowed_ips: true,
                allowed_ips: peer.allowed_ips.iter().copied().map(AllowedIpUpdate::Add).collect(),
                ..PeerUpdate::new(peer.public_key)
            })
        };
        Ok(DeviceUpdate {
            listen_port: Some(self.interface.listen_port.unwrap_or(0)),
            fwmark: Some(self.interface.fwmark.unwrap_or(0)),
            tunnel: TunnelUpdate {
                private_key: Some(self.interface.private_key.clone()),
                replace_peers: true,
                peers: self.peers.iter().map(&mut peer_update).collect::<Result<_, _>>()?,
            },
        })
    }

    /// Wipes every secret key of it.
    pub(crate) fn forget_keys(&mut self) {
        self.interface.private_key = None;
        for peer in &mut self.peers {
            peer.preshared_key = None;
        }
    }

    /// The allowed IPs that are in force when WireGuard has read the file: of several sections of one peer the last
    /// counts, and of several peers with one prefix the last has it. A peer with our own key has none.
    pub fn allowed_ips(&self) -> Vec<IpNet> {
        let own = self.interface.private_key.as_ref().map(PrivateKey::public_key);
        let mut owners = HashMap::new();
        let mut seen = HashSet::new();
        for peer in self.peers.iter().filter(|peer| Some(peer.public_key) != own) {
            if !seen.insert(peer.public_key) {
                owners.retain(|_, owner| *owner != peer.public_key);
            }
            owners.extend(peer.allowed_ips.iter().map(|network| (*network, peer.public_key)));
        }
        owners.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_ips_are_those_of_the_last_section_and_the_last_peer() {
        let own = PrivateKey::from_bytes([7; 32]);
        let peer = |key: u8, allowed_ips: &[&str]| Peer {
            public_key: PrivateKey::from_bytes([key; 32]).public_key(),
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            allowed_ips: allowed_ips.iter().map(|network| network.parse().expect("a network")).collect(),
        };
        let (a, b, c) = ("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16");
        let in_force = |peers: &[(u8, &[&str])]| {
            let interface = Interface { private_key: Some(own.clone()), ..Interface::default() };
            let peers = peers.iter().map(|(key, networks)| peer(*key, networks)).collect();
            let mut networks = Config { interface, peers }.allowed_ips();
            networks.sort();
            networks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(in_force(&[(1, &[a, b]), (2, &[c])]), [a, b, c]);
        assert_eq!(in_force(&[(1, &[a, b]), (1, &[c])]), [c]);
        assert_eq!(in_force(&[(1, &[a, b]), (2, &[b]), (1, &[])]), [b], "the second has it");
        assert_eq!(in_force(&[(2, &[b]), (1, &[b]), (1, &[])]), [""; 0], "it was taken, and given up");
        assert_eq!(in_force(&[(7, &[a]), (1, &[c])]), [c], "our own key is nobody's");
    }
}
