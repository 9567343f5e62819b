//! What `up` and `down` of one tunnel leave alone: other tunnels, and what strangers have made.

mod common;

use std::{
    collections::BTreeSet,
    env,
    process::{Child, Stdio},
};

use common::{
    Lab, lab,
    system::{VOLLEY, network, snapshot, strangers, tunnel},
};

const TOOLS: &[&str] = &["wg", "ip", "bash", "nft"];

const EVERYWHERE: &str = "0.0.0.0/0, ::/0";

/// `up` and `down` of all `names` at once; every one must succeed.
fn at_once(lab: &Lab, command: &str, names: &[String]) {
    let start = |name: &String| {
        let script = format!("{VOLLEY} {command} ./{name}.conf 2> {name}.said");
        lab.command("sh", &["-c", &script]).spawn().expect("sh runs")
    };
    let started: Vec<Child> = names.iter().map(start).collect();
    for (mut child, name) in started.into_iter().zip(names) {
        let status = child.wait().expect("a child");
        assert!(status.success(), "{command} {name}: {}", lab.run(&format!("cat {name}.said")));
    }
}

fn mark(lab: &Lab, name: &str) -> String {
    lab.run(&format!("wg show {name} fwmark"))
}

/// Number 1.
#[test]
fn a_tunnel_that_has_anothers_mark_takes_nothing_with_it() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "one", "Address = 10.1.0.1/24, fd01::1/64", EVERYWHERE);
        lab.run(&format!("{VOLLEY} up ./one.conf"));
        assert_eq!(mark(lab, "one"), "0xca6c\n"); // 51820
        let with_one = snapshot(lab);

        tunnel(lab, "two", "Address = 10.2.0.1/24\nFwMark = 51820", "10.99.0.0/16");
        lab.run(&format!("{VOLLEY} up ./two.conf; {VOLLEY} down ./two.conf"));
        assert_eq!(snapshot(lab), with_one, "down");

        tunnel(lab, "two", "Address = 10.2.0.1/24\nFwMark = 51820\nPostUp = false", "10.99.0.0/16");
        assert!(!lab.sh(&format!("{VOLLEY} up ./two.conf")).status.success());
        assert_eq!(snapshot(lab), with_one, "an up that failed");
    });
}

/// Number 1: it may want the other's table, too.
#[test]
fn a_default_route_in_anothers_table_is_refused_and_the_other_stays() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "one", "Address = 10.1.0.1/24", EVERYWHERE);
        lab.run(&format!("{VOLLEY} up ./one.conf"));
        let with_one = snapshot(lab);
        tunnel(lab, "two", "Address = 10.2.0.1/24\nFwMark = 51820", EVERYWHERE);
        assert!(!lab.sh(&format!("{VOLLEY} up ./two.conf")).status.success());
        assert_eq!(snapshot(lab), with_one);
    });
}

/// Number 1.
#[test]
fn a_users_own_rule_by_the_same_mark_stays() {
    lab(TOOLS, |lab| {
        network(lab);
        strangers(lab);
        let before = snapshot(lab);
        for (interface, allowed) in [("FwMark = 777", "10.99.0.0/16"), ("", EVERYWHERE)] {
            tunnel(lab, "wg0", &format!("Address = 10.1.0.1/24\n{interface}"), allowed);
            lab.run(&format!("{VOLLEY} up ./wg0.conf; {VOLLEY} down ./wg0.conf"));
            assert_eq!(snapshot(lab), before, "{interface}");
        }
    });
}

/// Number 2. `VOLLEY_TEST_ROUNDS` says how often.
#[test]
fn tunnels_that_come_and_go_at_once_have_a_table_each() {
    lab(TOOLS, |lab| {
        network(lab);
        strangers(lab);
        let names: Vec<_> = ["one", "two", "three", "four"].map(str::to_owned).into();
        for (number, name) in names.iter().enumerate() {
            let interface =
                format!("Address = 10.{number}.0.1/24, fd0{number}::1/64\nPostDown = touch $DIR/{name}.gone");
            tunnel(lab, name, &interface, EVERYWHERE);
        }
        let before = snapshot(lab);
        let rounds = env::var("VOLLEY_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
        for round in 0..rounds {
            at_once(lab, "up", &names);
            let marks: BTreeSet<_> = names.iter().map(|name| mark(lab, name)).collect();
            assert_eq!(marks.len(), names.len(), "round {round}: {marks:?}");
            let rules = lab.run("ip rule; ip -6 rule");
            assert_eq!(rules.matches("proto 118").count(), 4 * names.len(), "round {round}: {rules}");
            at_once(lab, "down", &names);
            assert_eq!(snapshot(lab), before, "round {round}");
            lab.run("rm one.gone two.gone three.gone four.gone");
        }
    });
}

/// Number 2: at boot, or by two people.
#[test]
fn of_two_ups_of_one_interface_at_once_one_says_that_it_exists() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", EVERYWHERE);
        let before = snapshot(lab);
        let start = || {
            let script = format!("{VOLLEY} up ./wg0.conf 2>> said");
            lab.command("sh", &["-c", &script]).spawn().expect("sh runs")
        };
        let started = [start(), start()];
        let succeeded = started.map(|mut child| child.wait().expect("a child").success());
        assert_eq!(succeeded.iter().filter(|success| **success).count(), 1);
        assert!(
            lab.run("cat said").contains("the interface `wg0` exists already"),
            "{}",
            lab.run("cat said")
        );
        lab.run(&format!("{VOLLEY} down ./wg0.conf"));
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 2.
#[test]
fn ups_and_downs_of_one_interface_take_turns() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24\nPostDown = touch $DIR/gone", EVERYWHERE);
        let before = snapshot(lab);
        for _ in 0..3 {
            let start = |command: &&str| {
                let script = format!("{VOLLEY} {command} ./wg0.conf 2>&1");
                lab.command("sh", &["-c", &script]).stdout(Stdio::piped()).spawn().expect("sh runs")
            };
            let started: Vec<_> = ["up", "down", "up", "down"].iter().map(start).collect();
            for child in started {
                let output = child.wait_with_output().expect("a child");
                let said = String::from_utf8_lossy(&output.stdout);
                let in_turn = said.contains("exists already") || said.contains("is not running");
                assert!(output.status.success() != in_turn, "{said}");
            }
            let _ = lab.sh(&format!("{VOLLEY} down ./wg0.conf"));
            assert_eq!(snapshot(lab), before);
            lab.run("rm gone");
        }
    });
}

/// Number 3.
#[test]
fn the_first_of_two_default_routes_goes_and_the_lan_stays_near() {
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "one", "Address = 10.1.0.1/24", EVERYWHERE);
        tunnel(lab, "two", "Address = 10.2.0.1/24", EVERYWHERE);
        lab.run(&format!("{VOLLEY} up ./one.conf; {VOLLEY} up ./two.conf; {VOLLEY} down ./one.conf"));
        assert!(lab.run("ip route get 192.0.2.7").contains("dev lan0"), "{}", lab.run("ip rule"));
        assert!(lab.run("ip route get 203.0.113.1").contains("dev two"));
        lab.run(&format!("{VOLLEY} down ./two.conf"));
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 3.
#[test]
fn a_foreign_rule_that_suppresses_the_default_route_is_not_taken_for_ours() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", EVERYWHERE);
        let before = snapshot(lab);
        lab.run(&format!("{VOLLEY} up ./wg0.conf"));
        // As Mullvad's, which comes later and stands before ours.
        lab.run("ip rule add lookup main suppress_prefixlength 0");
        lab.run(&format!("{VOLLEY} down ./wg0.conf"));
        assert!(lab.run("ip rule").contains("suppress_prefixlength 0"), "{}", lab.run("ip rule"));
        lab.run("ip rule del lookup main suppress_prefixlength 0");
        assert_eq!(snapshot(lab), before);
    });
}

#[test]
fn the_switch_for_marks_is_what_it_was_when_the_last_goes_that_needs_it() {
    lab(TOOLS, |lab| {
        network(lab);
        let valid_mark = || lab.run("cat /proc/sys/net/ipv4/conf/all/src_valid_mark");
        for name in ["one", "two"] {
            tunnel(lab, name, "Address = 10.1.0.1/24", EVERYWHERE);
        }
        assert_eq!(valid_mark(), "0\n");
        lab.run(&format!("{VOLLEY} up ./one.conf; {VOLLEY} up ./two.conf; {VOLLEY} down ./one.conf"));
        assert_eq!(valid_mark(), "1\n");
        lab.run(&format!("{VOLLEY} down ./two.conf"));
        assert_eq!(valid_mark(), "0\n");
        // Somebody else's marks want it now.
        lab.run(&format!("{VOLLEY} up ./one.conf"));
        lab.run("ip rule add not fwmark 777 lookup 777; ip route add default via 192.0.2.254 table 777");
        lab.run(&format!("{VOLLEY} down ./one.conf"));
        assert_eq!(valid_mark(), "1\n");
    });
}
