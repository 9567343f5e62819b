//! Two uplinks: a peer is spoken to from the address that it spoke to, until its route leads through another interface
//! than the one that has that address.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use encrypt::PrivateKey;
use netlab::{Daemon, DeviceConfig, Host, Implementation, Need, PeerConfig, clock, connect, ping_for};

const PORT: u16 = 51820;
/// Shorter than the 15 s in which a silent peer is found out by its silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// The networks: A's uplinks, and where its peers are. The router is the last in each.
const U1: u8 = 1;
const U2: u8 = 2;
const FAR: u8 = 9;
const ROUTER: u8 = 254;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

fn public_key(number: u8) -> String {
    key(number).public_key().to_hex()
}

fn inner(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, number).into()
}

fn port(number: u8) -> u16 {
    PORT + u16::from(number)
}

fn run_ip(host: &Host, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    let output = host.run(move || command.output()).expect("ip");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = clock::now() + PATIENCE;
    while !condition() {
        assert!(clock::now() < end, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Pings until one is answered.
fn assert_reaches(from: &Host, to: u8) {
    eventually("a ping is answered", || {
        let report = ping_for(from, inner(to), Duration::from_millis(1), Duration::ZERO);
        report.is_ok_and(|report| report.received() > 0)
    });
}

/// A, behind two uplinks of one router, and its peers behind a third link of it.
struct Lab {
    v6: bool,
    a: Host,
    router: Host,
    far: Host,
}

impl Lab {
    fn new(v6: bool) -> Self {
        let [a, router, far] = ["a", "router", "far"].map(|name| Host::new(name).expect("a host"));
        connect(&a, "u1", &router, "r1", 1500).expect("a link");
        connect(&a, "u2", &router, "r2", 1500).expect("a link");
        connect(&far, "link", &router, "r9", 1500).expect("a link");
        let lab = Self { v6, a, router, far };
        for (net, ours) in [(U1, "r1"), (U2, "r2"), (FAR, "r9")] {
            lab.add_address(&lab.router, ours, net, ROUTER);
        }
        lab.add_address(&lab.a, "u1", U1, 1);
        lab.add_address(&lab.a, "u2", U2, 1);
        lab.add_address(&lab.far, "link", FAR, 2);
        for path in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
            lab.router.sysctl(path, "1").expect("a sysctl");
        }
        lab.ip(&lab.far, &format!("route add default via {}", lab.outer(FAR, ROUTER)));
        lab.ip(&lab.a, &format!("route add default via {} metric 100", lab.outer(U1, ROUTER)));
        lab.ip(&lab.a, &format!("route add default via {} metric 200", lab.outer(U2, ROUTER)));
        lab
    }

    fn outer(&self, net: u8, number: u8) -> IpAddr {
        if self.v6 {
            Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, number.into()).into()
        } else {
            Ipv4Addr::new(10, net, 0, number).into()
        }
    }

    fn add_address(&self, host: &Host, interface: &str, net: u8, number: u8) {
        let bits = if self.v6 { 64 } else { 24 };
        host.add_address(interface, self.outer(net, number), bits).expect("an address");
    }

    /// `ip`, of the family outside the tunnel.
    fn ip(&self, host: &Host, arguments: &str) {
        run_ip(host, &format!("{} {arguments}", if self.v6 { "-6" } else { "-4" }));
    }

    fn daemon(&self, host: &Host, interface: &str, number: u8, peers: &[(u8, Option<IpAddr>)]) -> Daemon {
        let volley = Implementation::volley(Path::new(env!("CARGO_BIN_EXE_volley")), &[]);
        let daemon = Daemon::start(host, &volley, interface).expect("a daemon");
        let peer = |&(number, address): &(u8, Option<IpAddr>)| PeerConfig {
            public_key: public_key(number),
            endpoint: address.map(|address| SocketAddr::new(address, port(number))),
            allowed_ips: vec![format!("{}/32", inner(number))],
            ..PeerConfig::default()
        };
        let private_key = key(number).to_hex().to_string();
        let config =
            DeviceConfig { private_key, listen_port: port(number), peers: peers.iter().map(peer).collect() };
        daemon.uapi().set(host, &config).expect("configured");
        host.set_up(interface).expect("up");
        host.add_address(interface, inner(number), 32).expect("an address");
        for &(number, _) in peers {
            run_ip(host, &format!("route replace {} dev {interface}", inner(number)));
        }
        daemon
    }

    /// From which address A speaks to a peer.
    fn source(&self, daemon: &Daemon, peer: u8) -> Option<IpAddr> {
        let status = daemon.uapi().request(&self.a, "volley=1\n\n").expect("status");
        let name = format!("source.{}=", public_key(peer));
        let line = status.lines().find_map(|line| line.strip_prefix(&name));
        line.map(|address| address.parse().expect("an address"))
    }

    /// The tunnel works, from A's address on `uplink`.
    fn assert_works_over(&self, uplink: u8, a: &Daemon) {
        assert_reaches(&self.a, 2);
        eventually("the source", || self.source(a, 2) == Some(self.outer(uplink, 1)));
        assert_reaches(&self.a, 2);
    }
}

/// Something happens to `u1`; then the tunnel works over `u2`.
fn follows_the_route(v6: bool, happens: impl FnOnce(&Lab)) {
    netlab::require!(Need::Namespaces, Need::Program("ip"));
    let lab = Lab::new(v6);
    let _b = lab.daemon(&lab.far, "wg0", 2, &[(1, None)]);
    let a = lab.daemon(&lab.a, "wg0", 1, &[(2, Some(lab.outer(FAR, 2)))]);
    lab.assert_works_over(U1, &a);
    happens(&lab);
    lab.assert_works_over(U2, &a);
}

/// The router loses its end of `u1`, and A moves its route.
fn far_end_dies(lab: &Lab) {
    lab.ip(&lab.router, "address flush dev r1");
    lab.ip(&lab.a, "route del default metric 100");
}

/// A takes `u1` down, and its address stays.
fn set_down(lab: &Lab) {
    lab.a.sysctl("net/ipv6/conf/u1/keep_addr_on_down", "1").expect("a sysctl");
    lab.ip(&lab.a, "link set u1 down");
    lab.ip(&lab.router, "address flush dev r1");
}

/// `u2` becomes the better way, and the router takes nothing there from addresses of `u1`.
fn better_route_appears(lab: &Lab) {
    lab.ip(&lab.a, &format!("route add default via {} metric 50", lab.outer(U2, ROUTER)));
    lab.ip(&lab.router, &format!("rule add iif r2 from {} prohibit", lab.outer(U1, 1)));
}

#[test]
fn the_tunnel_follows_the_route_when_the_far_end_of_an_uplink_dies_over_ipv4() {
    follows_the_route(false, far_end_dies);
}

#[test]
fn the_tunnel_follows_the_route_when_the_far_end_of_an_uplink_dies_over_ipv6() {
    follows_the_route(true, far_end_dies);
}

#[test]
fn the_tunnel_follows_the_route_when_an_uplink_is_down_and_keeps_its_address_over_ipv4() {
    follows_the_route(false, set_down);
}

#[test]
fn the_tunnel_follows_the_route_when_an_uplink_is_down_and_keeps_its_address_over_ipv6() {
    follows_the_route(true, set_down);
}

#[test]
fn the_tunnel_follows_the_route_when_a_better_one_appears_over_ipv4() {
    follows_the_route(false, better_route_appears);
}

#[test]
fn the_tunnel_follows_the_route_when_a_better_one_appears_over_ipv6() {
    follows_the_route(true, better_route_appears);
}

/// Two peers spoke to A's second address on `u1`. The route to one moves to `u2`, so its source is forgotten. The other's
/// stays, through this and whatever else has changed.
fn a_source_outlives_other_changes(v6: bool) {
    netlab::require!(Need::Namespaces, Need::Program("ip"));
    let lab = Lab::new(v6);
    lab.add_address(&lab.a, "u1", U1, 2);
    let (second, elsewhere) = (lab.outer(U1, 2), lab.outer(FAR, 3));
    let a = lab.daemon(&lab.a, "wg0", 1, &[(2, None), (3, None)]);
    let _b = lab.daemon(&lab.far, "wg2", 2, &[(1, Some(second))]);
    assert_reaches(&lab.far, 1);
    assert_eq!(lab.source(&a, 2), Some(second));

    // The other peer has an address of its own.
    lab.add_address(&lab.far, "link", FAR, 3);
    lab.ip(&lab.far, "route del default");
    lab.ip(&lab.far, &format!("route add default via {} src {elsewhere}", lab.outer(FAR, ROUTER)));
    let _c = lab.daemon(&lab.far, "wg3", 3, &[(1, Some(second))]);
    assert_reaches(&lab.far, 1);
    assert_eq!(lab.source(&a, 3), Some(second));

    lab.add_address(&lab.a, "u2", U2, 3);
    lab.add_address(&lab.a, "u1", U1, 3);
    lab.ip(&lab.a, &format!("route add {elsewhere} via {}", lab.outer(U2, ROUTER)));
    eventually("the source is forgotten", || lab.source(&a, 3).is_none());
    assert_eq!(lab.source(&a, 2), Some(second));
}

#[test]
fn a_source_outlives_other_changes_over_ipv4() {
    a_source_outlives_other_changes(false);
}

#[test]
fn a_source_outlives_other_changes_over_ipv6() {
    a_source_outlives_other_changes(true);
}
