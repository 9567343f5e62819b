//! Nobody reads what Volley writes: a full disk, a reader that is gone or that never reads, a terminal that hung up, a
//! descriptor that was closed. What is a command's result fails then; nothing else is even disturbed.

mod common;

use std::{
    fs::OpenOptions,
    io::{PipeReader, Read, Write, pipe},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    process::Stdio,
};

use common::{Lab, eventually, keys, lab, socket};
use netlab::Environment;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};

const READS: &str = "a container's runtime reads what its first process says";

/// Somewhere to write to, and what must live as long as it is to be like that.
struct Place {
    name: &'static str,
    writer: OwnedFd,
    _reader: Option<PipeReader>,
}

impl Place {
    /// For both descriptors of a process.
    fn stdio(&self) -> Stdio {
        self.writer.try_clone().expect("a descriptor").into()
    }
}

fn place(name: &'static str, writer: impl Into<OwnedFd>) -> Place {
    Place { name, writer: writer.into(), _reader: None }
}

fn full_disk() -> Place {
    place("a full disk", OpenOptions::new().write(true).open("/dev/full").expect("/dev/full"))
}

fn closed_pipe() -> Place {
    place("a pipe whose reader is gone", pipe().expect("a pipe").1)
}

fn stuck_pipe() -> Place {
    let (reader, mut writer) = pipe().expect("a pipe");
    let set = |flags| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).expect("flags");
    set(OFlag::O_NONBLOCK);
    let _ = writer.write_all(&[b'-'; 2 << 20]);
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).expect("flags");
    Place { name: "a full pipe whose reader sleeps", writer: writer.into(), _reader: Some(reader) }
}

fn hung_up_terminal() -> Place {
    // No other test's child may have a copy of the master.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
    let name = ptsname_r(&master).expect("its name");
    let mut options = OpenOptions::new();
    let slave = options.write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).expect("its other end");
    drop(master);
    place("a terminal that hung up", slave)
}

fn places() -> [Place; 4] {
    [full_disk(), closed_pipe(), stuck_pipe(), hung_up_terminal()]
}

const HOOKS: &str = "PreUp = echo preup >> $DIR/hooks\nPostUp = echo postup >> $DIR/hooks\n\
                     PreDown = echo predown >> $DIR/hooks\nPostDown = echo postdown >> $DIR/hooks";

fn config(lab: &Lab) {
    let text = format!("[Interface]\nPrivateKey = {}\nAddress = 10.7.0.1/24\n{HOOKS}\n", keys(lab).0);
    lab.file("wg0.conf", &text);
    // So that there is something to warn of, too.
    lab.run("chmod 644 wg0.conf; chmod 755 .");
}

#[test]
fn up_and_down_do_all_they_have_to_though_nobody_reads() {
    if Environment::Pid1.rules_out(READS) {
        return;
    }
    lab(&["ip", "bash"], |lab| {
        config(lab);
        for place in places() {
            for command in ["up", "down"] {
                let mut volley = lab.volley(&[command, "./wg0.conf"]);
                let status = volley.stdout(place.stdio()).stderr(place.stdio()).status().expect("it runs");
                assert!(status.success(), "{command} to {}: {status}", place.name);
                let up = lab.sh("ip addr show wg0 | grep -q 10.7.0.1").status.success();
                assert_eq!(up, command == "up", "{}", place.name);
            }
            assert_eq!(
                lab.run("cat hooks; rm hooks"),
                "preup\npostup\npredown\npostdown\n",
                "{}",
                place.name
            );
        }
        lab.run("volley up ./wg0.conf >&- 2>&-; volley down ./wg0.conf >&- 2>&-");
        assert_eq!(lab.run("cat hooks"), "preup\npostup\npredown\npostdown\n", "closed descriptors");
    });
}

#[test]
fn an_up_that_fails_is_rolled_back_and_fails_though_nobody_reads() {
    if Environment::Pid1.rules_out(READS) {
        return;
    }
    lab(&["ip", "bash"], |lab| {
        lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {}\nPostUp = false\n", keys(lab).0));
        for place in places() {
            let status = lab.volley(&["up", "./wg0.conf"]).stderr(place.stdio()).status().expect("it runs");
            assert_eq!(status.code(), Some(1), "{}", place.name);
            assert!(!socket("wg0").exists() && !lab.sh("ip link show wg0").status.success());
        }
    });
}

#[test]
fn a_daemon_lives_on_though_nobody_reads_its_log() {
    lab(&["ip", "wg"], |lab| {
        for place in places() {
            let mut volley = lab.volley(&["-f", "wg0", "--log-level", "trace"]);
            let mut daemon = volley.stdout(place.stdio()).stderr(place.stdio()).spawn().expect("it runs");
            eventually(place.name, || volley::uapi::client::get(&socket("wg0")).is_ok());
            for mtu in 1300..1310 {
                lab.run(&format!("ip link set wg0 mtu {mtu} up; wg set wg0 listen-port 0 fwmark {mtu}"));
            }
            assert_eq!(lab.run("wg show wg0 fwmark"), "0x51d\n", "{}", place.name);
            lab.run("ip link delete wg0");
            eventually("it ends", || daemon.try_wait().expect("a child").is_some_and(|end| end.success()));
        }
    });
}

#[test]
fn a_result_that_could_not_be_written_is_a_failure() {
    if Environment::Pid1.rules_out(READS) {
        return;
    }
    lab(&["ip"], |lab| {
        config(lab);
        lab.run("chmod 600 wg0.conf");
        let _daemon = lab.daemon("wg0", &[]);
        let results = [
            "genkey",
            "genpsk",
            "show",
            "show --json",
            "strip ./wg0.conf",
            "doctor",
            "doctor --json",
            "man",
            "completions bash",
            "--help",
            "--version",
            "up --help",
        ];
        for arguments in results {
            let arguments: Vec<_> = arguments.split(' ').collect();
            for (place, silent) in [(full_disk(), false), (hung_up_terminal(), false), (closed_pipe(), true)]
            {
                let mut volley = lab.volley(&arguments);
                let output = volley.stdout(place.stdio()).output().expect("it runs");
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{arguments:?} to {}: {said}", place.name);
                let expected = !silent && said.contains("volley: cannot write to stdout: ");
                assert!(expected || silent && said.is_empty(), "{arguments:?} to {}: {said}", place.name);
            }
        }
        // Complaints are no results: their status is that of what went wrong.
        for place in places() {
            for (arguments, code) in [("show nowhere", 1), ("--nonsense", 2)] {
                let arguments: Vec<_> = arguments.split(' ').collect();
                let status = lab.volley(&arguments).stderr(place.stdio()).status().expect("it runs");
                assert_eq!(status.code(), Some(code), "{arguments:?} to {}", place.name);
            }
        }
    });
}

/// What is read elsewhere must still come.
#[test]
fn who_reads_gets_everything() {
    lab(&["ip", "bash"], |lab| {
        config(lab);
        let (mut reader, writer) = pipe().expect("a pipe");
        for command in ["up", "down"] {
            let stderr = writer.try_clone().expect("a descriptor");
            assert!(lab.volley(&[command, "./wg0.conf"]).stderr(stderr).status().expect("it runs").success());
        }
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).expect("text");
        let hooks: Vec<_> = said.lines().filter(|line| line.starts_with("[#] ")).collect();
        assert_eq!(hooks.len(), 4, "{said}");
        assert!(said.contains("warning: "), "{said}");
    });
}
