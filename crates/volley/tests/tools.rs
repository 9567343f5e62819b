//! The small commands, against `wg`'s.

mod common;

use common::{NOBODY, keys, lab};
use netlab::Environment;

#[test]
fn keys_are_those_of_wg() {
    lab(&["wg"], |lab| {
        let private = lab.run("volley genkey");
        assert_eq!(private.len(), 45);
        lab.file("private", &private);
        assert_eq!(lab.run("volley pubkey < private"), lab.run("wg pubkey < private"));
        assert_ne!(lab.run("volley genkey"), private);
        lab.file("psk", &lab.run("volley genpsk"));
        let _daemon = lab.daemon("wg0", &[]);
        let (_, peer) = keys(lab);
        lab.run(&format!("wg set wg0 private-key private peer {peer} preshared-key psk"));
        let no_key = lab.sh("echo nonsense | volley pubkey");
        assert_eq!(no_key.status.code(), Some(1), "{no_key:?}");
    });
}

#[test]
fn a_secret_that_goes_to_a_file_of_everybody_is_warned_of_as_by_wg() {
    if Environment::Pid1.rules_out("a container's runtime writes the file, not its first process") {
        return;
    }
    lab(&["wg"], |lab| {
        let said = |program: &str, umask: &str, rest: &str| {
            let done = lab.sh(&format!("rm -f key; umask {umask}; {program} {rest}"));
            assert!(done.status.success(), "{done:?}");
            String::from_utf8(done.stderr).expect("text")
        };
        for command in ["genkey", "genpsk"] {
            for (umask, to, warned) in [
                ("022", "> key", true),
                ("075", "> key", true),
                ("077", "> key", false),
                ("027", "> key", false),
                ("000", "| cat > key", false),
                ("000", "> /dev/null", false),
            ] {
                let rest = format!("{command} {to}");
                let ours = said("volley", umask, &rest);
                assert_eq!(!ours.is_empty(), warned, "umask {umask}; {rest}: {ours}");
                assert_eq!(said("wg", umask, &rest).is_empty(), ours.is_empty(), "wg: umask {umask}; {rest}");
                assert!(!warned || ours.contains("umask 077"), "{ours}");
                assert!(ours.lines().count() <= 1, "{ours}");
            }
        }
    });
}

#[test]
fn show_tells_what_wg_show_tells_and_more() {
    lab(&["wg", "python3", "setpriv"], |lab| {
        let _daemon = lab.daemon("wg0", &["--no-udp-gso"]);
        let ((private, public), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!("wg set wg0 private-key private fwmark 9 peer {peer} allowed-ips 10.0.0.0/8"));
        let shown = lab.run("volley show");
        for line in lab.run("wg show").lines() {
            assert!(shown.contains(line), "{line} is missing in:\n{shown}");
        }
        assert!(shown.contains("udp gso off (switched off)"), "{shown}");
        let json = lab.run("volley show wg0 --json");
        assert!(!json.contains(&private), "no secrets");
        lab.file("shown.json", &json);
        let read = "import json; d = json.load(open('shown.json'))['wg0']; \
                    print(d['public_key'], d['peers'][0]['allowed_ips'], d['fwmark'], d['features']['mtu'])";
        assert_eq!(lab.run(&format!("python3 -c \"{read}\"")), format!("{public} ['10.0.0.0/8'] 9 1420\n"));

        let forbidden = lab.sh(&format!("{} show", lab.volley_with(NOBODY)));
        assert!(
            String::from_utf8_lossy(&forbidden.stderr).contains("to mend it: run as root"),
            "{forbidden:?}"
        );

        let none = lab.sh("volley show wg1");
        assert_eq!(none.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&none.stderr).contains("to mend it: start it: volley wg1"),
            "{none:?}"
        );
    });
}

#[test]
fn completions_and_the_manual_are_printed() {
    lab(&["bash"], |lab| {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            assert!(lab.run(&format!("volley completions {shell}")).contains("no-udp-gso"), "{shell}");
        }
        lab.run("volley completions bash | bash -n");
        let manual = lab.run("volley man");
        for word in ["VOLLEY_NO_UDP_GSO", "genkey", "WG_PROCESS_FOREGROUND", "json"] {
            assert!(manual.contains(word), "{word} is not in the manual");
        }
    });
}
