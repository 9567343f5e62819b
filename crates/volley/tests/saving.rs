//! `SaveConfig` and `volley save`: nothing that was given is lost, and nobody else has a say in what is written; and files
//! that others have a say in are warned of.

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use common::{Lab, keys, lab};
use netlab::Environment;

fn config(lab: &Lab, interface: &str) {
    lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {}\n{interface}\n", keys(lab).0));
}

fn saved(lab: &Lab) -> String {
    fs::read_to_string(lab.dir.join("wg0.conf")).expect("the file")
}

#[test]
fn link_local_addresses_that_somebody_gave_are_saved_and_the_kernels_own_are_not() {
    lab(&["ip", "wg"], |lab| {
        config(lab, "Address = fe80::7/64, 10.7.0.1/24\nSaveConfig = true");
        lab.run("volley up ./wg0.conf; ip addr add fe80::8/64 dev wg0");
        // As it would be by default.
        lab.run("ip link set wg0 addrgenmode random; ip link set wg0 down; ip link set wg0 up; ip addr add fe80::9/64 dev wg0");
        let kernels =
            lab.run("ip -o -6 addr show dev wg0 | sed 's/.*inet6 \\([^ ]*\\) .*/\\1/' | grep -v ::9/");
        let kernels = kernels.trim();
        assert!(kernels.starts_with("fe80:"), "the kernel has made one: {kernels}");
        lab.run("ip addr add fe80::7/64 dev wg0; volley save ./wg0.conf");
        let text = saved(lab);
        for given in ["fe80::7/64", "fe80::9/64", "10.7.0.1/24"] {
            assert!(text.contains(&format!("Address = {given}\n")), "{given} is missing in:\n{text}");
        }
        assert!(!text.contains(kernels), "{kernels}:\n{text}");
        lab.run("volley down ./wg0.conf && volley up ./wg0.conf");
        assert!(lab.run("ip addr show wg0").contains("fe80::7/64"));
        lab.run("volley down ./wg0.conf");
    });
}

#[test]
fn saving_follows_no_link_and_leaves_owner_and_nothing_else() {
    if Environment::NetAdmin.rules_out("it is about a root who may read and give away other users' files") {
        return;
    }
    lab(&["ip", "wg", "setpriv"], |lab| {
        config(lab, "Address = 10.7.0.1/24");
        lab.run("volley up ./wg0.conf; chown 65534:65533 wg0.conf; chmod 640 wg0.conf");
        let victim = lab.file("victim", "precious");
        for name in ["wg0.conf.tmp", ".wg0.conf.tmp"] {
            symlink(&victim, lab.dir.join(name)).expect("a link");
        }
        let before = lab.run("ls -A");
        lab.run("wg set wg0 fwmark 9; volley save ./wg0.conf");
        assert_eq!(fs::read_to_string(&victim).expect("the victim"), "precious");
        assert_eq!(lab.run("ls -A"), before);
        let file = fs::symlink_metadata(lab.dir.join("wg0.conf")).expect("the file");
        assert!(file.is_file() && saved(lab).contains("FwMark = 0x9"));
        assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o777), (65_534, 65_533, 0o600));

        // The file that a link names is the file.
        lab.run(
            "mkdir elsewhere; mv wg0.conf elsewhere; ln -s elsewhere/wg0.conf wg0.conf; wg set wg0 fwmark 10",
        );
        lab.run("volley save ./wg0.conf");
        assert!(fs::symlink_metadata(lab.dir.join("wg0.conf")).expect("the link").is_symlink());
        assert!(saved(lab).contains("FwMark = 0xa"));
        lab.run("volley down ./wg0.conf");
    });
}

#[test]
fn a_save_that_cannot_be_written_leaves_the_old_file_and_nothing_else() {
    lab(&["ip", "wg"], |lab| {
        config(lab, "Address = 10.7.0.1/24");
        // Full with the file, so that the new one has no room.
        lab.run("mkdir small; mount -t tmpfs -o size=8k tmpfs small; mv wg0.conf small; chmod 700 small");
        lab.run("volley up small/wg0.conf; head -c 4096 /dev/zero > small/filler");
        let before = lab.run("cat small/wg0.conf; ls -A small");
        let failed = lab.sh("volley save small/wg0.conf");
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot write ") && said.contains("No space left"), "{said}");
        assert_eq!(lab.run("cat small/wg0.conf; ls -A small"), before);
        lab.run("volley down small/wg0.conf; umount small");
    });
}

#[test]
fn a_file_that_others_may_read_write_or_replace_is_warned_of() {
    lab(&["wg-quick", "bash"], |lab| {
        lab.run("mkdir there linked");
        lab.file("there/wg0.conf", "[Interface]\n");
        symlink(lab.dir.join("there/wg0.conf"), lab.dir.join("linked/wg0.conf")).expect("a link");
        let said = |directory: &str, file: &str, by: &str| {
            lab.run(&format!("chmod {directory} there; chmod {file} there/wg0.conf"));
            let by = by.split_once(' ').expect("a program and a path");
            lab.run(&format!("{} strip {} 2>&1 >/dev/null", by.0, by.1))
        };
        let kinds = [
            ("0755", "0600", "", false),
            ("0755", "0644", "everyone can read", true),
            ("0755", "0602", "everyone can write", false),
            ("0711", "0604", "everyone can read", false),
            ("0757", "0602", "everyone can replace", true),
            ("0757", "0600", "everyone can replace", false),
            ("1757", "0600", "", false),
            ("1757", "0602", "everyone can write", true),
            ("0700", "0666", "", false),
        ];
        for (directory, file, expected, wg_quick_warns) in kinds {
            for path in ["there/wg0.conf", "linked/wg0.conf"] {
                let said_by = |program: &str| said(directory, file, &format!("{program} ./{path}"));
                let ours = said_by("volley");
                assert_eq!(ours.is_empty(), expected.is_empty(), "{directory} {file} {path}: {ours}");
                assert!(ours.contains(expected), "{directory} {file} {path}: {ours}");
                let theirs = said_by("wg-quick");
                assert_eq!(
                    theirs.contains("world accessible"),
                    wg_quick_warns,
                    "{directory} {file} {path}: {theirs}"
                );
            }
        }
    });
}
