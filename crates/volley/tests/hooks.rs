//! Hooks and resolvconf: other people's programs, run as `wg-quick` runs them, and none left behind.

mod common;

use std::{fs, process::Child};

use common::{Lab, eventually, keys, lab, socket};
use netlab::Environment;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

const TOOLS: &[&str] = &["wg", "ip", "bash"];

fn config(lab: &Lab, interface: &str) {
    lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {}\n{interface}\n", keys(lab).0));
}

fn is_gone(lab: &Lab) -> bool {
    !socket("wg0").exists() && !lab.sh("ip link show wg0").status.success()
}

#[test]
fn a_hook_fails_with_any_of_its_commands() {
    lab(TOOLS, |lab| {
        for hook in ["false; true", "false | cat", "echo a; cd /nowhere; echo b", "x=$(false); true"] {
            config(lab, &format!("PostUp = {hook}"));
            let failed = lab.sh("volley up ./wg0.conf");
            let said = String::from_utf8_lossy(&failed.stderr).into_owned();
            assert_eq!(failed.status.code(), Some(1), "{hook}: {said}");
            assert!(said.contains(&format!("the hook `{hook}` failed: exit status: 1")), "{said}");
            assert!(is_gone(lab));
        }
    });
}

/// Every condition that the shell of a hook is in.
#[test]
fn a_hook_sees_what_it_sees_under_wg_quick() {
    lab(&["wg", "ip", "bash", "wg-quick"], |lab| {
        let asked = [
            "echo %i $INTERFACE $CONFIG_FILE $MTU $TABLE $SAVE_CONFIG",
            "echo ${ADDRESSES[@]} ${DNS[0]} ${DNS_SEARCH[@]} ${!PRE_UP[@]} ${POST_DOWN[0]} \"${PRE_UP[1]}\"",
            "echo $LC_ALL $-; shopt -p extglob nocasematch || true; set -o | grep -e errexit -e pipefail",
            "env | grep -c -e ^INTERFACE -e INTERNAL || true; ls -l /proc/self/fd | grep memfd || true",
            "echo $BASH_SUBSHELL; x=!(a)b; [[ ac == a!(b) ]] && echo it\\'s extglob",
            "umask; pwd; y='a  b'; echo \"$y\" 'quoted' \\'; echo \"$WG_CONFIG\" | cksum",
            "leaks=1; cd /; exit 0; echo not here",
            "echo ${leaks-clean} ${hook:0:4}; pwd; readlink /proc/self/fd/0",
        ];
        let hooks = |key: &str| {
            let lines = asked.iter().map(|hook| format!("{key} = {{ {hook}; }} >> $DIR/told\n"));
            lines.collect::<String>()
        };
        let interface = format!(
            "Address = 10.7.0.1/24, fd07::1/64\nMTU = 1400\nTable = 77\n{}{}{}PostDown = echo 'it''s gone' >> $DIR/told\n",
            hooks("PreUp"),
            hooks("PostUp"),
            hooks("PreDown")
        );
        config(lab, &interface);
        lab.run("volley up ./wg0.conf && volley down ./wg0.conf");
        let ours = lab.run("cat told; rm told");
        lab.run(
            "WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf && wg-quick down ./wg0.conf",
        );
        let theirs = lab.run("cat told");
        assert!(theirs.contains("\n10.7.0.1/24 fd07::1/64 "), "{theirs}");
        // The `c` is what tells a shell that runs a command line from one that runs a script.
        assert_eq!(ours.replace("hBc\n", "hB\n"), theirs);
    });
}

#[test]
fn without_bash_a_hook_runs_in_sh() {
    lab(&["ip", "sh"], |lab| {
        lab.run("mkdir bin; for tool in sh cat touch ip; do ln -s $(command -v $tool) bin/; done");
        config(lab, "PreUp = echo $INTERFACE $LC_ALL > $DIR/told\nPostUp = false; touch $DIR/reached");
        let program = lab.program();
        let failed = lab.sh(&format!("PATH=$PWD/bin {program} up ./wg0.conf"));
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert_eq!(lab.run("cat told"), "wg0 C\n");
        assert!(!lab.dir.join("reached").exists() && is_gone(lab));
    });
}

#[test]
fn endpoints_are_resolved_when_pre_up_is_done() {
    lab(TOOLS, |lab| {
        lab.file("hosts", "127.0.0.1 localhost\n");
        lab.run("chmod 644 hosts; mount --bind hosts /etc/hosts");
        config(lab, "PreUp = echo 192.0.2.9 late.test >> /etc/hosts");
        let peer = keys(lab).1;
        lab.run(&format!(
            "printf '[Peer]\\nPublicKey = {peer}\\nEndpoint = late.test:7\\nAllowedIPs = 10.8.0.0/24' >> wg0.conf"
        ));
        lab.run("WG_ENDPOINT_RESOLUTION_RETRIES=0 volley up ./wg0.conf");
        assert!(lab.run("wg show wg0 endpoints").contains("192.0.2.9:7"));
        lab.run("volley down ./wg0.conf");
    });
}

#[test]
fn an_endpoint_that_nobody_knows_does_not_hold_up_the_end() {
    lab(&["ip", "bash", "setsid"], |lab| {
        // Nobody answers there: tried again for minutes.
        lab.file("resolv.conf", "nameserver 127.0.0.1\n");
        lab.run("chmod 644 resolv.conf; mount --bind resolv.conf /etc/resolv.conf");
        config(lab, "PreUp = touch $DIR/begun");
        lab.run("printf '[Peer]\\nPublicKey = 8GSxKaJ1R5eRtyJmEFgDpDNW2WVhVtkNgb8xDWQgUG4=\\nEndpoint = no.test:7' >> wg0.conf");
        let mut up = up_without_terminal(lab);
        eventually("it has begun", || lab.dir.join("begun").exists());
        killpg(Pid::from_raw(up.id() as i32), Signal::SIGTERM).expect("signalled");
        eventually("it ends", || up.try_wait().expect("a child").is_some());
        assert!(is_gone(lab));
    });
}

#[test]
fn what_a_hook_has_started_is_killed_with_it() {
    lab(&["ip", "bash", "setsid"], |lab| {
        let sleep = format!("sleep 60.{}", std::process::id());
        config(lab, &format!("PostUp = {sleep} & touch $DIR/begun; wait"));
        let mut up = up_without_terminal(lab);
        eventually("the hook has begun", || lab.dir.join("begun").exists());
        let command_line = sleep.replace(' ', "\0");
        let sleeps = || command_lines().iter().any(|line| line.starts_with(&command_line));
        eventually("it sleeps", sleeps);
        killpg(Pid::from_raw(up.id() as i32), Signal::SIGINT).expect("signalled");
        eventually("it ends", || up.try_wait().expect("a child").is_some());
        eventually("nothing runs on", || !sleeps());
        assert!(is_gone(lab));
    });
}

/// `volley up` in a session and a process group of its own: a terminal's interrupts would reach hooks by themselves.
fn up_without_terminal(lab: &Lab) -> Child {
    let mut up = match Environment::current() {
        Some(Environment::NoTerminal) => lab.volley(&["up", "./wg0.conf"]),
        _ => lab.command("setsid", &[&lab.program(), "up", "./wg0.conf"]),
    };
    up.spawn().expect("it runs")
}

/// Those of all processes.
fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok()).collect()
}

/// A terminal of its own for a command, at which a line is typed in advance; when the file `begun` is there, Ctrl-C is, or
/// the command alone is asked to end. The session outlives it until nothing sleeps: its end would end everything.
const TERMINAL: &str = r"
import glob, os, pty, signal, sys, time
how, sleep, *command = sys.argv[1:]

def eventually(condition):
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)

def sleeps():
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        try:
            if open(path).read().startswith(sleep.replace(' ', chr(0))):
                return True
        except OSError:
            pass

session, terminal = pty.fork()
if session == 0:
    signal.signal(signal.SIGINT, lambda *_: None)
    process = os.spawnvp(os.P_NOWAIT, command[0], command)
    if how == 'terminate' and eventually(lambda: os.path.exists('begun')):
        os.kill(process, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os._exit(status if eventually(lambda: not sleeps()) else 99)
os.write(terminal, b'a passphrase\n')
if how == 'ctrl-c' and eventually(lambda: os.path.exists('begun')):
    os.write(terminal, b'\x03')
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(session, 0)[1]))
";

#[test]
fn a_hook_may_ask_at_the_terminal_and_is_interrupted_there() {
    if Environment::NoTerminal.rules_out("it is about a terminal")
        || Environment::Pid1.rules_out("the terminal is the runtime's, not the container's")
    {
        return;
    }
    lab(&["ip", "bash", "python3"], |lab| {
        let sleep = format!("sleep 70.{}", std::process::id());
        let hooks = format!(
            "PreUp = read -r answer < /dev/tty; echo $answer > told\nPostUp = touch begun; {sleep}; true"
        );
        config(lab, &hooks);
        lab.file("terminal.py", TERMINAL);
        for end in ["ctrl-c", "terminate"] {
            let ended = lab.sh(&format!("python3 terminal.py {end} '{sleep}' volley up ./wg0.conf"));
            assert_eq!(ended.status.code(), Some(1), "{end}: {ended:?}");
            assert_eq!(lab.run("cat told; rm told begun"), "a passphrase\n", "{end}");
            assert!(is_gone(lab), "{end}");
        }
    });
}

#[test]
fn a_resolvconf_that_does_not_read_is_judged_by_its_status_and_leaves_no_zombie() {
    lab(TOOLS, |lab| {
        let resolvconf = |status: u32| {
            lab.run(&format!(
                "mkdir -p bin; printf '#!/bin/sh\\nexec <&-\\nexit {status}\\n' > bin/resolvconf; chmod 755 bin/resolvconf"
            ));
        };
        // More than a pipe holds, so that a resolvconf that does not read is met by whoever writes.
        let servers: String = (0..9_000).map(|n| format!("DNS = 192.0.{}.{}\n", n / 250, n % 250)).collect();
        let zombies = "PostUp = grep -ls \"^PPid:.$PPID$\" /proc/[0-9]*/status | xargs grep -hs ^State > $DIR/states || true";
        config(lab, &format!("{servers}{zombies}"));
        resolvconf(0);
        lab.run("PATH=$PATH:$DIR/bin volley up ./wg0.conf");
        let states = lab.run("cat states");
        assert!(states.contains("State:") && !states.contains("zombie"), "{states}");
        lab.run("PATH=$PATH:$DIR/bin volley down ./wg0.conf");
        resolvconf(3);
        let failed = lab.sh("PATH=$PATH:$DIR/bin volley up ./wg0.conf");
        assert!(String::from_utf8_lossy(&failed.stderr).contains("exit status: 3"), "{failed:?}");
        assert!(is_gone(lab));
    });
}

/// A resolvconf that writes down what it is told.
fn writing_resolvconf(lab: &Lab) {
    lab.file(
        "resolvconf",
        "#!/bin/sh\necho \"$@\" >> $DIR/told\n[ \"$1\" = -a ] && cat >> $DIR/told; true\n",
    );
    lab.run("mkdir bin; mv resolvconf bin; chmod 755 bin/resolvconf; touch told");
}

#[test]
fn search_domains_without_a_server_are_not_set_as_by_wg_quick_but_told() {
    lab(&["wg", "ip", "wg-quick"], |lab| {
        writing_resolvconf(lab);
        config(lab, "DNS = corp.lan");
        let with = |command: &str| {
            lab.run(&format!("export PATH=$PATH:$DIR/bin; {command} 2> said"));
            lab.run("cat told")
        };
        assert_eq!(with("WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf"), "");
        assert_eq!(with("wg-quick down ./wg0.conf"), "");
        assert_eq!(with("volley up ./wg0.conf"), "");
        assert!(lab.run("cat said").contains("the search domains are not set: corp.lan"));
        assert_eq!(with("volley down ./wg0.conf"), "");
    });
}

#[test]
fn down_without_the_file_takes_the_name_servers_back() {
    lab(TOOLS, |lab| {
        writing_resolvconf(lab);
        config(lab, "DNS = 192.0.2.53");
        lab.run("export PATH=$PATH:$DIR/bin; volley up ./wg0.conf; rm wg0.conf; volley down wg0");
        assert_eq!(lab.run("cat told"), "-a wg0 -m 0 -x\nnameserver 192.0.2.53\n-d wg0 -f\n");
        assert!(is_gone(lab));
    });
}
