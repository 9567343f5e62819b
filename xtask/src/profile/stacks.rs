//! What `perf script` prints, counted by what the CPU was busy with.

/// What a sample's CPU time was spent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    UdpSend,
    UdpReceive,
    TunRead,
    TunWrite,
    /// Going to sleep, waking others, and asking who is ready.
    Waiting,
    Encryption,
    /// Soft interrupts that fell on a daemon, and other system calls.
    OtherKernel,
    /// Everything of ours that is not encryption.
    OtherUser,
}

impl Place {
    pub(super) const ALL: [Self; 8] = [
        Self::UdpSend,
        Self::UdpReceive,
        Self::TunRead,
        Self::TunWrite,
        Self::Waiting,
        Self::Encryption,
        Self::OtherKernel,
        Self::OtherUser,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::UdpSend => "UDP sending (all of sendmsg)",
            Self::UdpReceive => "UDP receiving",
            Self::TunRead => "TUN reading",
            Self::TunWrite => "TUN writing",
            Self::Waiting => "waiting and waking",
            Self::Encryption => "encryption",
            Self::OtherKernel => "other, kernel",
            Self::OtherUser => "other, user",
        }
    }

    /// By the functions on the stack, innermost first. What a system call does for others on the way, such as the
    /// receiving host's soft interrupt on a veth pair, is counted as that call's.
    fn of(stack: &[&str]) -> Self {
        let has = |function: &str| stack.contains(&function);
        // `__x64_sys_sendmsg`, by whichever name the architecture gives it.
        let calls = |names: &[&str]| {
            stack
                .iter()
                .filter_map(|function| function.split_once("_sys_"))
                .any(|(_, call)| names.contains(&call))
        };
        let leaf = stack.first().copied().unwrap_or("");
        if calls(&["sendmsg"]) {
            Self::UdpSend
        } else if calls(&["recvmmsg", "recvmsg"]) {
            Self::UdpReceive
        } else if has("tun_chr_read_iter") {
            Self::TunRead
        } else if has("tun_chr_write_iter") {
            Self::TunWrite
        } else if calls(&["futex", "epoll_wait", "epoll_pwait", "poll", "ppoll"]) {
            Self::Waiting
        } else if has("do_syscall_64") || has("handle_softirqs") {
            Self::OtherKernel
        } else if leaf.contains("chacha20") || leaf.contains("poly1305") {
            Self::Encryption
        } else {
            Self::OtherUser
        }
    }
}

/// Samples of some processes, by place.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    counts: [u64; Place::ALL.len()],
}

impl Tally {
    /// Counts the samples of `pids` in what `perf script --fields comm,pid,ip,sym` printed: blocks of a line that
    /// ends with the process and a line for each function, innermost first.
    pub(super) fn of(script: &str, pids: &[u32]) -> Self {
        let mut tally = Self::default();
        for block in script.split("\n\n") {
            let mut lines = block.lines().filter(|line| !line.trim().is_empty());
            let pid = lines.next().and_then(|head| head.split_whitespace().last()?.parse().ok());
            if !pid.is_some_and(|pid| pids.contains(&pid)) {
                continue;
            }
            let stack: Vec<&str> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
            tally.counts[Place::of(&stack) as usize] += 1;
        }
        tally
    }

    pub(super) fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// From 0 to 1; 0 of nothing.
    pub(super) fn share(&self, place: Place) -> f64 {
        self.counts[place as usize] as f64 / self.samples().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
volley-data   42 
\tffffffff821ebc17 csum_partial
\tffffffff82036955 net_rx_action
\tffffffff81db6c86 __x64_sys_sendmsg
\tffffffff81000130 entry_SYSCALL_64_after_hwframe

tun write     43 
\tffffffff8201a972 tcp_queue_rcv
\tffffffff81db80b7 tun_chr_write_iter
\tffffffff81000130 entry_SYSCALL_64_after_hwframe

volley-data   43 
\t          1f38f9 ring_core_0_17_14__chacha20_poly1305_seal_avx2

volley-data   42 
\tffffffff81111111 schedule
\tffffffff81111112 __x64_sys_epoll_wait
\tffffffff81000130 entry_SYSCALL_64_after_hwframe

iperf3   44 
\tffffffff81db6c86 __x64_sys_sendmsg
";

    #[test]
    fn samples_are_counted_by_process_and_place() {
        let tally = Tally::of(SCRIPT, &[42, 43]);
        assert_eq!(tally.samples(), 4);
        for place in [Place::UdpSend, Place::TunWrite, Place::Encryption, Place::Waiting] {
            assert_eq!(tally.share(place), 0.25, "{place:?}");
        }
        assert_eq!(tally.share(Place::OtherUser), 0.0);
    }

    #[test]
    fn nothing_has_no_share() {
        assert_eq!(Tally::of("", &[1]).share(Place::UdpSend), 0.0);
    }

    #[test]
    fn places_are_in_the_order_of_their_numbers() {
        for (number, place) in Place::ALL.into_iter().enumerate() {
            assert_eq!(place as usize, number);
        }
    }
}
