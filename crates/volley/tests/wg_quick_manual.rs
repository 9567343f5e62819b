//! Every example of `wg-quick`'s manual, brought up by it and by us: the same interface, addresses, routes, rules,
//! firewall, name servers and MTU, and the same file where it is saved.

mod common;

use std::fs;

use common::{
    Lab, eventually, lab, socket,
    system::{VOLLEY, network, snapshot},
};

const TOOLS: &[&str] = &["wg", "wg-quick", "ip", "bash", "nft", "iptables", "ip6tables"];

const CLIENT: &str = "\
[Interface]
Address = 10.200.100.8/24
DNS = 10.200.100.1
PrivateKey = oK56DE9Ue9zK76rAc8pBl6opph+1v36lm7cXXsQKrQM=
MORE
[Peer]
PublicKey = GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU=
PresharedKey = /UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=
AllowedIPs = EVERYWHERE
Endpoint = demo.wireguard.com:51820
";

const KILL_SWITCH: &str = "\
PostUp = iptables -I OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT
PreDown = iptables -D OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT
";

const PASS: &str = "PostUp = wg set %i private-key <(pass WireGuard/private-keys/%i)\n";

const SERVER: &str = "\
[Interface]
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

const POLICY: &str = "\
[Interface]
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

/// What there is of the interface, and of the system with it. What we make says so; nothing else may differ.
fn state(lab: &Lab) -> String {
    let interface = lab.run(
        "ip -d link show wgnet0 | sed 's/^[0-9]*: //'; ip addr show dev wgnet0 | grep inet; \
         wg showconf wgnet0 | grep -v '^ListenPort'; wg show wgnet0 fwmark",
    );
    let system = snapshot(lab).replace(" proto 118", "");
    // Our records are no part of it.
    let is_ours = |line: &&str| line.ends_with(".journal") || line.ends_with(".lock");
    system.lines().filter(|line| !is_ours(line)).fold(interface, |all, line| all + line + "\n")
}

/// What `file` makes of the system and of itself, and what it is like when it is gone.
fn result(lab: &Lab, file: &str, command: &str) -> (String, String, String) {
    lab.file("wgnet0.conf", file);
    lab.run(&format!("{command} up ./wgnet0.conf"));
    let up = state(lab);
    lab.run(&format!("{command} down ./wgnet0.conf"));
    eventually("the daemon ends", || !socket("wgnet0").exists());
    let saved = fs::read_to_string(lab.dir.join("wgnet0.conf")).expect("the file");
    (up, snapshot(lab), saved.trim_end().to_owned())
}

fn is_alike(file: String) {
    lab(TOOLS, move |lab| {
        network(lab);
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        lab.file("pass", &format!("#!/bin/sh\n[ $1 = WireGuard/private-keys/wgnet0 ] && echo {key}\n"));
        lab.file("hosts", "127.0.0.1 localhost\n192.0.2.2 demo.wireguard.com\n");
        lab.run("chmod 755 pass; mv pass tools; mount --bind hosts /etc/hosts");
        // Whatever iptables makes of nft's tables for itself is there before.
        lab.run("iptables -I OUTPUT -j ACCEPT; iptables -D OUTPUT -j ACCEPT; ip6tables -I OUTPUT -j ACCEPT; ip6tables -D OUTPUT -j ACCEPT");
        let before = snapshot(lab);
        let wg_quick = "PATH=$PATH:$DIR/tools WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick";
        let (theirs, mut left, theirs_saved) = result(lab, &file, wg_quick);
        // That one switch, `wg-quick` leaves on.
        lab.run("echo 0 > /proc/sys/net/ipv4/conf/all/src_valid_mark");
        left = left.replace("}\n1\n", "}\n0\n");
        assert_eq!(left, before, "wg-quick's own");
        assert!(theirs.contains("mtu 1420 ") && theirs.contains("inet 10."), "{theirs}");
        let (ours, left, ours_saved) = result(lab, &file, VOLLEY);
        assert_eq!(ours, theirs);
        assert_eq!(left, before);
        assert_eq!(ours_saved, theirs_saved);
    });
}

fn client(more: &str, everywhere: &str) -> String {
    CLIENT.replace("MORE\n", more).replace("EVERYWHERE", everywhere)
}

#[test]
fn a_client_that_tunnels_all_traffic() {
    is_alike(client("", "0.0.0.0/0"));
}

#[test]
fn a_client_of_both_families() {
    is_alike(client("Address = fd00:200::8/64\n", "0.0.0.0/0, ::/0"));
}

#[test]
fn a_client_with_a_kill_switch() {
    is_alike(client(KILL_SWITCH, "0.0.0.0/0"));
}

#[test]
fn a_client_of_both_families_with_a_kill_switch() {
    let more =
        format!("Address = fd00:200::8/64\n{KILL_SWITCH}{}", KILL_SWITCH.replace("iptables", "ip6tables"));
    is_alike(client(&more, "0.0.0.0/0, ::/0"));
}

#[test]
fn a_client_whose_key_is_in_a_store() {
    is_alike(client(PASS, "0.0.0.0/0"));
}

#[test]
fn a_server_that_saves_its_configuration() {
    is_alike(SERVER.to_owned());
}

#[test]
fn routing_by_policy() {
    is_alike(POLICY.to_owned());
}
