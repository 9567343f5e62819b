//! Writing what is in force back to the file.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{file::ConfigFile, net::Net};
use crate::{
    Trouble, WithFix,
    config::{Config, Endpoint, Interface, Peer},
    uapi::{self, client, socket_path},
};

pub(super) async fn save(net: &Net, file: &ConfigFile, config: &Config) -> Result<(), Trouble> {
    let name = &file.interface;
    let device = client::get(&socket_path(name)).or_trouble(format!("cannot save `{name}`"))?;
    let index = net.index(name).await.or_trouble("cannot list interfaces")?;
    let index = index.ok_or_else(|| Trouble::new(format!("there is no interface `{name}`")))?;
    let mtu = net.link_mtu(index).await.or_trouble("cannot read the MTU")?;
    let mut addresses = net.addresses(index).await.or_trouble("cannot list addresses")?;
    addresses.retain(|address| !is_link_local(address));
    let current = Config {
        interface: Interface {
            private_key: device.private_key,
            listen_port: Some(device.listen_port),
            fwmark: Some(device.fwmark),
            addresses,
            mtu: config.interface.mtu.and(mtu),
            ..config.interface.clone()
        },
        peers: device.peers.into_iter().map(peer).collect(),
    };
    let text = Zeroizing::new(current.to_string());
    replace(&file.path, text.as_bytes()).or_trouble(format!("cannot write {}", file.path.display()))
}

/// The kernel makes those itself.
const fn is_link_local(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(network) if network.addr().is_unicast_link_local())
}

fn peer(peer: uapi::Peer) -> Peer {
    let endpoint = peer.endpoint.map(|address| Endpoint {
        // With its scope, if it has one.
        host: match address {
            std::net::SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            address => address.ip().to_string(),
        },
        port: address.port(),
    });
    Peer {
        public_key: peer.public_key,
        preshared_key: peer.preshared_key,
        endpoint,
        persistent_keepalive: Some(peer.persistent_keepalive).filter(|seconds| *seconds != 0),
        allowed_ips: peer.allowed_ips,
    }
}

/// Either the old file or the whole new one is there, whatever happens.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(temporary)))
}
