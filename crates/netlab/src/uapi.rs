//! A client of WireGuard's cross-platform configuration protocol, enough to set up a device: the lab needs no `wg`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read, Write as _},
    net::{Shutdown, SocketAddr},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::namespace::Host;

/// Longer than any implementation takes to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A whole device's configuration. Keys are 64 hexadecimal digits.
#[derive(Clone, Debug, Default)]
pub struct DeviceConfig {
    /// Our secret.
    pub private_key: String,
    /// UDP port.
    pub listen_port: u16,
    /// Everyone we talk to.
    pub peers: Vec<PeerConfig>,
}

/// One peer.
#[derive(Clone, Debug, Default)]
pub struct PeerConfig {
    /// Its identity.
    pub public_key: String,
    /// The secret shared with it beforehand.
    pub preshared_key: Option<String>,
    /// Where it is, if we know: without, it must speak first.
    pub endpoint: Option<SocketAddr>,
    /// What may come from it and goes to it (`10.0.0.0/8`).
    pub allowed_ips: Vec<String>,
    /// Seconds between keepalives.
    pub keepalive: Option<u16>,
}

impl DeviceConfig {
    /// The `set` request that makes a device so.
    pub fn to_request(&self) -> String {
        let mut request = format!(
            "set=1\nprivate_key={}\nlisten_port={}\nreplace_peers=true\n",
            self.private_key, self.listen_port
        );
        for peer in &self.peers {
            peer.write_to(&mut request).expect("strings take everything");
        }
        request.push('\n');
        request
    }
}

impl PeerConfig {
    fn write_to(&self, request: &mut String) -> std::fmt::Result {
        writeln!(request, "public_key={}", self.public_key)?;
        if let Some(key) = &self.preshared_key {
            writeln!(request, "preshared_key={key}")?;
        }
        if let Some(endpoint) = self.endpoint {
            writeln!(request, "endpoint={endpoint}")?;
        }
        if let Some(seconds) = self.keepalive {
            writeln!(request, "persistent_keepalive_interval={seconds}")?;
        }
        writeln!(request, "replace_allowed_ips=true")?;
        self.allowed_ips.iter().try_for_each(|prefix| writeln!(request, "allowed_ip={prefix}"))
    }
}

/// The socket of one interface of one host.
#[derive(Clone, Debug)]
pub struct Uapi {
    path: String,
}

impl Uapi {
    /// The interface's socket, where every implementation puts it.
    pub fn new(interface: &str) -> Self {
        Self { path: format!("/var/run/wireguard/{interface}.sock") }
    }

    /// Whether there is a socket, that of a daemon which is still starting included.
    pub fn exists(&self, host: &Host) -> bool {
        let path = self.path.clone();
        host.run(move || Path::new(&path).exists())
    }

    /// Whether someone listens.
    pub fn answers(&self, host: &Host) -> bool {
        let path = self.path.clone();
        host.run(move || UnixStream::connect(path).is_ok())
    }

    /// Sends a request, blank line and all, and gives the answer without its `errno`.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an errno other than 0.
    pub fn request(&self, host: &Host, request: &str) -> Result<String> {
        let (path, request) = (self.path.clone(), request.to_owned());
        host.run(move || exchange(&path, &request)).with_context(|| self.path.clone())
    }

    /// Configures the device.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn set(&self, host: &Host, config: &DeviceConfig) -> Result<()> {
        self.request(host, &config.to_request()).map(|_empty| ())
    }

    /// Reads the device, each key with its last value: enough where there is one peer.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn get(&self, host: &Host) -> Result<BTreeMap<String, String>> {
        let answer = self.request(host, "get=1\n\n")?;
        let pairs = answer.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

fn exchange(path: &str, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes()).context("request")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"\n\n") {
        let len = stream.read(&mut buffer).context("answer")?;
        if len == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..len]);
    }
    let _closing = stream.shutdown(Shutdown::Both);
    let answer = String::from_utf8(answer).context("the answer is not text")?;
    let Some(at) = answer.rfind("errno=") else { bail!("answer without an errno: {answer:?}") };
    let (body, errno) = (&answer[..at], answer[at + "errno=".len()..].trim_end());
    if errno != "0" {
        bail!("errno={errno}");
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_device_then_each_peer() {
        let peer = PeerConfig {
            public_key: "cd".repeat(32),
            endpoint: Some("[2001:db8::1]:5".parse().unwrap()),
            allowed_ips: vec!["10.0.0.0/8".into(), "::/0".into()],
            ..PeerConfig::default()
        };
        let config = DeviceConfig { private_key: "ab".repeat(32), listen_port: 7, peers: vec![peer] };
        let expected = format!(
            "set=1\nprivate_key={}\nlisten_port=7\nreplace_peers=true\npublic_key={}\n\
             endpoint=[2001:db8::1]:5\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n\n",
            "ab".repeat(32),
            "cd".repeat(32)
        );
        assert_eq!(config.to_request(), expected);
    }
}
