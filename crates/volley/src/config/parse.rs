//! The parser. It reads every file in two layers, as `wg-quick` and `wg` do one after the other: first the
//! keys about the system, which keep the spaces inside their values; then WireGuard's own, whose spaces
//! mean nothing anywhere.

use std::str::FromStr;

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use ipnet::{IpNet, Ipv4Net};
use zeroize::Zeroizing;

use super::{Config, Endpoint, Interface, Peer, Table};

/// The smallest MTU an interface can have, bytes (RFC 791 §3.2).
const MIN_MTU: u32 = 68;

/// The largest MTU a TUN interface can have, bytes (net/ipv4's IP_MAX_MTU).
const MAX_MTU: u32 = 65_535;

/// The longest name that a section or a key has. What is longer may be a secret that lost its name, and since
/// base64 ends in `=` it looks like one itself: it is not quoted.
const LONGEST_NAME: usize = "PersistentKeepalive".len();

/// What is wrong with a file, and where. It never quotes a value that could be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl FromStr for Config {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parser = Parser::default();
        for (number, line) in lines(text) {
            parser.accept(number, line).map_err(|reason| Error { line: number, reason })?;
        }
        parser.finish()
    }
}

/// What `wg-quick strip` prints: the file without the keys that only `wg-quick` knows.
pub fn strip(text: &str) -> Zeroizing<String> {
    let mut stripped = Zeroizing::new(String::with_capacity(text.len() + 2));
    for (_, line) in lines(text) {
        if let Line::WireGuard(raw) = line {
            stripped.push_str(raw);
            stripped.push('\n');
        }
    }
    stripped.push('\n');
    stripped
}

/// A line of the first layer.
enum Line<'a> {
    /// A key of ours in `[Interface]`, in lower case, and its value.
    System(SystemKey, &'a str),
    /// Everything else.
    WireGuard(&'a str),
}

#[derive(Clone, Copy)]
enum SystemKey {
    Address,
    Mtu,
    Dns,
    Table,
    PreUp,
    PostUp,
    PreDown,
    PostDown,
    SaveConfig,
}

impl SystemKey {
    const ALL: [(&'static str, Self); 9] = [
        ("Address", Self::Address),
        ("MTU", Self::Mtu),
        ("DNS", Self::Dns),
        ("Table", Self::Table),
        ("PreUp", Self::PreUp),
        ("PostUp", Self::PostUp),
        ("PreDown", Self::PreDown),
        ("PostDown", Self::PostDown),
        ("SaveConfig", Self::SaveConfig),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, key)| *key)
    }
}

/// The lines of a file with their numbers, from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, Line<'_>)> {
    let mut in_interface = false;
    // A last line without an end is one only if bash's `read` leaves something of it.
    let unended = text.rsplit('\n').next().filter(|line| line.trim_matches([' ', '\t']).is_empty());
    let text = &text[..text.len() - unended.map_or(0, str::len)];
    let empty = text.is_empty();
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.split('\n').enumerate().filter(move |_| !empty).map(move |(index, raw)| {
        // What bash's `read` trims.
        let raw = raw.trim_matches([' ', '\t']);
        let content = before_comment(raw);
        // Without a `=`, both are the whole line.
        let key = content.split_once('=').map_or(content, |(key, _)| key).trim_matches(is_space);
        let value = content.split_once('=').map_or(content, |(_, value)| value).trim_matches(is_space);
        if key.starts_with('[') {
            in_interface = key.eq_ignore_ascii_case("[Interface]");
        }
        let line = match SystemKey::named(key) {
            Some(key) if in_interface => Line::System(key, value),
            _ => Line::WireGuard(raw),
        };
        (index + 1, line)
    })
}

fn before_comment(line: &str) -> &str {
    line.split_once('#').map_or(line, |(content, _)| content)
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[derive(Default)]
struct Parser {
    config: Config,
    section: Section,
    /// The lines of the `[Peer]`s, and whether each has its key.
    peers: Vec<(usize, bool)>,
}

#[derive(Clone, Copy, Default)]
enum Section {
    #[default]
    None,
    Interface,
    Peer,
}

impl Parser {
    fn accept(&mut self, number: usize, line: Line<'_>) -> Result<(), String> {
        match line {
            Line::System(key, value) => accept_system(&mut self.config.interface, key, value),
            Line::WireGuard(raw) => {
                let mut content = Zeroizing::new(String::with_capacity(raw.len()));
                content.extend(before_comment(raw).chars().filter(|c| !is_space(*c)));
                if content.is_empty() { Ok(()) } else { self.accept_wireguard(number, &content) }
            }
        }
    }

    /// `line` has no white space and no comment.
    fn accept_wireguard(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.eq_ignore_ascii_case("[Interface]") {
            self.section = Section::Interface;
            return Ok(());
        }
        if line.eq_ignore_ascii_case("[Peer]") {
            self.section = Section::Peer;
            self.peers.push((number, false));
            self.config.peers.push(Peer {
                public_key: PublicKey::from_bytes([0; 32]),
                preshared_key: None,
                endpoint: None,
                persistent_keepalive: None,
                allowed_ips: Vec::new(),
            });
            return Ok(());
        }
        if line.starts_with('[') && line.len() > LONGEST_NAME {
            return Err("this is no section: there are only [Interface] and [Peer]".to_owned());
        }
        if line.starts_with('[') {
            return Err(format!("there is no section {line}, only [Interface] and [Peer]"));
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err("this is no `key = value` and no [section]".to_owned());
        };
        if key.len() > LONGEST_NAME {
            return Err("no name is that long: a value needs `Name =` before it".to_owned());
        }
        if value.is_empty() {
            return Err(format!("{key} has no value"));
        }
        match (self.section, self.config.peers.last_mut(), self.peers.last_mut()) {
            (Section::None, ..) => Err(format!("{key} stands before any [Interface] or [Peer]")),
            (Section::Interface, ..) => accept_interface(&mut self.config.interface, key, value),
            (Section::Peer, Some(peer), Some((_, has_key))) => {
                *has_key |= key.eq_ignore_ascii_case("PublicKey");
                accept_peer(peer, key, value)
            }
            (Section::Peer, ..) => Err(format!("{key} stands before any [Peer]")),
        }
    }

    fn finish(self) -> Result<Config, Error> {
        match self.peers.iter().find(|(_, has_key)| !has_key) {
            Some((line, _)) => Err(Error { line: *line, reason: "this [Peer] has no PublicKey".to_owned() }),
            None => Ok(self.config),
        }
    }
}

fn accept_system(interface: &mut Interface, key: SystemKey, value: &str) -> Result<(), String> {
    let items = || value.split([',', ' ', '\t', '\r']).filter(|item| !item.is_empty());
    match key {
        SystemKey::Address => {
            for item in items() {
                let address = address(item).ok_or_else(|| format!("Address: `{item}` is no IP address"))?;
                interface.addresses.push(address);
            }
        }
        // As if there were none.
        SystemKey::Mtu if value.is_empty() => interface.mtu = None,
        SystemKey::Mtu => {
            let mtu = value.parse().ok().filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu));
            interface.mtu = Some(mtu.ok_or_else(|| format!("MTU: `{value}` is not {MIN_MTU} to {MAX_MTU}"))?);
        }
        SystemKey::Dns => {
            for item in items() {
                let numeric = item.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
                let server = numeric || item.contains(':');
                let list = if server { &mut interface.dns } else { &mut interface.dns_search };
                list.push(item.to_owned());
            }
        }
        SystemKey::Table => {
            interface.table = match value {
                "" | "auto" => Table::Auto,
                "off" => Table::Off,
                name => Table::Named(name.to_owned()),
            };
        }
        SystemKey::PreUp => interface.hooks.pre_up.push(value.to_owned()),
        SystemKey::PostUp => interface.hooks.post_up.push(value.to_owned()),
        SystemKey::PreDown => interface.hooks.pre_down.push(value.to_owned()),
        SystemKey::PostDown => interface.hooks.post_down.push(value.to_owned()),
        SystemKey::SaveConfig => {
            interface.save = match value.to_ascii_lowercase().as_str() {
                "true" => true,
                "false" => false,
                _ => return Err(format!("SaveConfig: `{value}` is neither true nor false")),
            };
        }
    }
    Ok(())
}

fn accept_interface(interface: &mut Interface, key: &str, value: &str) -> Result<(), String> {
    match key.to_ascii_lowercase().as_str() {
        "privatekey" => {
            let key = PrivateKey::from_base64(value).map_err(|_| not_a_key("PrivateKey"))?;
            // All zeros is how the protocol says that there is none.
            interface.private_key = (!key.is_zero()).then_some(key);
        }
        "listenport" => {
            let port = decimal(value).ok_or_else(|| format!("ListenPort: `{value}` is not 0 to 65535"))?;
            interface.listen_port = Some(port);
        }
        "fwmark" => {
            let mark =
                mark(value).ok_or_else(|| format!("FwMark: `{value}` is neither off nor 0 to 0xffffffff"))?;
            interface.fwmark = Some(mark);
        }
        _ => return Err(format!("[Interface] has no {key}")),
    }
    Ok(())
}

fn accept_peer(peer: &mut Peer, key: &str, value: &str) -> Result<(), String> {
    match key.to_ascii_lowercase().as_str() {
        "publickey" => peer.public_key = PublicKey::from_base64(value).map_err(|_| not_a_key("PublicKey"))?,
        "presharedkey" => {
            let key = PresharedKey::from_base64(value).map_err(|_| not_a_key("PresharedKey"))?;
            peer.preshared_key = Some(key);
        }
        "endpoint" => {
            let wrong = || format!("Endpoint: `{value}` is not host:port or [address]:port");
            peer.endpoint = Some(endpoint(value).ok_or_else(wrong)?);
        }
        "persistentkeepalive" => {
            let seconds = if value.eq_ignore_ascii_case("off") { Some(0) } else { decimal(value) };
            let wrong = || format!("PersistentKeepalive: `{value}` is neither off nor 0 to 65535");
            peer.persistent_keepalive = Some(seconds.ok_or_else(wrong)?);
        }
        "allowedips" => {
            for item in value.split(',') {
                let prefix = network(item).ok_or_else(|| format!("AllowedIPs: `{item}` is no prefix"))?;
                peer.allowed_ips.push(prefix.trunc());
            }
        }
        _ => return Err(format!("[Peer] has no {key}")),
    }
    Ok(())
}

fn not_a_key(name: &str) -> String {
    format!("{name} is no key: 44 characters of base64, such as `volley genkey` prints")
}

/// What `ip address add` takes: a [`network`], or an IPv4 address with a netmask.
fn address(text: &str) -> Option<IpNet> {
    network(text).or_else(|| {
        let (address, mask) = text.split_once('/')?;
        Ipv4Net::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok().map(IpNet::V4)
    })
}

/// An address with the length of its prefix, or without, for all of it.
fn network(text: &str) -> Option<IpNet> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(decimal::<u16>(length)?)),
        None => (text, None),
    };
    let address: std::net::IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, length.unwrap_or(whole).try_into().ok()?).ok()
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => text.rsplit_once(':')?,
    };
    let port = decimal(port)?;
    (!host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
}

fn mark(text: &str) -> Option<u32> {
    if text.eq_ignore_ascii_case("off") {
        return Some(0);
    }
    let Some(digits) = text.strip_prefix("0x").filter(|digits| !digits.is_empty()) else {
        return decimal(text);
    };
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Digits only: Rust's own parser also takes a leading `+`.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn error(text: &str) -> (usize, String) {
        let error = text.parse::<Config>().expect_err(text);
        (error.line, error.reason)
    }

    #[test]
    fn a_whole_file_is_understood() {
        let config: Config = format!(
            "# a comment\n[interface]\n  PRIVATEKEY = {KEY}\nListenPort=51 820\nFwMark = 0x1F # why\n\
             Address = 10.0.0.1/24, fd00::1\nAddress=192.0.2.1\nDNS = 1.1.1.1, home.lan ,::1\nMTU = 1380\nTable = 7\n\
             PostUp = echo a = b; ip x\nSaveConfig = True\n\n\
             [Peer] # first\r\nPublicKey = {KEY}\r\nPresharedKey={KEY}\nAllowedIPs = 10.1.2.3/8 , ::/0\n\
             AllowedIPs = 192.0.2.9\nEndpoint = [2001:db8::1]:5\nPersistentKeepalive = off\n\
             [PEER]\npublickey = {KEY}\nEndpoint = example.org:51820\nPersistentKeepalive = 25\n"
        )
        .parse()
        .expect("a good file");
        let interface = &config.interface;
        assert_eq!(
            interface.private_key.as_ref().map(|key| key.to_base64().to_string()).as_deref(),
            Some(KEY)
        );
        assert_eq!(
            (interface.listen_port, interface.fwmark, interface.mtu),
            (Some(51_820), Some(31), Some(1_380))
        );
        let networks = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<IpNet>>();
        assert_eq!(interface.addresses, networks(&["10.0.0.1/24", "fd00::1/128", "192.0.2.1/32"]));
        assert_eq!(
            (&interface.dns[..], &interface.dns_search[..]),
            (&["1.1.1.1".to_owned(), "::1".to_owned()][..], &["home.lan".to_owned()][..])
        );
        assert_eq!(interface.table, Table::Named("7".to_owned()));
        assert_eq!(interface.hooks.post_up, ["echo a = b; ip x"]);
        assert!(interface.save);
        let [first, second] = &config.peers[..] else { panic!("two peers") };
        assert_eq!(first.allowed_ips, networks(&["10.0.0.0/8", "::/0", "192.0.2.9/32"]));
        assert_eq!(first.endpoint, Some(Endpoint { host: "2001:db8::1".into(), port: 5 }));
        assert_eq!(second.endpoint, Some(Endpoint { host: "example.org".into(), port: 51_820 }));
        assert_eq!((first.persistent_keepalive, second.persistent_keepalive), (Some(0), Some(25)));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        assert_eq!(
            error("[Interface]\n\nListenPort = 70000\n"),
            (3, "ListenPort: `70000` is not 0 to 65535".into())
        );
        assert_eq!(error("MTU = 5"), (1, "MTU stands before any [Interface] or [Peer]".into()));
        assert_eq!(error("[Interface]\nMTU = 5"), (2, "MTU: `5` is not 68 to 65535".into()));
        assert_eq!(error("[Peer]\nMTU = 1400"), (2, "[Peer] has no MTU".into()));
        assert_eq!(error("[Interface]\nPublicKey = x"), (2, "[Interface] has no PublicKey".into()));
        assert_eq!(error("[Peers]"), (1, "there is no section [Peers], only [Interface] and [Peer]".into()));
        assert_eq!(error("[Interface]\nnonsense"), (2, "this is no `key = value` and no [section]".into()));
        assert_eq!(error("\n[Peer]\nAllowedIPs = ::/0"), (2, "this [Peer] has no PublicKey".into()));
        assert_eq!(error("[Peer]\nAllowedIPs = 10.0.0.0/33").0, 2);
        assert_eq!(error("[Peer]\nEndpoint = 1.2.3.4").0, 2);
        assert_eq!(error("[Peer]\nEndpoint = [::1]").0, 2);
        assert_eq!(error("[Peer]\nPersistentKeepalive =").0, 2);
        assert_eq!(error("[Interface]\nSaveConfig = yes").0, 2);
    }

    #[test]
    fn keys_are_not_quoted() {
        let (_, reason) = error("[Interface]\nPrivateKey = c2VjcmV0c2VjcmV0");
        assert!(!reason.contains("c2V"), "{reason}");
        // A key that lost its name ends in `=`, and so looks like a name itself.
        for section in ["", "[Interface]\n", "[Peer]\n"] {
            for line in [KEY.to_owned(), format!("{KEY} 1"), format!("[{KEY}"), format!("Private{KEY}")] {
                let (_, reason) = error(&format!("{section}{line}"));
                assert!(!reason.contains(&KEY[..8]), "{reason}");
            }
        }
    }

    #[test]
    fn stripping_leaves_what_wg_knows() {
        let text = "[Interface] \nAddress = 10.0.0.1\n\tListenPort = 5\nPostUp = x\n[Peer]\nAddress = kept\n# comment";
        assert_eq!(*strip(text), "[Interface]\nListenPort = 5\n[Peer]\nAddress = kept\n# comment\n\n");
        assert_eq!((&**strip(""), &**strip("\n")), ("\n", "\n\n"));
        assert_eq!((&**strip(" "), &**strip("\n\t")), ("\n", "\n\n"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,400}") {
            let _ = text.parse::<Config>();
            let _ = strip(&text);
        }

        #[test]
        fn no_nearly_right_file_panics(
            lines in proptest::collection::vec(
                (proptest::sample::select(vec![
                    "[Interface]", "[Peer]", "PrivateKey=", "ListenPort=", "FwMark=", "Address=", "DNS=", "MTU=", "Table=",
                    "SaveConfig=", "PublicKey=", "PresharedKey=", "AllowedIPs=", "Endpoint=", "PersistentKeepalive=", "#",
                ]), "([0-9]{1,6}|[0-9a-f:./\\[\\],x+-]{0,24}|[A-Za-z0-9+/]{43}=|off|.{0,6})"), 0..30)
        ) {
            let text: String = lines.iter().map(|(key, value)| format!("{key}{value}\n")).collect();
            let _ = text.parse::<Config>();
        }
    }
}
