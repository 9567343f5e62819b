//! `up` and `down` that die at any point: what comes next leaves the system as it was before, with two other tunnels and
//! a stranger's rules beside it.
//!
//! `strace` sends the signal when the program's own thread is about to make a given system call. Each call is hit by one
//! signal, and where something was just written down by all four; `VOLLEY_TEST_KILLS=all` has all four at each. Then come
//! moments by chance, as many as `VOLLEY_TEST_ROUNDS` says.

mod common;

use std::{
    env, fs,
    process::{Child, Command, Stdio},
    thread,
};

use common::{
    Lab, eventually, lab,
    step::{self, Step},
    system::{VOLLEY, network, snapshot, strangers, tunnel},
    took,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const TOOLS: &[&str] = &["strace", "ip", "wg", "bash", "nft"];

const SIGNALS: [Signal; 4] = [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Calls that change nothing which anybody else could see.
const PLAIN: &[&str] = &[
    "access",
    "brk",
    "close",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "eventfd2",
    "execve",
    "exit_group",
    "faccessat2",
    "fcntl",
    "fstat",
    "futex",
    "getdents64",
    "geteuid",
    "getpid",
    "getrandom",
    "getsockname",
    "getsockopt",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "newfstatat",
    "pidfd_open",
    "poll",
    "prlimit64",
    "readlink",
    "read",
    "recvfrom",
    "recvmsg",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "setsockopt",
    "sigaltstack",
    "socketpair",
    "statx",
    "uname",
];

/// Two tunnels, strangers, and the tunnel that is to come and go; and the system without it.
fn prepare(lab: &Lab) -> String {
    network(lab);
    strangers(lab);
    for (name, octet) in [("one", 1), ("two", 2)] {
        tunnel(lab, name, &format!("Address = 10.{octet}.0.1/24, fd0{octet}::1/64"), "0.0.0.0/0, ::/0");
        lab.run(&format!("{VOLLEY} up ./{name}.conf"));
    }
    let hooks = "PreUp = true\nPostUp = true\nPreDown = true\nPostDown = true";
    let interface = format!("Address = 10.3.0.1/24, fd03::1/64\nDNS = 192.0.2.53\n{hooks}");
    tunnel(lab, "wg0", &interface, "0.0.0.0/0, ::/0, 10.33.0.0/16");
    snapshot(lab)
}

fn volley(lab: &Lab, command: &str) -> Command {
    let script = format!("export PATH=$PATH:$DIR/tools; exec volley {command} ./wg0.conf");
    let mut command = lab.command("sh", &["-c", &script]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// `volley`, its own thread traced, and killed at a step.
fn traced(lab: &Lab, command: &str, at: Option<(&Step, Signal)>) -> Command {
    let inject = at.map(|(step, signal)| step.options(signal).join(" "));
    let script = format!(
        "export PATH=$PATH:$DIR/tools; exec strace -qqq -o trace {} {} {command} ./wg0.conf",
        inject.unwrap_or_default(),
        lab.program()
    );
    let mut command = lab.command("sh", &["-c", &script]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The steps of a run that nobody kills.
fn steps(lab: &Lab, command: &str) -> Vec<Step> {
    assert!(traced(lab, command, None).status().expect("strace runs").success(), "{command}");
    let text = fs::read_to_string(lab.dir.join("trace")).expect("a trace");
    let steps = step::steps(&text).map(|(_, step)| step);
    let steps: Vec<_> = steps.filter(|step| !PLAIN.contains(&&*step.call)).collect();
    assert!(steps.len() > 20, "{steps:?}");
    steps
}

/// Which signals there are at which of `steps`.
fn plan(steps: &[Step]) -> Vec<(Step, Signal)> {
    let all = env::var("VOLLEY_TEST_KILLS").is_ok_and(|kills| kills == "all");
    let signals = |(number, step): (usize, &Step)| {
        let rounds = if all || step.call == "fdatasync" { SIGNALS.len() } else { 1 };
        let signals = (number..number + rounds).map(|which| SIGNALS[which % SIGNALS.len()]);
        signals.map(|signal| (step.clone(), signal)).collect::<Vec<_>>()
    };
    steps.iter().enumerate().flat_map(signals).collect()
}

fn ended(child: &mut Child) -> bool {
    let mut status = None;
    eventually("it ends", || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    status.is_some_and(|status| status.success())
}

/// The system is as before, if need be after `down`; after every other death, somebody brings it up first. True if
/// there was something to undo.
#[track_caller]
fn undone(lab: &Lab, before: &str, number: usize, what: &str) -> bool {
    let left = snapshot(lab) != before;
    let up = (number % 2 == 1).then(|| lab.sh(&format!("{VOLLEY} up ./wg0.conf")));
    let down = lab.sh(&format!("{VOLLEY} down ./wg0.conf"));
    let after = snapshot(lab);
    assert_eq!(after, before, "{what}; and then {up:?} {down:?}");
    left
}

#[test]
fn up_at_each_step() {
    lab(TOOLS, |lab| {
        let before = prepare(lab);
        let steps = steps(lab, "up");
        lab.run(&format!("{VOLLEY} down ./wg0.conf"));
        assert_eq!(snapshot(lab), before);
        let mut left = 0;
        for (number, (step, signal)) in plan(&steps).into_iter().enumerate() {
            let what = format!("up, {signal} at {step:?}");
            let success = ended(&mut traced(lab, "up", Some((&step, signal))).spawn().expect("strace runs"));
            // Whoever could, has undone it, before there was anything to undo or thereafter.
            let rolled_back = signal != Signal::SIGKILL && !success;
            assert!(!rolled_back || snapshot(lab) == before, "{what}");
            left += usize::from(undone(lab, &before, number, &what));
        }
        assert!(left > 10, "{left} of {} steps left something: it was not killed", steps.len());
    });
}

#[test]
fn down_at_each_step() {
    lab(TOOLS, |lab| {
        let before = prepare(lab);
        lab.run(&format!("{VOLLEY} up ./wg0.conf"));
        let steps = steps(lab, "down");
        assert_eq!(snapshot(lab), before);
        let mut left = 0;
        for (number, (step, signal)) in plan(&steps).into_iter().enumerate() {
            let what = format!("down, {signal} at {step:?}");
            lab.run(&format!("{VOLLEY} up ./wg0.conf"));
            ended(&mut traced(lab, "down", Some((&step, signal))).spawn().expect("strace runs"));
            left += usize::from(undone(lab, &before, number, &what));
        }
        assert!(left > 10, "{left} of {} steps left something: it was not killed", steps.len());
    });
}

#[test]
fn at_any_moment() {
    lab(TOOLS, |lab| {
        let before = prepare(lab);
        let rounds = env::var("VOLLEY_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
        let mut random = numbers(std::process::id());
        for number in 0..rounds {
            for command in ["up", "down"] {
                let (done, takes) = took(|| volley(lab, command).status().expect("it runs"));
                assert!(done.success(), "{command}");
                let other = if command == "up" { "down" } else { "up" };
                assert!(volley(lab, other).status().expect("it runs").success(), "{other}");
                let moment = takes * random(1_000) / 1_000;
                let signal = SIGNALS[random(4) as usize];
                let mut child = volley(lab, command).spawn().expect("it runs");
                thread::sleep(moment);
                // It may have ended.
                let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
                ended(&mut child);
                let what = format!("{command}, {signal} after {moment:?}");
                undone(lab, &before, number, &what);
                if command == "up" {
                    lab.run(&format!("{VOLLEY} up ./wg0.conf"));
                }
            }
        }
    });
}

/// Numbers below a limit, by xorshift: what matters is that they differ.
fn numbers(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed | 1;
    move |limit| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % limit
    }
}
