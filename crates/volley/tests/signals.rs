//! A signal at any point of a start ends it and leaves nothing, or comes after it has succeeded.
//!
//! `strace` sends SIGTERM when the program's own thread is about to make a given system call, so each step is hit for
//! certain. The steps are those of a start that nobody interrupts. What `up` leaves, `up_killed.rs` tells.

mod common;

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use common::{
    Lab, eventually, lab, socket,
    step::{self, Step},
};
use nix::sys::signal::Signal;

const TOOLS: &[&str] = &["strace", "unshare", "ip", "wg"];

/// Calls that make nothing and wait for nothing: a signal there is one at the next call.
const PLAIN: &[&str] = &[
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "futex",
    "rt_sigprocmask",
    "sigaltstack",
    "getrandom",
    "sched_getaffinity",
    "fcntl",
    "lseek",
    "statx",
    "fstat",
    "newfstatat",
    "read",
    "close",
    "prlimit64",
    "uname",
    "getsockname",
    "getsockopt",
    "poll",
    "epoll_ctl",
];

/// The steps of a start, up to its last, and what they say.
struct Trace {
    steps: Vec<Step>,
    /// How many steps there are before signals are listened to.
    deaf: usize,
}

impl Trace {
    /// Of what `strace` has written into `file`, as far as the line that holds `last`.
    fn read(lab: &Lab, file: &str, last: &str) -> Self {
        let text = fs::read_to_string(lab.dir.join(file)).expect("a trace");
        let mut trace = Self { steps: Vec::new(), deaf: 0 };
        let mut is_listening = false;
        for (line, step) in step::steps(&text) {
            if !is_listening {
                let makes =
                    line.contains("TUNSETIFF") || line.starts_with("bind(") || line.starts_with("clone");
                assert!(!makes, "before it listens: {line}");
            }
            // Its own beginning is the tracer's.
            if step.call != "execve" && !PLAIN.contains(&&*step.call) {
                trace.steps.push(step);
            }
            if line.starts_with("rt_sigaction(SIGTERM, {sa_handler=0x") {
                is_listening = true;
                trace.deaf = trace.steps.len();
            }
            if line.contains(last) {
                assert!(is_listening, "it never listens");
                return trace;
            }
        }
        panic!("{last:?} is not in the trace:\n{text}");
    }
}

/// `strace` before a command, for its first thread alone: following no others keeps the count of calls its own.
fn traced(lab: &Lab, step: Option<&Step>, before: &[&str], after: &[&str], program: &[&str]) -> Command {
    let inject = step.map(|step| step.options(Signal::SIGTERM));
    let mut arguments = before.to_vec();
    arguments.extend(["strace", "-qqq", "-s", "256", "-o", "trace"]);
    arguments.extend(after);
    arguments.extend(inject.iter().flatten().map(String::as_str));
    arguments.extend(program);
    let mut command = lab.command(arguments[0], &arguments[1..]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn answers(lab: &Lab) -> bool {
    lab.sh("wg show wg0").status.success()
}

/// Waits for the end of a program that is asked to end at `step`; true if it ends well.
#[track_caller]
fn ended(lab: &Lab, child: &mut Child, step: &Step) -> bool {
    let (mut status, mut looks) = (None, 0);
    eventually(&format!("it ends, asked at {step:?}"), || {
        status = child.try_wait().expect("a child");
        looks += 1;
        if status.is_none() && looks % 100 == 0 {
            // A bell that rings already is not rung once more, so a start may make a call less than the one before: the
            // signal comes with the next, for which there is a reason when somebody asks.
            let _ = answers(lab);
        }
        status.is_some()
    });
    status.is_some_and(|status| status.success())
}

#[track_caller]
fn nothing_is_left(lab: &Lab, step: &Step) {
    assert!(!socket("wg0").exists(), "the socket is left, asked at {step:?}");
    assert!(!lab.sh("ip link show wg0").status.success(), "the interface is left, asked at {step:?}");
}

/// A daemon that stays in front of whoever started it ends at each of the steps in `which`: well if it listens.
fn ends_at_each(
    lab: &Lab,
    trace: &Trace,
    which: impl Iterator<Item = usize>,
    start: impl Fn(Option<&Step>) -> Command,
) {
    assert!(trace.steps.len() > trace.deaf + 20, "{:?}", trace.steps);
    for number in which {
        let step = &trace.steps[number];
        let mut child = start(Some(step)).spawn().expect("strace runs");
        let well = ended(lab, &mut child, step);
        assert!(well || number < trace.deaf, "asked at {step:?}, it listened and failed");
        nothing_is_left(lab, step);
    }
}

#[test]
fn a_daemon_in_the_foreground_ends_at_each_step() {
    lab(TOOLS, |lab| {
        let volley = lab.program();
        let start = |step: Option<&Step>| traced(lab, step, &[], &[], &[&volley, "-f", "wg0"]);
        let mut child = start(None).spawn().expect("strace runs");
        eventually("it answers", || answers(lab));
        lab.run("ip link delete wg0");
        eventually("it ends", || child.try_wait().expect("a child").is_some());
        let trace = Trace::read(lab, "trace", "wg0 is ready");
        // The other half is the background's.
        ends_at_each(lab, &trace, (0..trace.steps.len()).step_by(2), start);
    });
}

#[test]
fn a_containers_first_process_ends_at_each_step() {
    lab(TOOLS, |lab| {
        let volley = lab.program();
        // The tracer is another process of the container, and volley its first.
        let container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let start = |step: Option<&Step>| traced(lab, step, &container, &["-D"], &[&volley, "wg0"]);
        let mut child = start(None).spawn().expect("unshare runs");
        eventually("it answers", || answers(lab));
        lab.run("ip link delete wg0");
        eventually("it ends", || child.try_wait().expect("a child").is_some());
        let trace = Trace::read(lab, "trace", "wg0 is ready");
        // The kernel gives it no signal before it listens.
        ends_at_each(lab, &trace, trace.deaf..trace.steps.len(), start);
    });
}

#[test]
fn a_daemon_in_the_background_ends_at_each_step() {
    lab(TOOLS, |lab| {
        let volley = lab.program();
        // What the program starts in the background, started here: its parent's end is the test after this.
        let start = |step: Option<&Step>| {
            let mut child = traced(lab, step, &[], &[], &[&volley, "wg0"]);
            child.env("VOLLEY_INTERNAL_CHILD", "1").stdout(Stdio::piped());
            child
        };
        let mut child = start(None).spawn().expect("strace runs");
        eventually("it answers", || answers(lab));
        lab.run("ip link delete wg0");
        eventually("it ends", || child.try_wait().expect("a child").is_some());
        let trace = Trace::read(lab, "trace", "\"ready\\n\"");
        ends_at_each(lab, &trace, (1..trace.steps.len()).step_by(2), start);
    });
}

#[test]
fn whoever_starts_one_leaves_a_daemon_or_fails_and_leaves_nothing() {
    lab(TOOLS, |lab| {
        let volley = lab.program();
        let start = |step: Option<&Step>| traced(lab, step, &[], &[], &[&volley, "wg0"]);
        assert!(start(None).status().expect("strace runs").success());
        let end = || {
            lab.run("ip link delete wg0");
            eventually("it ends", || !socket("wg0").exists());
        };
        end();
        let steps = Trace::read(lab, "trace", "exit_group").steps;
        assert!(steps.len() > 20, "{steps:?}");
        for step in &steps {
            let mut child = start(Some(step)).spawn().expect("strace runs");
            if ended(lab, &mut child, step) {
                assert!(answers(lab), "it succeeded, asked at {step:?}");
                end();
            }
            nothing_is_left(lab, step);
        }
    });
}
