//! What others take from a tunnel that is up is told.

mod common;

use common::{Lab, keys, lab};

fn up(lab: &Lab) {
    let ((private, _), (_, peer)) = (keys(lab), keys(lab));
    let interface = format!("[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.1/24, fd07::1/64\n");
    lab.file("wg0.conf", &format!("{interface}[Peer]\nPublicKey = {peer}\nAllowedIPs = 0.0.0.0/0, ::/0\n"));
    lab.run("volley up ./wg0.conf");
}

/// What `show` and the doctor say of it; nothing if all is well.
fn said(lab: &Lab) -> String {
    let shown = lab.run("volley show wg0");
    let told: String = shown.lines().filter(|line| line.contains("unprotected")).collect();
    let doctor = lab.sh("volley doctor");
    let doctor = String::from_utf8(doctor.stdout).expect("text");
    assert_eq!(doctor.contains("`wg0` is up, but others have removed"), !told.is_empty(), "{doctor}");
    assert_eq!(lab.run("volley show --json").contains("\"taken_away\": []"), told.is_empty());
    told
}

#[test]
fn a_firewall_and_rules_that_others_have_removed_are_told() {
    lab(&["wg", "ip", "nft"], |lab| {
        up(lab);
        assert_eq!(said(lab), "");
        lab.run("nft delete table ip6 wg-quick-wg0");
        assert!(said(lab).contains("others have removed the firewall of IPv6 (by nft);"), "{}", said(lab));
        lab.run("nft flush ruleset");
        assert!(said(lab).contains("the firewall of IPv4 (by nft)"), "{}", said(lab));
        lab.run("volley down ./wg0.conf; volley up ./wg0.conf");
        assert_eq!(said(lab), "");
        lab.run("ip rule del not fwmark 51820");
        assert!(said(lab).contains("a routing rule of IPv4 (priority "), "{}", said(lab));
        lab.run("volley down ./wg0.conf");
        // A daemon without `up` has nothing that could be missed.
        lab.run("volley wg0");
        assert_eq!(said(lab), "");
        lab.run("ip link delete wg0");
    });
}

#[test]
fn a_missing_program_for_one_family_is_named() {
    lab(&["wg", "ip", "bash", "iptables"], |lab| {
        // A PATH with everything but nft and ip6tables in it.
        lab.run(
            "mkdir bin; for tool in bash cat ip iptables iptables-save iptables-restore; do \
             ln -s $(command -v $tool) bin/; done",
        );
        up(lab);
        lab.run("volley down ./wg0.conf");
        let failed = lab.sh(&format!("PATH=$PWD/bin {} up ./wg0.conf", lab.program()));
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(said.contains("there is neither nft nor ip6tables-restore"), "{said}");
        assert!(!lab.sh("ip link show wg0").status.success());
        assert!(!lab.run("iptables-save").contains("wg0"));
    });
}
