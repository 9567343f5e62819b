//! `volley doctor`, on machines that lack one thing or another.

mod common;

use common::{Lab, NOBODY, busy_port, lab};
use netlab::Environment;
use nix::mount::{MsFlags, mount};

/// What the doctor says: outcome by check, and whether it is content.
struct Report {
    json: serde_json::Value,
    said: String,
    success: bool,
}

impl Report {
    fn of(lab: &Lab, command: &str) -> Self {
        let output = lab.sh(command);
        let said = format!("{output:?}");
        let json = serde_json::from_slice(&output.stdout).expect(&said);
        Self { json, said, success: output.status.success() }
    }

    fn check(&self, name: &str) -> &serde_json::Value {
        let checks = self.json["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["name"] == name).expect(&self.said)
    }

    #[track_caller]
    fn is(&self, name: &str, outcome: &str, words: &str) {
        let check = self.check(name);
        assert_eq!(check["outcome"], outcome, "{check}");
        assert!(check.to_string().contains(words), "{check}");
    }
}

fn hide(directory: &str) {
    let nothing: Option<&str> = None;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), nothing).expect("hidden");
}

#[test]
fn a_machine_that_runs_volley_is_healthy_and_stays_as_it_was() {
    lab(&["ip", "wg"], |lab| {
        let before = lab.run("ip -o link");
        let report = Report::of(lab, "volley doctor --json --port 51820");
        assert!(report.success && report.json["healthy"] == true, "{}", report.said);
        report.is("privileges", "pass", "CAP_NET_ADMIN");
        report.is("TUN device", "pass", "/dev/net/tun");
        // Tried for real, unless it could not be.
        let offloads = report.check("TUN offloads").to_string();
        let net_admin_only = Environment::current() == Some(Environment::NetAdmin);
        assert_eq!(offloads.contains("not checked"), net_admin_only, "{offloads}");
        report.is("UDP GSO", "pass", "unharmed");
        report.is("port", "pass", "51820 is free");
        report.is("wireguard-tools", "pass", "wg-quick");
        report.is("socket directory", "pass", "/var/run/wireguard");
        assert_eq!(lab.run("ip -o link"), before);

        let text = lab.run("volley doctor");
        assert!(text.contains("PASS  privileges "), "{text}");
        assert!(!text.contains("FAIL"), "{text}");
        assert!(!text.contains("51820"), "no port was asked about: {text}");
    });
}

#[test]
fn without_privilege_the_doctor_says_what_it_could_not_check() {
    lab(&["setpriv"], |lab| {
        let report = Report::of(lab, &format!("{} doctor --json", lab.volley_with(NOBODY)));
        assert!(!report.success && report.json["healthy"] == false, "{}", report.said);
        report.is("privileges", "fail", "systemctl start volley@NAME");
        report.is("TUN offloads", "warn", "not checked: ");
        report.is("UDP GSO", "pass", "unharmed");
        report.is("socket directory", "fail", "cannot be written");
        assert!(report.said.contains("checks failed"), "{}", report.said);
    });
}

#[test]
fn cap_net_admin_alone_is_enough() {
    lab(&["setpriv", "ip"], |lab| {
        let before = lab.run("ip -o link");
        let caps = "--inh-caps=-all,+net_admin --bounding-set=-all,+net_admin";
        let report = Report::of(lab, &format!("{} doctor --json", lab.volley_with(caps)));
        report.is("privileges", "pass", "CAP_NET_ADMIN");
        report.is("TUN offloads", "pass", "writing is not checked");
        report.is("socket buffers", "pass", "net.core");
        assert_eq!(lab.run("ip -o link"), before, "the throw-away interface is gone");
    });
}

#[test]
fn what_is_missing_fails_with_its_fix() {
    lab(&["ip"], |lab| {
        hide("/dev/net");
        let (_busy, port) = busy_port();
        let report =
            Report::of(lab, &format!("PATH=/nowhere $(command -v volley) doctor --json --port {port}"));
        assert!(!report.success, "{}", report.said);
        report.is("TUN device", "fail", "/dev/net/tun is missing");
        report.is("TUN offloads", "warn", "not checked: ");
        report.is("port", "fail", &format!("ss -ulpn 'sport = :{port}'"));
        report.is("wireguard-tools", "warn", "wg and wg-quick");
    });
}

#[test]
fn a_loopback_that_is_down_is_told_and_no_failure() {
    lab(&["ip"], |lab| {
        lab.run("ip link set lo down");
        let report = Report::of(lab, "volley doctor --json");
        assert!(report.success, "{}", report.said);
        report.is("UDP GSO", "warn", "ip link set lo up");
    });
}
