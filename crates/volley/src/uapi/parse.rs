//! Requests, line by line. Nothing here does I/O, and nothing is applied before the whole request is known
//! to be good.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use encrypt::{KeyError, PresharedKey, PrivateKey, PublicKey};
use io_runtime::DeviceUpdate;
use ipnet::IpNet;
use tunnel_core::{AllowedIpUpdate, PeerUpdate};

use super::Errno;

/// The longest line a request may have, bytes. The longest that means anything is a key line of some
/// ninety bytes; this leaves room for keys that do not exist yet.
pub const MAX_LINE_LEN: usize = 1_024;

/// The longest request, bytes: 100,000 peers with two allowed IPs each fit, and the few connections the
/// server keeps cannot make it eat the machine.
pub const MAX_REQUEST_LEN: usize = 32 << 20;

/// Turns an interface name (the scope in `[fe80::1%eth0]:51820`) into its index.
pub type ScopeLookup = fn(&str) -> Option<u32>;

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// `get=1`: tell everything.
    Get,
    /// `set=1`: apply this.
    Set(DeviceUpdate),
    /// `volley=1`, our own addition: which fast paths are on, and every counter.
    Status,
}

/// Which request a failure belongs to: it decides the sign of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Answers are unsigned.
    Get,
    /// Answers are negative.
    Set,
}

/// Why a request was refused. It never quotes the line, which may hold a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was asked, as far as it was understood.
    pub operation: Operation,
    /// The answer's number.
    pub errno: Errno,
    /// The line at fault, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Collects one request after the other from a connection's lines.
#[derive(Debug)]
pub struct RequestParser {
    scope: ScopeLookup,
    state: State,
    line: usize,
    length: usize,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Idle,
    Get(Request),
    Set(SetBuilder),
    /// The rest of a bad request is read and forgotten.
    Failed(Failure),
}

impl RequestParser {
    /// A parser that resolves interface names in endpoints with `scope`.
    pub const fn new(scope: ScopeLookup) -> Self {
        Self { scope, state: State::Idle, line: 0, length: 0 }
    }

    /// True between requests.
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// True once the current request is longer than [`MAX_REQUEST_LEN`]: give the connection up.
    pub const fn is_over_limit(&self) -> bool {
        self.length > MAX_REQUEST_LEN
    }

    /// Takes one line, without its newline. Gives the request, or why it is refused, at the blank line
    /// that ends it. Blank lines between requests are ignored.
    pub fn line(&mut self, line: &[u8]) -> Option<Result<Request, Failure>> {
        if line.is_empty() {
            return self.finish();
        }
        self.line += 1;
        self.length += line.len() + 1;
        let fault = if self.is_over_limit() {
            Fault(Errno::Protocol, "the request is too long")
        } else {
            match self.accept(line) {
                Ok(()) => return None,
                Err(fault) => fault,
            }
        };
        self.fail(fault);
        None
    }

    /// Refuses the current request because of a line longer than [`MAX_LINE_LEN`].
    pub fn line_too_long(&mut self, length: usize) {
        self.line += 1;
        self.length = self.length.saturating_add(length);
        self.fail(Fault(Errno::Protocol, "the line is too long"));
    }

    /// What to answer when the connection ends, or stalls, inside a request.
    pub fn truncated(&mut self) -> Option<Failure> {
        if self.is_idle() {
            return None;
        }
        self.fail(Fault(Errno::Protocol, "the request has no end"));
        self.finish().and_then(Result::err)
    }

    fn finish(&mut self) -> Option<Result<Request, Failure>> {
        self.line = 0;
        self.length = 0;
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => None,
            State::Get(request) => Some(Ok(request)),
            State::Set(builder) => Some(Ok(Request::Set(builder.update))),
            State::Failed(failure) => Some(Err(failure)),
        }
    }

    fn accept(&mut self, line: &[u8]) -> Result<(), Fault> {
        if matches!(self.state, State::Failed(_)) {
            return Ok(());
        }
        let line = str::from_utf8(line).map_err(|_| Fault(Errno::Protocol, "the line is not text"))?;
        let Some((key, value)) = line.split_once('=') else {
            return Err(Fault(Errno::Protocol, "the line is not key=value"));
        };
        match &mut self.state {
            State::Idle => {
                self.state = match (key, value) {
                    ("get", "1") => State::Get(Request::Get),
                    ("set", "1") => State::Set(SetBuilder::default()),
                    ("volley", "1") => State::Get(Request::Status),
                    _ => return Err(Fault(Errno::Protocol, "unknown operation")),
                };
                Ok(())
            }
            State::Get(_) => Err(Fault(Errno::Protocol, "a get request has one line only")),
            State::Set(builder) => builder.accept(key, value, self.scope),
            State::Failed(_) => Ok(()),
        }
    }

    fn fail(&mut self, Fault(errno, reason): Fault) {
        let operation = match &self.state {
            State::Failed(_) => return,
            State::Get(_) => Operation::Get,
            State::Idle | State::Set(_) => Operation::Set,
        };
        self.state = State::Failed(Failure { operation, errno, line: self.line, reason });
    }
}

/// What is wrong, before it is known where.
#[derive(Debug)]
struct Fault(Errno, &'static str);

const fn invalid(reason: &'static str) -> Fault {
    Fault(Errno::Invalid, reason)
}

#[derive(Debug, Default)]
struct SetBuilder {
    update: DeviceUpdate,
}

impl SetBuilder {
    fn accept(&mut self, name: &str, value: &str, scope: ScopeLookup) -> Result<(), Fault> {
        if name == "public_key" {
            self.update.tunnel.peers.push(PeerUpdate::new(key(PublicKey::from_hex(value))?));
            return Ok(());
        }
        match self.update.tunnel.peers.last_mut() {
            None => accept_device(&mut self.update, name, value),
            Some(peer) => accept_peer(peer, name, value, scope),
        }
    }
}

fn accept_device(update: &mut DeviceUpdate, name: &str, value: &str) -> Result<(), Fault> {
    match name {
        "private_key" => {
            let key = key(PrivateKey::from_hex(value))?;
            update.tunnel.private_key = Some((!key.is_zero()).then_some(key));
        }
        "listen_port" => update.listen_port = Some(parse_u16(value)?),
        "fwmark" => update.fwmark = Some(parse_u32(value)?),
        "replace_peers" => update.tunnel.replace_peers = parse_true(value)?,
        _ => return Err(invalid("unknown device key")),
    }
    Ok(())
}

fn accept_peer(peer: &mut PeerUpdate, name: &str, value: &str, scope: ScopeLookup) -> Result<(), Fault> {
    match name {
        "remove" => peer.remove = parse_true(value)?,
        "update_only" => peer.update_only = parse_true(value)?,
        "preshared_key" => {
            let key = key(PresharedKey::from_hex(value))?;
            peer.preshared_key = Some((!key.is_zero()).then_some(key));
        }
        "endpoint" => peer.endpoint = Some(parse_endpoint(value, scope)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(parse_u16(value)?),
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = parse_true(value)?;
            // Lines count in order: what came before is what gets replaced.
            peer.allowed_ips.clear();
        }
        "allowed_ip" => peer.allowed_ips.push(parse_allowed_ip(value)?),
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(invalid("unknown protocol version")),
        _ => return Err(invalid("unknown peer key")),
    }
    Ok(())
}

fn key<K>(parsed: Result<K, KeyError>) -> Result<K, Fault> {
    parsed.map_err(|_| invalid("a key is 64 hex digits"))
}

fn parse_true(value: &str) -> Result<bool, Fault> {
    if value == "true" { Ok(true) } else { Err(invalid("the only value is true")) }
}

fn parse_u16(value: &str) -> Result<u16, Fault> {
    digits(value)?.parse().map_err(|_| invalid("the number is larger than 65535"))
}

fn parse_u32(value: &str) -> Result<u32, Fault> {
    digits(value)?.parse().map_err(|_| invalid("the number is larger than 4294967295"))
}

/// Rust's own integer parsers also take a leading `+`.
fn digits(value: &str) -> Result<&str, Fault> {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if plain { Ok(value) } else { Err(invalid("not a decimal number")) }
}

fn parse_endpoint(value: &str, scope: ScopeLookup) -> Result<SocketAddr, Fault> {
    const WRONG: Fault = invalid("an endpoint is 192.0.2.1:51820 or [2001:db8::1]:51820");
    if let Ok(endpoint) = value.parse() {
        return Ok(endpoint);
    }
    // What the standard library does not read: a scope given by name.
    let (host, port) = value.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")).ok_or(WRONG)?;
    let (address, name) = host.split_once('%').ok_or(WRONG)?;
    let address: Ipv6Addr = address.parse().map_err(|_| WRONG)?;
    let port = parse_u16(port)?;
    let index = scope(name).ok_or(invalid("the endpoint's scope is not an interface here"))?;
    Ok(SocketAddrV6::new(address, port, 0, index).into())
}

fn parse_allowed_ip(value: &str) -> Result<AllowedIpUpdate, Fault> {
    let (prefix, update): (_, fn(IpNet) -> AllowedIpUpdate) = match value.strip_prefix('-') {
        Some(prefix) => (prefix, AllowedIpUpdate::Remove),
        None => (value, AllowedIpUpdate::Add),
    };
    let prefix: IpNet =
        prefix.parse().map_err(|_| invalid("an allowed IP is 192.0.2.0/24 or 2001:db8::/32"))?;
    Ok(update(prefix.trunc()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
    const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn parse(text: &str) -> Result<Request, Failure> {
        let mut parser = RequestParser::new(|name| (name == "eth7").then_some(7));
        text.split('\n').find_map(|line| parser.line(line.as_bytes())).expect("the request ends")
    }

    fn set(lines: &str) -> DeviceUpdate {
        match parse(&format!("set=1\n{lines}\n\n")) {
            Ok(Request::Set(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    fn refused(lines: &str) -> Failure {
        parse(&format!("set=1\n{lines}\n\n")).expect_err(lines)
    }

    #[test]
    fn every_key_of_the_contract_is_understood() {
        let update = set(&format!(
            "private_key={KEY}\nlisten_port=51820\nfwmark=51\nreplace_peers=true\npublic_key={KEY}\n\
             update_only=true\npreshared_key={KEY}\nendpoint=192.0.2.1:9\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.1.2.3/8\nallowed_ip=-fd00::1/64\nprotocol_version=1\n\
             public_key={KEY}\nremove=true"
        ));
        assert_eq!(update.listen_port, Some(51820));
        assert_eq!(update.fwmark, Some(51));
        assert!(update.tunnel.replace_peers);
        let key = update.tunnel.private_key.flatten().expect("a private key");
        assert_eq!(*key.to_hex(), KEY);
        let [first, second] = &update.tunnel.peers[..] else { panic!("two peers") };
        assert!(first.update_only && first.replace_allowed_ips && !first.remove);
        assert_eq!(first.endpoint, Some("192.0.2.1:9".parse().unwrap()));
        assert_eq!(first.persistent_keepalive, Some(25));
        let network = |text: &str| text.parse::<IpNet>().unwrap();
        let expected =
            [AllowedIpUpdate::Add(network("10.0.0.0/8")), AllowedIpUpdate::Remove(network("fd00::/64"))];
        assert_eq!(first.allowed_ips, expected);
        assert!(second.remove);
    }

    #[test]
    fn zero_keys_clear() {
        let update = set(&format!("private_key={ZERO}\npublic_key={KEY}\npreshared_key={ZERO}"));
        assert!(matches!(update.tunnel.private_key, Some(None)));
        assert!(matches!(update.tunnel.peers[0].preshared_key, Some(None)));
    }

    #[test]
    fn endpoints_take_scopes_by_number_and_by_name() {
        let endpoint =
            |value: &str| set(&format!("public_key={KEY}\nendpoint={value}")).tunnel.peers[0].endpoint;
        assert_eq!(endpoint("[fe80::1%3]:5"), Some("[fe80::1%3]:5".parse().unwrap()));
        assert_eq!(endpoint("[fe80::1%eth7]:5"), Some("[fe80::1%7]:5".parse().unwrap()));
        assert_eq!(endpoint("[2001:db8::1]:5"), Some("[2001:db8::1]:5".parse().unwrap()));
    }

    #[test]
    fn replacing_allowed_ips_forgets_the_lines_before_it() {
        let update = set(&format!(
            "public_key={KEY}\nallowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=::/0"
        ));
        assert_eq!(update.tunnel.peers[0].allowed_ips, [AllowedIpUpdate::Add("::/0".parse().unwrap())]);
    }

    #[test]
    fn wrong_values_are_einval_on_their_line() {
        for line in [
            "private_key=",
            "private_key=00",
            "listen_port=65536",
            "listen_port=+5",
            "listen_port=",
            "fwmark=-1",
            "fwmark=4294967296",
            "replace_peers=false",
            "unknown=1",
            "=",
            "endpoint=192.0.2.1:9",
            "remove=true",
            "public_key=zz",
            "allowed_ip=10.0.0.0/8",
        ] {
            let failure = refused(&format!("listen_port=1\n{line}\nlisten_port=2"));
            assert_eq!((failure.errno, failure.line), (Errno::Invalid, 3), "{line}");
        }
        for line in [
            "listen_port=1",
            "private_key=",
            "replace_peers=true",
            "endpoint=192.0.2.1",
            "endpoint=:1",
            "endpoint=host:1",
            "endpoint=[fe80::1%nope]:1",
            "endpoint=[fe80::1%eth7]:70000",
            "endpoint=[%eth7]:1",
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=10.0.0.1",
            "allowed_ip=--10.0.0.0/8",
            "allowed_ip=",
            "persistent_keepalive_interval=off",
            "persistent_keepalive_interval=65536",
            "protocol_version=2",
            "remove=yes",
            "preshared_key=1",
        ] {
            let failure = refused(&format!("public_key={KEY}\n{line}"));
            assert_eq!(
                (failure.errno, failure.operation, failure.line),
                (Errno::Invalid, Operation::Set, 3),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_eproto() {
        for text in ["nonsense\n\n", "set=2\n\n", "set\n\n", "set=1\nnonsense\n\n", "private_key=1\n\n"] {
            let failure = parse(text).unwrap_err();
            assert_eq!((failure.errno, failure.operation), (Errno::Protocol, Operation::Set), "{text}");
        }
        let failure = parse("get=1\nlisten_port=1\n\n").unwrap_err();
        assert_eq!((failure.errno, failure.operation), (Errno::Protocol, Operation::Get));
    }

    #[test]
    fn a_bad_request_is_skipped_to_its_end_and_the_next_one_is_read() {
        let mut parser = RequestParser::new(|_| None);
        let answers: Vec<_> = "set=1\nbad\nlisten_port=5\n\n\nget=1\n\n"
            .split('\n')
            .filter_map(|line| parser.line(line.as_bytes()))
            .collect();
        assert!(matches!(answers[..], [Err(_), Ok(Request::Get)]), "{answers:?}");
    }

    #[test]
    fn requests_are_bounded() {
        let mut parser = RequestParser::new(|_| None);
        assert!(parser.line(b"set=1").is_none());
        while !parser.is_over_limit() {
            assert!(parser.line(b"listen_port=1").is_none());
        }
        let failure = parser.line(b"").expect("the answer").expect_err("too long");
        assert_eq!(failure.errno, Errno::Protocol);
        assert!(!parser.is_over_limit());
    }

    #[test]
    fn a_request_without_its_blank_line_is_not_applied() {
        let mut parser = RequestParser::new(|_| None);
        assert_eq!(parser.truncated(), None);
        assert!(parser.line(b"set=1").is_none());
        assert!(parser.line(b"listen_port=1").is_none());
        assert_eq!(parser.truncated().map(|failure| failure.errno), Some(Errno::Protocol));
        assert!(parser.is_idle());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..50)) {
            let mut parser = RequestParser::new(|_| None);
            for line in lines {
                let _ = parser.line(&line);
            }
            let _ = parser.truncated();
        }

        #[test]
        fn nearly_right_lines_do_not_panic(
            lines in proptest::collection::vec(
                (proptest::sample::select(vec![
                    "set", "private_key", "listen_port", "fwmark", "replace_peers", "public_key", "remove", "endpoint",
                    "update_only", "preshared_key", "persistent_keepalive_interval", "replace_allowed_ips",
                    "allowed_ip", "protocol_version",
                ]), "([0-9a-f]{64}|true|1|[-+0-9:./\\[\\]%a-z]{0,24}|.{0,9})"), 0..40)
        ) {
            let mut parser = RequestParser::new(|_| Some(1));
            for (key, value) in lines {
                let _ = parser.line(format!("{key}={value}").as_bytes());
            }
            let _ = parser.line(b"");
        }
    }
}
