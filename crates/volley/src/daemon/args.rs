//! How the daemon is to be run. `wg-quick` starts it with a name and nothing else, so every option has an environment
//! variable.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use io_runtime::{Arrangement, Backend, Crew, MAX_HELPERS, RuntimeConfig, UDP_SEND_BUFFER};
use tracing::level_filters::LevelFilter;

use crate::{Trouble, metrics};

/// How to run the daemon.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// The interface to make, such as `wg0`.
    #[arg(value_name = "NAME", required = true, value_parser = interface_name)]
    pub name: Option<String>,

    /// Stay in the foreground, and log to stderr.
    #[arg(short, long, env = "WG_PROCESS_FOREGROUND", value_parser = switch, action = ArgAction::SetTrue)]
    pub foreground: bool,

    /// The interface's MTU, bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    pub mtu: Option<u16>,

    /// The interface's transmit queue: packets, or super-packets, that may wait for the daemon. 2000 if not set.
    #[arg(long, value_name = "PACKETS", env = "VOLLEY_TX_QUEUE_LEN", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub tx_queue_len: Option<u32>,

    /// The UDP port until `wg` sets one; 0 lets the kernel choose.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub listen_port: u16,

    /// Frames taken from the TUN per tick.
    #[arg(long, value_name = "N", env = "VOLLEY_BATCH", default_value_t = 50,
          value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub batch: u16,

    /// How threads share the work.
    #[arg(long, value_enum, env = "VOLLEY_ARRANGEMENT", default_value_t = ArrangementArg::Auto)]
    pub arrangement: ArrangementArg,

    /// Threads that help the loop to encrypt and decrypt: a number, or `auto` for what suits this machine's number of
    /// cores. None do with the boringtun backend.
    #[arg(long, value_name = "N|auto", env = "VOLLEY_CREW", default_value = "0", value_parser = crew)]
    pub crew: Crew,

    /// Whose handshakes and keys: all speak the same protocol.
    #[arg(long, value_enum, env = "VOLLEY_BACKEND", default_value_t)]
    pub backend: BackendArg,

    /// Send one datagram per system call.
    #[arg(long, env = "VOLLEY_NO_UDP_GSO", value_parser = switch, action = ArgAction::SetTrue)]
    pub no_udp_gso: bool,

    /// Receive one datagram per buffer.
    #[arg(long, env = "VOLLEY_NO_UDP_GRO", value_parser = switch, action = ArgAction::SetTrue)]
    pub no_udp_gro: bool,

    /// Exchange single packets with the TUN, with whole checksums.
    #[arg(long, env = "VOLLEY_NO_TUN_OFFLOAD", value_parser = switch, action = ArgAction::SetTrue)]
    pub no_tun_offload: bool,

    /// Write every packet to the TUN alone; super-packets are still read.
    #[arg(long, env = "VOLLEY_NO_TUN_COALESCE", value_parser = switch, action = ArgAction::SetTrue)]
    pub no_tun_coalesce: bool,

    /// Have the data plane's threads scheduled like any others.
    #[arg(long, env = "VOLLEY_NO_SCHED_BATCH", value_parser = switch, action = ArgAction::SetTrue)]
    pub no_sched_batch: bool,

    /// Drop packets that no peer may have, or whose peer has no endpoint, without telling their sender by ICMP.
    #[arg(long, env = "VOLLEY_NO_ICMP_UNREACHABLE", value_parser = switch, action = ArgAction::SetTrue)]
    pub no_icmp_unreachable: bool,

    /// The kernel send buffer to ask for, for each of the two UDP sockets. With much less than this, peers behind
    /// a link that is slower than what is sent there lose packets sooner.
    #[arg(long, value_name = "BYTES", env = "VOLLEY_UDP_SEND_BUFFER", default_value_t = UDP_SEND_BUFFER as u32,
          value_parser = clap::value_parser!(u32).range(4_096..=1 << 30))]
    pub udp_send_buffer: u32,

    /// Serve Prometheus metrics at http://ADDR/metrics. A bare port means the loopback: keep it there, or
    /// others learn who your peers are. `unix:/run/wireguard/%i.metrics` is a socket instead, for its owner alone;
    /// `%i` stands for the interface, where several share the setting.
    #[arg(long, value_name = "ADDR", env = "VOLLEY_METRICS", value_parser = metrics::address)]
    pub metrics: Option<metrics::Address>,

    /// Write what crosses the interface, in the clear, to a new file for Wireshark or tcpdump; `%i` in its
    /// name stands for the interface. It replaces an older capture, and grows until the daemon ends.
    #[arg(long, value_name = "FILE", env = "VOLLEY_PCAP")]
    pub pcap: Option<PathBuf>,

    /// What is logged: silent, error, warn, info, debug or trace (also WG_LOG_LEVEL or LOG_LEVEL).
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub log_level: Option<LevelFilter>,
}

/// `--arrangement`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrangementArg {
    /// What suits this machine's number of cores.
    Auto,
    /// One loop does everything.
    Inline,
    /// Reading and writing the TUN have threads of their own.
    TunThreads,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// The boringtun library's.
    Boringtun,
    /// Volley's own.
    Native,
}

/// The data plane's.
impl Default for BackendArg {
    fn default() -> Self {
        match Backend::default() {
            Backend::Boringtun => Self::Boringtun,
            Backend::Native => Self::Native,
        }
    }
}

impl From<BackendArg> for Backend {
    fn from(argument: BackendArg) -> Self {
        match argument {
            BackendArg::Boringtun => Self::Boringtun,
            BackendArg::Native => Self::Native,
        }
    }
}

impl DaemonArgs {
    /// The interface's name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The data plane's settings for an interface with this MTU, which is up or not.
    pub fn runtime_config(&self, mtu: usize, link_up: bool) -> RuntimeConfig {
        RuntimeConfig {
            batch: self.batch.into(),
            arrangement: match self.arrangement {
                ArrangementArg::Auto => Arrangement::Auto,
                ArrangementArg::Inline => Arrangement::Inline,
                ArrangementArg::TunThreads => Arrangement::TunThreads,
            },
            crew: self.crew,
            backend: self.backend.into(),
            udp_gso: !self.no_udp_gso,
            udp_gro: !self.no_udp_gro,
            tun_coalesce: !self.no_tun_offload && !self.no_tun_coalesce,
            sched_batch: !self.no_sched_batch,
            icmp_unreachable: !self.no_icmp_unreachable,
            udp_send_buffer: self.udp_send_buffer as usize,
            listen_port: self.listen_port,
            fwmark: 0,
            mtu,
            link_up,
        }
    }

    /// The log level: the option, else `WG_LOG_LEVEL`, else `LOG_LEVEL`, else info. Other programs use
    /// these variables too, so a value that makes no sense here is passed over.
    pub fn level(&self) -> LevelFilter {
        let from_env = |name| std::env::var(name).ok().and_then(|value| parse_level(&value).ok());
        self.log_level
            .or_else(|| from_env("WG_LOG_LEVEL"))
            .or_else(|| from_env("LOG_LEVEL"))
            .unwrap_or(LevelFilter::INFO)
    }
}

pub(crate) fn interface_name(name: &str) -> Result<String, Trouble> {
    tun_device::check_interface_name(name)?;
    Ok(name.to_owned())
}

/// A flag as an environment variable gives it.
pub(crate) fn switch(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("use 1 or 0, true or false, yes or no"),
    }
}

/// `--crew`.
fn crew(value: &str) -> Result<Crew, String> {
    match value.parse() {
        _ if value == "auto" => Ok(Crew::Auto),
        Ok(helpers) if helpers <= MAX_HELPERS => Ok(Crew::Helpers(helpers)),
        _ => Err(format!("use auto, or a number up to {MAX_HELPERS}")),
    }
}

fn parse_level(value: &str) -> Result<LevelFilter, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "silent" | "off" | "none" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" | "verbose" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err("use silent, error, warn, info, debug or trace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_read_the_usual_words() {
        for (value, meaning) in
            [("1", true), ("true", true), ("Yes", true), ("0", false), ("no", false), ("", false)]
        {
            assert_eq!(switch(value), Ok(meaning), "{value}");
        }
        assert!(switch("maybe").is_err());
    }

    #[test]
    fn a_crew_is_a_number_within_reason_or_left_to_the_machine() {
        assert_eq!(crew("auto"), Ok(Crew::Auto));
        assert_eq!(crew("0"), Ok(Crew::Helpers(0)));
        assert_eq!(crew("16"), Ok(Crew::Helpers(MAX_HELPERS)));
        for wrong in ["17", "-1", "all", ""] {
            assert!(crew(wrong).is_err_and(|error| error.contains("auto")), "{wrong}");
        }
    }
}
