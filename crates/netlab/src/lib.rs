#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod account;
pub mod clock;
mod daemon;
mod emulator;
mod environment;
mod ethtool;
mod known_peer;
mod link;
mod namespace;
mod one_end;
mod placement;
mod require;
mod secrets;
mod traffic;
mod tunnel;
mod uapi;
mod wire;

pub use account::{KernelCounters, Memory, machine_busy, process_cpu, process_memory, thread_cpu};
pub use daemon::{Daemon, Implementation};
pub use emulator::{Emulator, Impairment, PathCounters};
pub use environment::{BACKEND, ENVIRONMENT, Environment};
pub use known_peer::{HandshakeSecrets, KnownPeer, Word, public_key, random_key};
pub use link::{InterfaceCounters, connect};
pub use namespace::{Host, enter_user_namespace, unavailable};
pub use one_end::{
    FULL_TRAIN, FarCipher, Incoming, InnerProtocol, Measured, OneEnd, OneEndPlan, Outgoing, PACKET_LEN,
    super_packet,
};
pub use placement::Placement;
pub use require::{DOES_NOT_APPLY_FILE, NOT_RUN_FILE, Need, REQUIRE_ALL, can_run, find_program, not_run};
pub use secrets::{Secrets, base64, hex};
pub use traffic::{
    Amount, PingReport, TcpPlan, TcpReport, TcpTransfer, UdpPlan, UdpReport, ping, ping_for, udp_stream,
};
pub use tunnel::{Side, Tunnel, TunnelBuilder};
pub use uapi::{DeviceConfig, PeerConfig, Uapi};
pub use wire::{WireKind, WireReport, WireTally, WireTap, carry_checked};
