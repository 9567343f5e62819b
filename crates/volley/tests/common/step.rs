//! Hitting a program at a step: `strace` sends a signal when the program's own thread is about to make a system call.

use std::collections::HashMap;

use nix::sys::signal::Signal;

/// Before the `nth` time that the program makes `call`.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) call: String,
    nth: usize,
}

impl Step {
    /// The options with which `strace` sends `signal` there.
    pub(crate) fn options(&self, signal: Signal) -> [String; 2] {
        let Self { call, nth } = self;
        [format!("-etrace={call}"), format!("-einject={call}:signal={}:when={nth}", signal.as_str())]
    }
}

/// The lines of a trace of one thread, each with its step.
pub(crate) fn steps(trace: &str) -> impl Iterator<Item = (&str, Step)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let calls = trace.lines().filter_map(|line| Some((line, line.split_once('(')?.0)));
    calls.filter(|(_, call)| !call.contains(' ')).map(move |(line, call)| {
        let nth = counts.entry(call).or_default();
        *nth += 1;
        (line, Step { call: call.to_owned(), nth: *nth })
    })
}
