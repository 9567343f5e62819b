//! Configuration files as `wg-quick` reads them: what `wg setconf` knows, and in `[Interface]` also
//! addresses, routes and hooks. Parsed whole, with the line of every mistake, before anything is done.

mod parse;
mod print;

use std::{fmt, io, net::SocketAddr};

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
    /// Every `[Peer]`, in order.
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
    /// `PresharedKey`.
    pub preshared_key: Option<PresharedKey>,
    /// `Endpoint`.
    pub endpoint: Option<Endpoint>,
    /// `PersistentKeepalive`, seconds; 0 is off.
    pub persistent_keepalive: u16,
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
                preshared_key: Some(peer.preshared_key.clone()),
                endpoint: peer.endpoint.as_ref().map(resolved).transpose()?,
                persistent_keepalive: Some(peer.persistent_keepalive),
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
}
