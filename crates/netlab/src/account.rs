//! What things cost: CPU time, memory and the kernel's own counters.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::namespace::Host;

/// A process's memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// The kernel's counters of one host's network stack, as `nstat` shows them (`UdpOutDatagrams`,
/// `Udp6InDatagrams`, `TcpExtTCPOFOQueue`).
///
/// `UdpOutDatagrams` counts send calls: a GSO train is one. `UdpInDatagrams` counts what reached a socket:
/// single datagrams, or trains if the socket set `UDP_GRO`.
#[derive(Clone, Debug, Default)]
pub struct KernelCounters(BTreeMap<String, u64>);

impl KernelCounters {
    /// A counter's value; 0 for one that this kernel does not have.
    pub fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What was counted since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(
            self.0
                .iter()
                .map(|(name, &value)| (name.clone(), value - earlier.value(name).min(value)))
                .collect(),
        )
    }

    /// UDP sends of both families: a GSO train is one.
    pub fn udp_sends(&self) -> u64 {
        self.value("UdpOutDatagrams") + self.value("Udp6OutDatagrams")
    }

    /// UDP deliveries of both families, and those that found the socket's buffer full.
    pub fn udp_deliveries(&self) -> u64 {
        ["UdpInDatagrams", "Udp6InDatagrams", "UdpRcvbufErrors", "Udp6RcvbufErrors"]
            .iter()
            .map(|name| self.value(name))
            .sum()
    }

    /// Every counter whose name holds `part`, with its value, if not zero.
    pub fn nonzero<'a>(&'a self, part: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.0
            .iter()
            .filter(move |(name, value)| **value > 0 && name.contains(part))
            .map(|(name, &value)| (name.as_str(), value))
    }
}

impl Host {
    /// Reads the kernel's counters of this host.
    ///
    /// # Errors
    /// When `/proc` is not readable.
    pub fn kernel_counters(&self) -> Result<KernelCounters> {
        self.run(|| {
            let read = |name: &str| {
                let path = format!("/proc/thread-self/net/{name}");
                fs::read_to_string(&path).context(path)
            };
            let mut counters = BTreeMap::new();
            parse_tables(&read("snmp")?, &mut counters);
            parse_tables(&read("netstat")?, &mut counters);
            parse_pairs(&read("snmp6").unwrap_or_default(), &mut counters);
            Ok(KernelCounters(counters))
        })
    }
}

/// CPU time a process has used, in user and kernel mode, to the nanosecond; children that ended not included.
///
/// # Errors
/// When there is no such process.
pub fn process_cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?));
    Ok(clock_gettime(clock.with_context(|| format!("process {pid}"))?)?.into())
}

/// CPU time that each of a process's threads has used, those of one name together. Threads that ended are not in it,
/// and one that runs at this moment may lack the last few milliseconds.
///
/// # Errors
/// When there is no such process, or the kernel keeps no such account (`CONFIG_SCHED_INFO`).
pub fn thread_cpu(pid: u32) -> Result<BTreeMap<String, Duration>> {
    let mut threads = BTreeMap::new();
    let folder = format!("/proc/{pid}/task");
    for thread in fs::read_dir(&folder).context(folder)? {
        let thread = thread?.path();
        let read = |name| fs::read_to_string(thread.join(name));
        // Threads come and go.
        let (Ok(name), Ok(account)) = (read("comm"), read("schedstat")) else { continue };
        let used = account.split_whitespace().next().and_then(|field| field.parse().ok());
        *threads.entry(name.trim_end().to_owned()).or_default() +=
            Duration::from_nanos(used.context("schedstat")?);
    }
    Ok(threads)
}

/// Whether no thread of a process runs or waits for a processor.
///
/// # Errors
/// When there is no such process.
pub(crate) fn is_asleep(pid: u32) -> Result<bool> {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&folder).context(folder)?;
    let mut stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    Ok(stats.all(|stat| state(&stat) != Some('R')))
}

/// The state in a `/proc` file `stat` (proc(5): pid (comm) state …). The command may itself hold parentheses.
pub(crate) fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// CPU time that the calling thread has used.
pub(crate) fn own_cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// CPU time the whole machine has been busy, over all its processors.
///
/// # Errors
/// When `/proc/stat` is not readable.
pub fn machine_busy() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let busy = parse_busy(&stat).context("/proc/stat")?;
    Ok(ticks(busy))
}

/// A process's memory.
///
/// # Errors
/// When there is no such process.
pub fn process_memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let (resident, peak) = (kib("VmRSS").context("VmRSS")?, kib("VmHWM").context("VmHWM")?);
    Ok(Memory { resident: resident << 10, peak: peak << 10 })
}

fn ticks(count: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_secs_f64(count as f64 / per_second as f64)
}

/// user, nice, system, irq and softirq of the first line; idle, iowait and what hypervisors took are not ours.
fn parse_busy(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().map(|&field| fields.get(field).copied()).sum()
}

/// Lines in pairs: names, then values, both after the same `Table:`.
fn parse_tables(text: &str, counters: &mut BTreeMap<String, u64>) {
    let lines: Vec<_> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let (Some((table, names)), Some((_, values))) = (pair[0].split_once(':'), pair[1].split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // Some values are settings and may be negative (Tcp MaxConn): no counters.
            if let Ok(value) = value.parse() {
                counters.insert(format!("{table}{name}"), value);
            }
        }
    }
}

/// One name and value a line.
fn parse_pairs(text: &str, counters: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let Some((name, value)) = line.split_once(char::is_whitespace) else { continue };
        if let Ok(value) = value.trim().parse() {
            counters.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_name_full_of_parentheses_misleads_nobody() {
        assert_eq!(state("42 (a) R) (b) S 1 2 3"), Some('S'));
        assert!(!is_asleep(std::process::id()).unwrap(), "who asks is running");
    }

    #[test]
    fn idle_and_stolen_time_are_not_busy() {
        assert_eq!(parse_busy("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 …"), Some(31));
    }

    #[test]
    fn tables_become_names_with_their_prefix() {
        let mut counters = BTreeMap::new();
        parse_tables("Udp: InDatagrams NoPorts\nUdp: 5 6\nTcp: MaxConn\nTcp: -1\n", &mut counters);
        parse_pairs("Udp6OutDatagrams                \t7\n", &mut counters);
        let counters = KernelCounters(counters);
        assert_eq!((counters.value("UdpInDatagrams"), counters.udp_sends()), (5, 7));
        assert_eq!(counters.value("TcpMaxConn"), 0);
    }

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let pid = std::process::id();
        let memory = process_memory(pid).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        let started = process_cpu(pid).unwrap();
        let mut work = 0_u64;
        while process_cpu(pid).unwrap() == started {
            work = work.wrapping_mul(31).wrapping_add(1);
        }
        std::hint::black_box(work);
        let by_thread: Duration = thread_cpu(pid).unwrap().values().sum();
        assert!(by_thread > Duration::ZERO && by_thread <= process_cpu(pid).unwrap());
        assert!(own_cpu().unwrap() > Duration::ZERO);
        assert!(machine_busy().unwrap() > Duration::ZERO);
    }
}
