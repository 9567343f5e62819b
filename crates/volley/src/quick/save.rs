//! Writing what is in force back to the file.

use std::{
    fmt::Write as _,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{file::ConfigFile, net::Net};
use crate::{
    Trouble, WithFix,
    config::{Config, Endpoint, Interface, Peer},
    secrets::SecretText,
    uapi::{self, client, socket_path},
};

pub(super) async fn save(net: &Net, file: &ConfigFile, config: &Config) -> Result<(), Trouble> {
    let name = &file.interface;
    let device = client::get(&socket_path(name)).or_trouble(format!("cannot save `{name}`"))?;
    let index = net.index(name).await.or_trouble("cannot list interfaces")?;
    let index = index.ok_or_else(|| Trouble::new(format!("there is no interface `{name}`")))?;
    let mtu = net.link_mtu(index).await.or_trouble("cannot read the MTU")?;
    let addresses = net.given_addresses(index).await.or_trouble("cannot list addresses")?;
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
    let mut text = SecretText::default();
    write!(text, "{current}").expect("text takes everything");
    replace(&file.path, text.as_bytes()).or_trouble(format!("cannot write {}", file.path.display()))
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

/// Either the old file or the whole new one is there, whatever happens. Only its owner may read it, who stays the same.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let directory = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let (mut file, temporary) = fresh_file(directory)?;
    let mut write = || {
        match fchown(&file, Some(old.uid()), Some(old.gid())) {
            // Who may not give files away has it, rather than nobody what it says.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    File::open(directory)?.sync_all()
}

/// A file that nobody has made before us, nor as a link to another, and of which nobody else knows the name.
fn fresh_file(directory: &Path) -> io::Result<(File, PathBuf)> {
    const TRIES: usize = 16;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let mut refused = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..TRIES {
        let name = format!(".volley-save-{:016x}", RandomState::new().hash_one(()));
        let path = directory.join(name);
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}
