//! What an application learns of a packet that cannot go.

mod common;

use common::{Daemon, Lab, keys, lab};

const TOOLS: &[&str] = &["wg", "ip", "ping", "python3"];

/// A daemon that is up, with the networks 10.9.0.0/24 and fd09::/64, and one peer in them, number 2 of each,
/// whose endpoint nobody knows.
fn daemon(lab: &Lab, args: &[&str]) -> Daemon {
    let daemon = lab.daemon("wg0", args);
    let ((private, _), (_, peer)) = (keys(lab), keys(lab));
    lab.file("private", &private);
    lab.run(&format!(
        "wg set wg0 private-key private peer {peer} allowed-ips 10.9.0.2/32,fd09::2/128; \
         ip addr add 10.9.0.1/24 dev wg0; ip addr add fd09::1/64 dev wg0 nodad; ip link set wg0 up"
    ));
    daemon
}

/// What a TCP connect says within so many seconds.
fn connect(lab: &Lab, address: &str, seconds: u32) -> String {
    lab.file(
        "connect.py",
        "import errno, socket, sys\n\
         try:\n    socket.create_connection((sys.argv[1], 80), timeout=float(sys.argv[2]))\n\
         except socket.timeout:\n    print('nothing')\n\
         except OSError as error:\n    print(errno.errorcode[error.errno])\n",
    );
    lab.run(&format!("python3 connect.py {address} {seconds}")).trim().to_owned()
}

/// The one that no peer is allowed, and the peer without an endpoint.
const UNREACHABLE: [&str; 4] = ["10.9.0.7", "fd09::7", "10.9.0.2", "fd09::2"];

#[test]
fn a_connect_to_where_nothing_goes_fails_at_once() {
    for arrangement in ["inline", "tun-threads"] {
        lab(TOOLS, move |lab| {
            let _daemon = daemon(lab, &["--arrangement", arrangement]);
            for address in UNREACHABLE {
                assert_eq!(connect(lab, address, 10), "EHOSTUNREACH", "{address}, {arrangement}");
            }
            let ping = |address| {
                let output = lab.sh(&format!("ping -n -c 1 -W 5 {address}"));
                String::from_utf8(output.stdout).expect("text")
            };
            let (v4, v6) = (ping("10.9.0.7"), ping("fd09::7"));
            assert!(v4.contains("From 10.9.0.7 icmp_seq=1 Destination Host Unreachable"), "{v4}");
            assert!(
                v6.contains("From fd09::7 icmp_seq=1 Destination unreachable: Address unreachable"),
                "{v6}"
            );
            let shown = lab.run("volley show wg0");
            assert!(shown.contains("core icmp unreachable sent: 6"), "{shown}");
        });
    }
}

#[test]
fn switched_off_nothing_is_told() {
    lab(TOOLS, |lab| {
        let _daemon = daemon(lab, &["--no-icmp-unreachable"]);
        for address in ["10.9.0.7", "fd09::2"] {
            assert_eq!(connect(lab, address, 1), "nothing", "{address}");
        }
        let shown = lab.run("volley show wg0");
        assert!(shown.contains("core drop tx no route: "), "{shown}");
        assert!(!shown.contains("icmp"), "{shown}");
    });
}

#[test]
fn a_host_behind_a_router_that_translates_addresses_is_told_too() {
    lab(&["wg", "ip", "ping", "sysctl", "iptables"], |lab| {
        let _daemon = daemon(lab, &[]);
        lab.run(
            "ip netns add host; ip link add inside type veth peer name eth0 netns host; \
             ip addr add 10.1.0.1/24 dev inside; ip link set inside up; \
             ip -n host addr add 10.1.0.2/24 dev eth0; ip -n host link set eth0 up; \
             ip -n host route add default via 10.1.0.1; sysctl -qw net.ipv4.ip_forward=1; \
             for one in all wg0 inside; do sysctl -qw net.ipv4.conf.$one.rp_filter=1; done; \
             iptables -t nat -A POSTROUTING -o wg0 -j MASQUERADE; \
             iptables -P FORWARD DROP; iptables -A FORWARD -o wg0 -j ACCEPT; \
             iptables -A FORWARD -m conntrack --ctstate RELATED -j ACCEPT",
        );
        let said = lab.run("ip netns exec host ping -n -c 1 -W 5 10.9.0.7 || true");
        assert!(said.contains("From 10.9.0.7 icmp_seq=1 Destination Host Unreachable"), "{said}");
    });
}
