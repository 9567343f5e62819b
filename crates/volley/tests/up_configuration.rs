//! What a configuration file means to `volley up`, in places where readers differ: what it means to `wg-quick`, `wg` and
//! `ip`; and what is said where that is nothing good.

mod common;

use common::{Lab, keys, lab};

const TOOLS: &[&str] = &["wg", "ip", "bash", "wg-quick"];

const WG_QUICK_UP: &str = "WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf";

fn config(lab: &Lab, name: &str, interface: &str, peers: &str) {
    let private = keys(lab).0;
    lab.file(&format!("{name}.conf"), &format!("[Interface]\nPrivateKey = {private}\n{interface}\n{peers}"));
}

fn peer(lab: &Lab, more: &str) -> String {
    format!("[Peer]\nPublicKey = {}\n{more}\n", keys(lab).1)
}

/// What `told` prints with the interface up by us and by `wg-quick`.
fn by_both(lab: &Lab, told: &str) -> [String; 2] {
    ["volley up ./wg0.conf", WG_QUICK_UP].map(|up| {
        lab.run(up);
        let told = lab.run(told);
        lab.run("volley down ./wg0.conf");
        told
    })
}

/// What a failing `volley up` says.
fn said_by_failure(lab: &Lab) -> String {
    let failed = lab.sh("volley up ./wg0.conf");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(!lab.sh("ip link show wg0").status.success(), "{said}");
    said
}

#[test]
fn sections_of_one_peer_add_up_as_with_wg_and_so_do_routes() {
    lab(TOOLS, |lab| {
        let (private, public) = keys(lab);
        let (other, stranger) = (keys(lab).1, keys(lab).1);
        let psk = lab.run("wg genpsk");
        let more = "Endpoint = 127.0.0.1:9\nPersistentKeepalive = 25";
        let section = |key: &str, more: &str| format!("[Peer]\nPublicKey = {key}\n{more}\n");
        let text = [
            format!("[Interface]\nPrivateKey = {private}\nListenPort = 51913\nAddress = 10.7.0.1/24\n"),
            section(&other, &format!("PresharedKey = {psk}{more}\nAllowedIPs = 10.8.1.0/24, 10.8.2.0/24")),
            section(&stranger, "AllowedIPs = 10.8.2.0/24, 10.8.3.0/24"),
            section(&other, "AllowedIPs = 10.8.3.0/24"),
            // Our own key is nobody's.
            section(&public, "AllowedIPs = 10.8.4.0/24"),
        ];
        lab.file("wg0.conf", &text.concat());
        let [ours, theirs] = by_both(lab, "wg showconf wg0; ip route | sed 's/proto [0-9a-z]* //'");
        assert!(theirs.contains(psk.trim()) && theirs.contains("10.8.3.0/24 dev wg0"), "{theirs}");
        assert!(!theirs.contains("10.8.1.0/24"), "{theirs}");
        assert_eq!(ours, theirs);
    });
}

#[test]
fn a_table_has_a_name_of_iproute2s_or_a_number_in_any_base() {
    lab(TOOLS, |lab| {
        // Nothing but what a test writes.
        let names = "for name in /etc/iproute2 /usr/share/iproute2 /usr/lib/iproute2; do [ ! -d $name ] || \
                     { mount -t tmpfs tmpfs $name && echo $name; }; done";
        let names = lab.run(names);
        let names = names.lines().next().expect("iproute2's directory").to_owned();
        let peer = peer(lab, "AllowedIPs = 10.8.0.0/24");
        let expect = |table: &str, number: &str| {
            config(lab, "wg0", &format!("Table = {table}"), &peer);
            let [ours, theirs] =
                by_both(lab, "ip -N -details route show table all 10.8.0.0/24 | sed 's/proto [0-9]* //'");
            let expected = if number == "254" { String::new() } else { format!(" table {number} ") };
            assert!(theirs.contains("10.8.0.0/24") && theirs.contains(&expected), "{table}: {theirs}");
            assert_eq!(ours, theirs, "{table}");
        };
        expect("main", "254");
        expect("default", "253");
        expect("0x4d", "77");
        expect("0115", "77");
        lab.run(&format!(
            "cd {names}; printf '# ours\\n90 office # why\\n 0x5b hex\\n' > rt_tables; mkdir rt_tables.d; \
             echo 92 dropped > rt_tables.d/x.conf; echo 93 ignored > rt_tables.d/README"
        ));
        expect("office", "90");
        expect("hex", "91");
        expect("dropped", "92");
        expect("main", "254");
        for unknown in ["ignored", "0x", "77x", "4294967296", "-1"] {
            config(lab, "wg0", &format!("Table = {unknown}"), &peer);
            let said = said_by_failure(lab);
            assert!(said.contains(&format!("there is no routing table `{unknown}`")), "{said}");
        }
    });
}

#[test]
fn an_empty_mtu_is_none_and_an_address_may_have_a_netmask() {
    lab(TOOLS, |lab| {
        let address = "Address = 10.9.0.1/255.255.255.0, 10.9.1.1/255.255.255.255, 10.9.2.1/0.0.0.0";
        config(lab, "wg0", &format!("MTU =\n{address}"), &peer(lab, "Endpoint = 127.0.0.1:9"));
        let [ours, theirs] = by_both(lab, "ip addr show wg0 | sed 1d");
        assert!(theirs.contains("inet 10.9.0.1/24 ") && theirs.contains("inet 10.9.1.1/32 "), "{theirs}");
        assert_eq!(ours, theirs);
        for wrong in ["10.9.0.1/255.0.255.0", "fd00::1/ffff::", "10.9.0.1/255.255.255"] {
            config(lab, "wg0", &format!("Address = {wrong}"), "");
            let said = said_by_failure(lab);
            assert!(said.contains(&format!("line 3: Address: `{wrong}` is no IP address")), "{said}");
        }
    });
}

#[test]
fn names_for_which_nft_has_no_word_have_a_firewall_of_their_own() {
    lab(&["wg", "ip", "nft"], |lab| {
        let names = ["a=b", "a+b", "a.b-c_d"];
        for (index, name) in names.iter().enumerate() {
            let interface = format!("Address = 10.7.{index}.1/24\nFwMark = {}", index + 70);
            config(lab, name, &interface, &peer(lab, "AllowedIPs = 0.0.0.0/0"));
            lab.run(&format!("volley up ./{name}.conf"));
        }
        let rules = lab.run("nft list ruleset");
        for name in names {
            assert!(rules.contains(&format!("iifname != \"{name}\"")), "{rules}");
        }
        lab.run("volley down ./a=b.conf");
        let rules = lab.run("nft list ruleset");
        assert!(!rules.contains("a=b") && rules.contains("a+b") && rules.contains("a.b-c_d"), "{rules}");
        lab.run("volley down ./a+b.conf; volley down ./a.b-c_d.conf");
        assert_eq!(lab.run("nft list ruleset"), "");
    });
}

#[test]
fn an_mtu_that_leaves_no_ipv6_is_told() {
    lab(&["wg", "ip", "bash"], |lab| {
        let interface = "Address = 10.7.0.1/24, fd07::1/64\nMTU = 1279";
        config(lab, "wg0", interface, &peer(lab, "AllowedIPs = 10.8.0.0/24"));
        let said = lab.run("volley up ./wg0.conf 2>&1");
        assert!(said.contains("warning: an MTU of 1279 is too small for IPv6, which needs 1280"), "{said}");
        assert!(said.contains("fd07::1/64"), "{said}");
        lab.run("volley down ./wg0.conf");

        config(lab, "wg0", interface, &peer(lab, "AllowedIPs = fd08::/64"));
        let said = said_by_failure(lab);
        assert!(said.contains("an MTU of 1279 is too small for IPv6, which needs 1280"), "{said}");
        assert!(said.contains("to mend it: set MTU = 1280 or more"), "{said}");

        config(lab, "wg0", &interface.replace("1279", "1280"), &peer(lab, "AllowedIPs = fd08::/64"));
        let said = lab.run("volley up ./wg0.conf 2>&1; ip addr show wg0; volley down ./wg0.conf");
        assert!(!said.contains("warning") && said.contains("fd07::1/64"), "{said}");
    });
}

#[test]
fn what_the_kernel_says_of_a_refusal_is_passed_on() {
    lab(&["wg", "ip", "bash"], |lab| {
        lab.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        config(lab, "wg0", "Address = fd07::1/64", "");
        let said = said_by_failure(lab);
        assert!(said.contains("cannot add the address fd07::1/64: Permission denied"), "{said}");
        assert!(said.to_lowercase().contains("ipv6 is disabled"), "{said}");
    });
}
