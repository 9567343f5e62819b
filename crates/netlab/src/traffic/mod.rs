//! Our own traffic: it knows what it sent, so it can say what arrived.

mod pattern;
mod ping;
mod tcp;
mod udp;

pub(crate) use pattern::Pattern;
pub(crate) use ping::answers;
pub use ping::{PingReport, ping, ping_for};
pub use tcp::{Amount, TcpPlan, TcpReport, TcpTransfer};
pub use udp::{UdpPlan, UdpReport, udp_stream};
