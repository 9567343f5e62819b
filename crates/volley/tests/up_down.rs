//! `volley up` and `down`: `wg-quick`'s work without `wg-quick`.

mod common;

use std::fs;

use common::{Lab, NOBODY, eventually, keys, lab, socket};

const TOOLS: &[&str] = &["wg", "ip", "bash"];

fn interface(lab: &Lab, more: &str) -> String {
    format!("[Interface]\nPrivateKey = {}\n{more}\n", keys(lab).0)
}

fn peer(lab: &Lab, more: &str) -> String {
    format!("[Peer]\nPublicKey = {}\n{more}\n", keys(lab).1)
}

fn is_gone(lab: &Lab) -> bool {
    !socket("wg0").exists() && !lab.sh("ip link show wg0").status.success()
}

#[test]
fn up_sets_addresses_mtu_routes_and_runs_hooks_and_down_undoes_it() {
    lab(TOOLS, |lab| {
        let hooks = "Address = 10.7.0.1/24, fd07::1/64\nMTU = 1380\nListenPort = 51910\nPreUp = echo preup %i >> $DIR/hooks\n\
                     PostUp = echo up; ip link show %i >/dev/null && echo postup >> $DIR/hooks\n\
                     PreDown = echo predown >> $DIR/hooks\nPostDown = echo postdown %i >> $DIR/hooks";
        let peer = peer(lab, "AllowedIPs = 10.8.0.0/24, fd08::/64, 10.7.0.9/32\nEndpoint = 127.0.0.1:9");
        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, hooks)));
        lab.run("volley up ./wg0.conf");
        let link = lab.run("ip addr show wg0");
        for expected in ["mtu 1380", "inet 10.7.0.1/24", "inet6 fd07::1/64", "UP"] {
            assert!(link.contains(expected), "{link}");
        }
        let (v4, v6) = (lab.run("ip route"), lab.run("ip -6 route"));
        assert!(v4.contains("10.8.0.0/24 dev wg0") && !v4.contains("10.7.0.9"), "{v4}");
        assert!(v6.contains("fd08::/64 dev wg0"), "{v6}");
        assert_eq!(lab.run("wg show wg0 listen-port"), "51910\n");
        let again = lab.sh("volley up ./wg0.conf");
        assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"), "{again:?}");

        lab.run("volley down ./wg0.conf");
        assert!(is_gone(lab));
        assert_eq!(lab.run("cat hooks"), "preup wg0\npostup\npredown\npostdown wg0\n");
    });
}

/// What `ip` tells about everything that a default route touches, without who made it.
fn routing(lab: &Lab) -> String {
    lab.run(
        "(ip rule; ip -6 rule; ip route; ip route show table 51820; ip -6 route show table 51820) | sed 's/ proto 118//'; \
         wg show wg0 fwmark; nft list ruleset | sed 's/fe80[^ ]*/LINKLOCAL/'; cat /proc/sys/net/ipv4/conf/all/src_valid_mark; ip link show wg0 | grep -o 'mtu [0-9]*'",
    )
}

#[test]
fn default_routes_are_set_up_as_wg_quick_sets_them_up() {
    lab(&["wg", "ip", "bash", "nft", "wg-quick"], |lab| {
        let peer = peer(lab, "AllowedIPs = 0.0.0.0/0, ::/0, 192.168.0.0/16\nEndpoint = 127.0.0.1:9");
        let interface = interface(lab, "Address = 10.7.0.1/24, fd07::1/64\nMTU = 1420");
        lab.file("wg0.conf", &format!("{interface}{peer}"));
        let before = lab.run("ip rule; ip -6 rule; nft list ruleset");

        lab.run("volley up ./wg0.conf");
        let ours = routing(lab);
        lab.run("volley down ./wg0.conf");
        assert_eq!(lab.run("ip rule; ip -6 rule; nft list ruleset"), before, "something is left behind");

        lab.run("WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf");
        let theirs = routing(lab);
        assert_eq!(ours, theirs);
        // Either takes down what the other put up.
        lab.run("volley down ./wg0.conf");
        assert_eq!(lab.run("ip rule; ip -6 rule; nft list ruleset"), before);
        lab.run("volley up ./wg0.conf; wg-quick down ./wg0.conf");
        assert_eq!(lab.run("ip rule; ip -6 rule; nft list ruleset"), before);
    });
}

#[test]
fn without_nft_the_firewall_is_iptables_as_with_wg_quick() {
    lab(&["wg", "ip", "bash", "wg-quick", "iptables"], |lab| {
        // A PATH with everything but nft in it.
        lab.run(
            "mkdir bin; for tool in sysctl ip iptables iptables-save iptables-restore ip6tables ip6tables-save \
             ip6tables-restore; do ln -s $(command -v $tool) bin/; done",
        );
        let program = lab.program();
        let volley = program.trim_end_matches("/volley");
        let path = format!("PATH={volley}:$PWD/bin:/usr/bin:/bin");
        assert!(!lab.sh(&format!("{path}; command -v nft")).status.success(), "nft is not hidden");
        let peer = peer(lab, "AllowedIPs = 0.0.0.0/0\nEndpoint = 127.0.0.1:9");
        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, "Address = 10.7.0.1/24")));
        let rules = || lab.run("iptables-save | grep -e ^- -e '^[*]' | sort");
        lab.run(&format!("{path}; volley up ./wg0.conf"));
        let ours = rules();
        assert!(ours.contains("wg-quick(8) rule for wg0"), "{ours}");
        lab.run(&format!("{path}; volley down ./wg0.conf"));
        assert!(!rules().contains("wg0"), "{}", rules());
        lab.run(&format!("{path}; WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf"));
        assert_eq!(rules(), ours);
        lab.run(&format!("{path}; volley down ./wg0.conf"));
        assert!(!rules().contains("wg0"), "{}", rules());
    });
}

#[test]
fn a_failing_hook_is_rolled_back() {
    lab(&["wg", "ip", "bash", "nft"], |lab| {
        let peer = peer(lab, "AllowedIPs = 0.0.0.0/0");
        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, "Address = 10.7.0.1/24\nPostUp = exit 3")));
        let before = lab.run("ip rule; nft list ruleset");
        let failed = lab.sh("volley up ./wg0.conf");
        assert_eq!(failed.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&failed.stderr).contains("the hook `exit 3` failed"), "{failed:?}");
        assert!(is_gone(lab));
        assert_eq!(lab.run("ip rule; nft list ruleset"), before);
    });
}

#[test]
fn an_interrupted_start_is_rolled_back() {
    lab(&["ip", "bash", "timeout"], |lab| {
        lab.file("wg0.conf", &interface(lab, "Address = 10.7.0.1/24\nPostUp = touch $DIR/waiting; sleep 30"));
        let started = lab.sh("timeout -s INT 2 volley up ./wg0.conf");
        assert!(!started.status.success());
        assert!(lab.dir.join("waiting").exists(), "it came to the hook: {started:?}");
        eventually("it is gone", || is_gone(lab));
    });
}

#[test]
fn a_busy_port_is_told_and_rolled_back() {
    lab(&["ip"], |lab| {
        let (_busy, port) = common::busy_port();
        lab.file("wg0.conf", &interface(lab, &format!("ListenPort = {port}")));
        let failed = lab.sh("volley up ./wg0.conf");
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(
            said.contains("Address already in use") && said.contains("choose another ListenPort"),
            "{said}"
        );
        assert!(is_gone(lab));
    });
}

#[test]
fn mistakes_in_the_file_are_found_before_anything_is_done() {
    lab(&["ip", "setpriv"], |lab| {
        lab.file("wg0.conf", &interface(lab, "PreUp = touch $DIR/touched\nListenPort = x"));
        let failed = lab.sh("volley up ./wg0.conf");
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(said.contains("wg0.conf: line 4: ListenPort: `x` is not 0 to 65535"), "{said}");
        assert!(!lab.dir.join("touched").exists());
        lab.file("wg0.conf", &interface(lab, "PreUp = touch $DIR/touched"));
        lab.run("chmod 644 wg0.conf; chmod 755 .");
        let nobody = lab.volley_with(NOBODY);
        for command in ["up", "down"] {
            let forbidden = lab.sh(&format!("{nobody} {command} ./wg0.conf"));
            assert!(
                String::from_utf8_lossy(&forbidden.stderr).contains("to mend it: run as root"),
                "{forbidden:?}"
            );
        }
        assert!(!lab.dir.join("touched").exists());
        for argument in ["nowhere", "./wg0", "./name-that-is-too-long.conf"] {
            assert_eq!(lab.sh(&format!("volley up {argument}")).status.code(), Some(1), "{argument}");
        }
    });
}

#[test]
fn tables_are_honoured() {
    lab(&["ip"], |lab| {
        let peer = peer(lab, "AllowedIPs = 10.8.0.0/24, 0.0.0.0/0");
        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, "Address = 10.7.0.1/24\nTable = 77")));
        lab.run("volley up ./wg0.conf");
        let routes = lab.run("ip route show table 77");
        assert!(routes.contains("default dev wg0") && routes.contains("10.8.0.0/24 dev wg0"), "{routes}");
        lab.run("volley down ./wg0.conf");

        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, "Address = 10.7.0.1/24\nTable = off")));
        lab.run("volley up ./wg0.conf");
        assert!(!lab.run("ip route show table all").contains("10.8.0.0/24"));
        lab.run("volley down wg0");
        assert!(is_gone(lab));
    });
}

#[test]
fn save_config_keeps_what_changed() {
    lab(&["ip", "wg"], |lab| {
        let path =
            lab.file("wg0.conf", &interface(lab, "Address = 10.7.0.1/24\nSaveConfig = true\nPostUp = true"));
        lab.run("volley up ./wg0.conf");
        let (_, peer) = keys(lab);
        lab.run(&format!(
            "wg set wg0 listen-port 51911 fwmark 0x9 peer {peer} allowed-ips 10.9.0.0/24 endpoint 127.0.0.1:7"
        ));
        lab.run("ip addr add fd07::1/64 dev wg0");
        lab.run("volley down ./wg0.conf");
        let saved = fs::read_to_string(path).expect("the file");
        for expected in [
            "Address = 10.7.0.1/24",
            "Address = fd07::1/64",
            "SaveConfig = true",
            "PostUp = true",
            "ListenPort = 51911",
            "FwMark = 0x9",
            &peer,
            "AllowedIPs = 10.9.0.0/24",
            "Endpoint = 127.0.0.1:7",
        ] {
            assert!(saved.contains(expected), "{expected} is missing in:\n{saved}");
        }
        lab.run("volley up ./wg0.conf");
        assert_eq!(lab.run("wg show wg0 listen-port"), "51911\n");
        lab.run("volley down ./wg0.conf");
    });
}

#[test]
fn the_mtu_leaves_room_for_the_overhead_of_the_way_to_the_peer() {
    lab(&["ip"], |lab| {
        lab.run(
            "ip link add down0 type veth peer name other; ip addr add 192.0.2.1/24 dev down0; \
 ip link set dev down0 mtu 1400 up; ip link set dev other up",
        );
        let peer = peer(lab, "Endpoint = 192.0.2.2:9");
        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, "Address = 10.7.0.1/24")));
        lab.run("volley up ./wg0.conf");
        assert!(lab.run("ip link show wg0").contains("mtu 1320 "));
        lab.run("volley down ./wg0.conf");
    });
}

#[test]
fn rules_that_a_killed_daemon_left_are_not_doubled() {
    lab(&["ip", "nft"], |lab| {
        let peer = peer(lab, "AllowedIPs = 0.0.0.0/0, ::/0");
        lab.file("wg0.conf", &format!("{}{peer}", interface(lab, "Address = 10.7.0.1/24")));
        lab.run("volley up ./wg0.conf");
        let rules = lab.run("ip rule; ip -6 rule");
        // As a crash would: the interface goes, and nobody cleans up.
        lab.run("ip link delete wg0");
        eventually("the daemon is gone", || is_gone(lab));
        lab.run("volley up ./wg0.conf");
        assert_eq!(lab.run("ip rule; ip -6 rule"), rules);
        lab.run("volley down ./wg0.conf");
        assert!(!lab.run("ip rule; ip -6 rule").contains("51820"));
    });
}

#[test]
fn systemds_way_sets_up_a_daemon_that_runs_already() {
    lab(&["ip"], |lab| {
        let mut daemon = lab.daemon("wg0", &["run"]);
        lab.file("wg0.conf", &interface(lab, "Address = 10.7.0.1/24\nListenPort = 51912"));
        lab.run("volley up --running ./wg0.conf");
        assert!(lab.run("ip addr show wg0").contains("10.7.0.1/24"));
        assert_eq!(lab.run("wg show wg0 listen-port"), "51912\n");
        lab.run("volley down ./wg0.conf");
        assert!(daemon.ends_within(common::PATIENCE));
    });
}

#[test]
fn name_servers_are_given_to_resolvconf_as_wg_quick_gives_them() {
    lab(&["ip", "wg-quick"], |lab| {
        // Writes down what it is told.
        lab.file(
            "resolvconf",
            "#!/bin/sh\necho \"$@\" >> $DIR/told\n[ \"$1\" = -a ] && cat >> $DIR/told; true\n",
        );
        lab.run("mkdir bin; mv resolvconf bin; chmod 755 bin/resolvconf");
        let dns = "Address = 10.7.0.1/24\nDNS = 192.0.2.53, home.lan, 2001:db8::53\nDNS = corp.lan";
        lab.file("wg0.conf", &interface(lab, dns));
        let told = |up: &str, down: &str| {
            lab.run(&format!("export PATH=$PATH:$DIR/bin; {up}; {down}"));
            lab.run("cat told; rm told")
        };
        let ours = told("volley up ./wg0.conf", "volley down ./wg0.conf");
        assert!(ours.starts_with("-a wg0 -m 0 -x\nnameserver 192.0.2.53\n"), "{ours}");
        let theirs = told(
            "WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf",
            "wg-quick down ./wg0.conf",
        );
        // wg-quick takes them back twice.
        let unset = "-d wg0 -f\n";
        assert_eq!(ours, theirs.replace(&unset.repeat(2), unset));

        let none = lab.sh("volley up ./wg0.conf");
        assert!(String::from_utf8_lossy(&none.stderr).contains("to mend it: install resolvconf"), "{none:?}");
        assert!(is_gone(lab));
    });
}
