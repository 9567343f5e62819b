//! Whoever may not have a TUN interface is told the true cause, and what mends it.

mod common;

use common::{Lab, NOBODY, eventually, lab, socket};
use netlab::Environment;
use nix::mount::{MsFlags, mount};

/// Why a user namespace cannot be tried.
const NEEDS_ROOT: &str = "who has no more than CAP_NET_ADMIN makes no mounts and gives no rights away";

/// What the daemon and the doctor say is one cause and one fix, in two lines.
#[track_caller]
fn refused(lab: &Lab, before: &str, cause: &str, fix: &str) {
    let said = lab.sh(&format!("{before} {} wg0", lab.program()));
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.starts_with(&format!("volley: {cause}\n  to mend it: {fix}")), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!socket("wg0").exists());

    let doctor = lab.sh(&format!("{before} {} doctor", lab.program()));
    let report = String::from_utf8_lossy(&doctor.stdout);
    assert!(!doctor.status.success(), "{report}");
    assert!(report.contains(fix), "{report}");
}

#[test]
fn who_has_no_privilege_is_told_what_is_missing_with_either_device() {
    lab(&["setpriv"], |lab| {
        let start = format!("{} wg0", lab.volley_with(NOBODY));
        lab.with_either_device(|mode| {
            let refused = lab.sh(&start);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(1), "{said}");
            let cause = match mode {
                0o600 => "/dev/net/tun is closed to this process: its mode is 0600, its owner user 0",
                _ => "no permission to create the TUN interface `wg0`\n  to mend it: run as root, or with CAP_NET",
            };
            assert!(said.contains(cause), "{said}");
            assert_eq!(said.lines().count(), 2, "{said}");
        });
    });
}

#[test]
fn a_mount_without_devices_is_named() {
    lab(&[], |lab| {
        let none: Option<&str> = None;
        let nodev = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NODEV;
        mount(none, "/dev/net", none, nodev, none).expect("remounted");
        refused(
            lab,
            "",
            "/dev/net/tun is closed to this process: it is on a file system that is mounted `nodev`",
            "mount with `dev` what `findmnt -T /dev/net/tun` shows",
        );
    });
}

#[test]
fn in_a_user_namespace_what_is_missing_there_is_named() {
    if Environment::NetAdmin.rules_out(NEEDS_ROOT) {
        return;
    }
    lab(&["setpriv", "unshare"], |lab| {
        lab.run("chown 65534:65534 /run/wireguard");
        // The lab's own may be a script that an ordinary user cannot reach.
        let _copied = lab.volley_with(NOBODY);
        let program = format!("{}/volley", common::SOCKET_DIR);
        // An ordinary user who becomes root of a namespace. The device's owner is nobody there.
        lab.with_either_device(|mode| {
            let said = |unshare: &str| {
                let start = lab.sh(&format!("setpriv {NOBODY} unshare {unshare} {program} wg0"));
                assert_eq!(start.status.code(), Some(1), "{start:?}");
                String::from_utf8_lossy(&start.stderr).into_owned()
            };
            if mode == 0o600 {
                for unshare in ["-rm", "-rnm"] {
                    assert_eq!(
                        said(unshare),
                        "volley: /dev/net/tun is closed to this process: its mode is 0600, and its owner is nobody of \
                         this user namespace\n  to mend it: outside of the user namespace, as root: chmod 0666 \
                         /dev/net/tun\n"
                    );
                }
                return;
            }
            assert_eq!(
                said("-rm"),
                "volley: no permission to create `wg0`: this network namespace belongs to another user namespace\n  \
                 to mend it: make a network namespace along with the user namespace (unshare --net, or a container \
                 network of its own), or run as root outside of it\n"
            );
        });
    });
}

#[test]
fn a_missing_device_is_a_matter_of_its_node_or_of_its_driver() {
    if Environment::Pid1.rules_out("what a test lays over /proc is not in the one of the container") {
        return;
    }
    lab(&["ip", "mknod"], |lab| {
        lab.run("rm /dev/net/tun");
        // As /proc/misc is on a machine whose module is loaded, and where it is not.
        let drivers = lab.file("misc", "200 tun\n");
        let none: Option<&str> = None;
        mount(Some(&drivers), "/proc/misc", none, MsFlags::MS_BIND, none).expect("told");
        refused(
            lab,
            "",
            "/dev/net/tun is missing, though the kernel has its driver",
            "mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200; in a container",
        );
        lab.file("misc", "127 vga_arbiter\n");
        refused(
            lab,
            "",
            "this system offers no TUN devices: /dev/net/tun is missing",
            "run `modprobe tun`; in a container",
        );
        // What the first fix says mends it.
        lab.run("mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200");
        lab.run("volley wg0 && ip link delete wg0");
        eventually("it ends", || !socket("wg0").exists());
    });
}

#[test]
fn a_file_or_directory_in_the_devices_place_is_no_device() {
    lab(&[], |lab| {
        // A container engine makes a directory of a host path that it does not find.
        for impostor in ["mkdir -m 0777", "touch"] {
            lab.run(&format!("rm -r /dev/net/tun && {impostor} /dev/net/tun"));
            refused(
                lab,
                "",
                "/dev/net/tun is not the TUN device, but something else of that name",
                "take it away, and: mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200",
            );
        }
    });
}
