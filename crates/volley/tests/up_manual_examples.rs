//! Every example of `wg-quick`'s manual, by us and by `wg-quick` itself: the same interface, addresses, routes, rules,
//! firewall, name servers and MTU, the same file after `SaveConfig`, and nothing left behind.

mod common;

use std::fs;

use common::{
    Lab, lab,
    system::{VOLLEY, network, snapshot},
};

const TOOLS: &[&str] = &["wg", "ip", "bash", "nft", "iptables", "wg-quick"];

const CLIENT: &str = "[Interface]
Address = 10.200.100.8/24
DNS = 10.200.100.1
PrivateKey = oK56DE9Ue9zK76rAc8pBl6opph+1v36lm7cXXsQKrQM=
HOOKS
[Peer]
PublicKey = GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU=
PresharedKey = /UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=
AllowedIPs = 0.0.0.0/0
Endpoint = demo.wireguard.com:51820
";

const KILL_SWITCH: &str = "\
PostUp = iptables -I OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT
PreDown = iptables -D OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT
";

const PASS: &str = "PostUp = wg set %i private-key <(pass WireGuard/private-keys/%i)\n";

const SERVER: &str = "[Interface]
Address = 10.192.122.1/24
Address = 10.10.0.1/16
SaveConfig = true
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
ListenPort = 51820

[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 10.192.122.3/32, 10.192.124.1/24

[Peer]
PublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=
AllowedIPs = 10.192.122.4/32, 192.168.0.0/16

[Peer]
PublicKey = gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=
AllowedIPs = 10.10.10.230/32
";

const POLICY: &str = "[Interface]
Address = 10.192.122.1/24
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
ListenPort = 51820
Table = 1234
PostUp = ip rule add ipproto tcp dport 22 table 1234
PreDown = ip rule delete ipproto tcp dport 22 table 1234

[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 0.0.0.0/0
";

/// All that is there while it is up, and what the file says when it is down again.
fn up_and_down(lab: &Lab, config: &str, program: &str) -> [String; 2] {
    let path = lab.file("wg0.conf", config);
    // It stays where it was put.
    let switch = "/proc/sys/net/ipv4/conf/all/src_valid_mark";
    lab.run(&format!("echo 0 > {switch}"));
    let left = || snapshot(lab) + &lab.run("iptables-save | sed '/^#/d'");
    let before = left();
    lab.run(&format!("{program} up ./wg0.conf"));
    let system =
        snapshot(lab).replace(" proto 118", "").replace("wg0.journal\n", "").replace("wg0.lock\n", "");
    let there = lab.run("iptables-save | sed '/^#/d'; ip addr show wg0 | sed 's/^[0-9]*//'; wg showconf wg0");
    let port = |line: &&str| config.contains("ListenPort") || !line.starts_with("ListenPort");
    let there: Vec<_> = there.lines().filter(port).collect();
    let there = there.join("\n");
    lab.run(&format!("{program} down ./wg0.conf; echo 0 > {switch}"));
    assert_eq!(left(), before, "{program}");
    [system + &there, fs::read_to_string(path).expect("the file")]
}

#[test]
fn the_examples_of_the_manual_are_the_same_by_us_and_by_wg_quick() {
    lab(TOOLS, |lab| {
        network(lab);
        // Its tables and chains stay once they are made.
        lab.run("iptables -I OUTPUT -j ACCEPT; iptables -D OUTPUT -j ACCEPT");
        lab.file("hosts", "192.0.2.7 demo.wireguard.com\n");
        let key = lab.run("wg genkey");
        lab.file("tools/pass", &format!("#!/bin/sh\n[ $1 = WireGuard/private-keys/wg0 ] && echo {key}"));
        lab.run("chmod 755 tools/pass; chmod 644 hosts; mount --bind hosts /etc/hosts");
        let wg_quick = "PATH=$PATH:$DIR/tools WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick";
        let examples = [
            CLIENT.replace("HOOKS", ""),
            CLIENT.replace("HOOKS", KILL_SWITCH),
            CLIENT.replace("HOOKS", PASS),
            SERVER.to_owned(),
            POLICY.to_owned(),
        ];
        for example in examples {
            let theirs = up_and_down(lab, &example, wg_quick);
            let ours = up_and_down(lab, &example, VOLLEY);
            assert_eq!(ours[0], theirs[0], "{example}");
            assert_eq!(ours[1].trim_end(), theirs[1].trim_end(), "{example}");
            // An example that shows nothing proves nothing.
            assert!(theirs[0].contains("dev wg0"), "{}", theirs[0]);
        }
    });
}
