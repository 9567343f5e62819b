//! `volley show`: what `wg show` tells, and which fast paths are on, and every counter that counted.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Display, Write},
    fs,
    io::stdout,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    Trouble, WithFix, output, quick,
    uapi::{Device, Peer, SOCKET_DIR, Status, client, socket_path},
    wall_clock::since_epoch,
};

/// Prints one interface, or all of them.
pub(crate) fn show(name: Option<&str>, json: bool) -> Result<(), Trouble> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => interfaces(Path::new(SOCKET_DIR)),
    };
    let mut shown = Vec::new();
    for found in names {
        match Interface::ask(&found) {
            Ok(interface) => shown.push(interface),
            Err(error) if error.is_forbidden() => {
                return Err(Trouble::new(format!("cannot show `{found}`: {error}")).fix("run as root"));
            }
            // A socket that a dead daemon left behind is no interface; one that was asked for is an error.
            Err(error) if name.is_some() => {
                let fix = match error {
                    client::Error::Timeout => {
                        "see whether it is stopped or stuck, and kill it then".to_owned()
                    }
                    _ => format!("start it: volley {found}"),
                };
                return Err(Trouble::new(format!("cannot show `{found}`: {error}")).fix(fix));
            }
            Err(client::Error::Connection(_)) => {}
            // It is there; and the others are to be seen, too.
            Err(error) => output::notice(format_args!("volley: cannot show `{found}`: {error}")),
        }
    }
    if json {
        let by_name: BTreeMap<_, _> = shown.iter().map(|interface| (&interface.name, interface)).collect();
        let text = serde_json::to_string_pretty(&by_name).or_trouble("cannot write JSON")?;
        return output::print(&text);
    }
    let style = Style { bold: output::is_styled(&stdout()) };
    let texts: Vec<_> = shown.iter().map(|interface| interface.text(style, since_epoch())).collect();
    output::write(texts.join("\n").as_bytes())
}

/// The names of the sockets in `directory`, sorted.
pub(crate) fn interfaces(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".sock")?.to_owned());
    let mut names: Vec<_> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// What is shown. Secrets are not even here.
#[derive(Debug, Serialize)]
struct Interface {
    #[serde(skip)]
    name: String,
    public_key: Option<String>,
    listen_port: u16,
    fwmark: u32,
    peers: Vec<ShownPeer>,
    /// What `up` has made and others have taken away.
    taken_away: Vec<String>,
    #[serde(flatten)]
    status: Option<ShownStatus>,
}

#[derive(Debug, Serialize)]
struct ShownPeer {
    public_key: String,
    has_preshared_key: bool,
    endpoint: Option<SocketAddr>,
    /// The local address that it is spoken to from, if not the route's.
    source: Option<IpAddr>,
    allowed_ips: Vec<IpNet>,
    /// Unix seconds.
    latest_handshake: Option<u64>,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Seconds; 0 is off.
    persistent_keepalive: u16,
}

#[derive(Debug, Serialize)]
struct ShownStatus {
    features: BTreeMap<String, String>,
    counters: BTreeMap<String, u64>,
    histograms: BTreeMap<String, BTreeMap<u64, u64>>,
}

impl Interface {
    fn ask(name: &str) -> Result<Self, client::Error> {
        let socket = socket_path(name);
        let device = client::get(&socket)?;
        // Daemons that are not ours do not know this request.
        let status = client::status(&socket).ok();
        Ok(Self { taken_away: quick::taken_away(name), ..Self::new(name, device, status) })
    }

    fn new(name: &str, device: Device, status: Option<Status>) -> Self {
        let sources: HashMap<_, _> =
            status.iter().flat_map(|status| status.sources.iter().copied()).collect();
        let peer = |peer: Peer| ShownPeer { source: sources.get(&peer.public_key).copied(), ..peer.into() };
        Self {
            name: name.to_owned(),
            public_key: device.private_key.as_ref().map(|key| key.public_key().to_base64()),
            listen_port: device.listen_port,
            fwmark: device.fwmark,
            peers: device.peers.into_iter().map(peer).collect(),
            taken_away: Vec::new(),
            status: status.map(ShownStatus::from),
        }
    }

    fn text(&self, style: Style, now: Duration) -> String {
        let mut text = Text { text: String::new(), style };
        text.head("interface", &self.name);
        text.option("public key", self.public_key.as_ref());
        text.option("private key", self.public_key.as_ref().map(|_| "(hidden)"));
        text.line("listening port", self.listen_port);
        text.option("fwmark", (self.fwmark != 0).then_some(format_args!("{:#x}", self.fwmark)));
        if !self.taken_away.is_empty() {
            let name = &self.name;
            let gone = self.taken_away.join(", ");
            text.line(
                "unprotected",
                format_args!("others have removed {gone}; volley down {name}, then up, sets it again"),
            );
        }
        if let Some(status) = &self.status {
            status.text(&mut text);
        }
        for peer in &self.peers {
            text.text.push('\n');
            peer.text(&mut text, now);
        }
        text.text
    }
}

impl From<Peer> for ShownPeer {
    fn from(peer: Peer) -> Self {
        let handshake = peer.last_handshake;
        Self {
            public_key: peer.public_key.to_base64(),
            has_preshared_key: peer.preshared_key.is_some(),
            endpoint: peer.endpoint,
            source: None,
            allowed_ips: peer.allowed_ips,
            latest_handshake: (!handshake.is_zero()).then_some(handshake.as_secs()),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            persistent_keepalive: peer.persistent_keepalive,
        }
    }
}

impl ShownPeer {
    fn text(&self, text: &mut Text, now: Duration) {
        text.head("peer", &self.public_key);
        text.option("preshared key", self.has_preshared_key.then_some("(hidden)"));
        text.option("endpoint", self.endpoint);
        text.option("source", self.source);
        let networks: Vec<_> = self.allowed_ips.iter().map(ToString::to_string).collect();
        text.line("allowed ips", if networks.is_empty() { "(none)".to_owned() } else { networks.join(", ") });
        let ago = self.latest_handshake.map(|time| Ago(now.as_secs().saturating_sub(time)));
        text.option("latest handshake", ago);
        let moved = self.rx_bytes + self.tx_bytes > 0;
        let transfer = format_args!("{} received, {} sent", Bytes(self.rx_bytes), Bytes(self.tx_bytes));
        text.option("transfer", moved.then_some(transfer));
        let every = Span(self.persistent_keepalive.into());
        text.option("persistent keepalive", (every.0 > 0).then_some(format_args!("every {every}")));
    }
}

impl From<Status> for ShownStatus {
    fn from(status: Status) -> Self {
        Self {
            features: status.features.into_iter().map(|feature| (feature.name, feature.state)).collect(),
            counters: status.counters.into_iter().collect(),
            histograms: status
                .histograms
                .into_iter()
                .map(|(name, buckets)| (name, buckets.into_iter().collect()))
                .collect(),
        }
    }
}

impl ShownStatus {
    fn text(&self, text: &mut Text) {
        let features: Vec<_> =
            self.features.iter().map(|(name, state)| format!("{} {state}", words(name))).collect();
        text.line("features", features.join(", "));
        for (name, buckets) in &self.histograms {
            let counted: Vec<_> = buckets.iter().filter(|(_, count)| **count > 0).collect();
            if !counted.is_empty() {
                let counted: Vec<_> =
                    counted.iter().map(|(size, count)| format!("≤{size}: {count}")).collect();
                text.line(&words(name), counted.join(", "));
            }
        }
        for (name, count) in self.counters.iter().filter(|(_, count)| **count > 0) {
            text.line(&words(name), count);
        }
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Whether names stand out.
#[derive(Clone, Copy)]
struct Style {
    bold: bool,
}

struct Text {
    text: String,
    style: Style,
}

impl Text {
    fn head(&mut self, kind: &str, name: &str) {
        let (on, off) = if self.style.bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(self.text, "{on}{kind}{off}: {name}");
    }

    fn line(&mut self, name: &str, value: impl Display) {
        let (on, off) = if self.style.bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(self.text, "  {on}{name}{off}: {value}");
    }

    fn option(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }
}

/// Bytes, as people read them.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = (self.0.max(1).ilog2() / 10) as usize;
        match power {
            0 => write!(f, "{} B", self.0),
            _ => write!(f, "{:.2} {}", self.0 as f64 / 1_024_f64.powi(power as i32), units[power]),
        }
    }
}

/// Seconds, as people say them.
struct Span(u64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.0 / 86_400, "day"),
            (self.0 / 3_600 % 24, "hour"),
            (self.0 / 60 % 60, "minute"),
            (self.0 % 60, "second"),
        ];
        let said = parts.iter().filter(|(count, _)| *count > 0);
        let said: Vec<_> = said
            .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
            .collect();
        f.write_str(&said.join(", "))
    }
}

/// Seconds since something.
struct Ago(u64);

impl Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("now"),
            seconds => write!(f, "{} ago", Span(seconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use encrypt::{PresharedKey, PrivateKey};

    use super::*;

    fn interface() -> Interface {
        let private_key = PrivateKey::from_bytes([7; 32]);
        let peer = Peer {
            preshared_key: Some(PresharedKey::from_bytes([9; 32])),
            endpoint: Some("192.0.2.1:5".parse().unwrap()),
            last_handshake: Duration::from_secs(1_000),
            tx_bytes: 2_048,
            rx_bytes: 3,
            persistent_keepalive: 61,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()],
            ..Peer::new(private_key.public_key())
        };
        let status = Status {
            counters: vec![("io_ticks".into(), 0), ("io_sends".into(), 4)],
            sources: vec![(private_key.public_key(), "192.0.2.7".parse().unwrap())],
            ..Status::default()
        };
        let device = Device { private_key: Some(private_key), listen_port: 9, fwmark: 16, peers: vec![peer] };
        Interface::new("wg0", device, Some(status))
    }

    #[test]
    fn people_read_what_wg_show_tells_and_the_counters() {
        let key = PrivateKey::from_bytes([7; 32]).public_key().to_base64();
        let text = interface().text(Style { bold: false }, Duration::from_secs(4_721));
        assert_eq!(
            text,
            format!(
                "interface: wg0\n  public key: {key}\n  private key: (hidden)\n  listening port: 9\n  fwmark: 0x10\n  \
                 features: \n  io sends: 4\n\npeer: {key}\n  preshared key: (hidden)\n  endpoint: 192.0.2.1:5\n  source: 192.0.2.7\n  \
                 allowed ips: 10.0.0.0/8, ::/0\n  latest handshake: 1 hour, 2 minutes, 1 second ago\n  \
                 transfer: 3 B received, 2.00 KiB sent\n  persistent keepalive: every 1 minute, 1 second\n"
            )
        );
    }

    #[test]
    fn json_holds_no_secret() {
        let json = serde_json::to_string(&interface()).unwrap();
        for secret in [[7; 32], [9; 32]] {
            assert!(!json.contains(&*PrivateKey::from_bytes(secret).to_base64()), "{json}");
            assert!(!json.contains(&*PrivateKey::from_bytes(secret).to_hex()), "{json}");
        }
        assert!(json.contains(r#""counters":{"io_sends":4,"io_ticks":0}"#), "{json}");
    }

    #[test]
    fn amounts_are_readable() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(1_023).to_string(), "1023 B");
        assert_eq!(Bytes(1_536).to_string(), "1.50 KiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16.00 EiB");
        assert_eq!(Ago(0).to_string(), "now");
        assert_eq!(Ago(86_401).to_string(), "1 day, 1 second ago");
    }
}
