//! How the runtime is set up, and how it is spoken to while it runs.

use std::fmt;

use tunnel_core::TunnelUpdate;

use crate::udp::{SEND_BUFFER, SocketOptions};

/// How TUN I/O, sealing and UDP I/O share threads. A measured choice: see docs/threads.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrangement {
    /// [`Self::Inline`] on machines with few cores, [`Self::TunThreads`] otherwise.
    #[default]
    Auto,
    /// One loop reads the TUN, seals, sends, receives, opens and writes: run to completion.
    Inline,
    /// The seed's arrangement: a thread of its own reads the TUN and another writes it, with a bounded
    /// batching channel between them and the event loop.
    TunThreads,
}

/// How many threads help the loop to encrypt and decrypt. See docs/threads.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crew {
    /// As many as the machine has cores to spare.
    Auto,
    /// So many. Without any the loop does everything itself.
    Helpers(usize),
}

impl Default for Crew {
    fn default() -> Self {
        Self::Helpers(0)
    }
}

/// Whose handshakes and keys a tunnel uses. All of them speak the same protocol with any peer. See docs/backend.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// `encrypt::boring`, if this crate is built with the feature `boringtun`.
    Boringtun,
    /// [`encrypt::native`].
    #[default]
    Native,
}

impl Backend {
    /// True if this build has it. [`spawn`](crate::spawn) refuses one that it does not have.
    pub const fn is_built(self) -> bool {
        match self {
            Self::Boringtun => cfg!(feature = "boringtun"),
            Self::Native => true,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boringtun => "boringtun",
            Self::Native => "native",
        })
    }
}

/// Start-up settings; every fast path has its switch.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Frames taken from the TUN per tick (the seed's 50).
    pub batch: usize,
    /// Threads.
    pub arrangement: Arrangement,
    /// Threads that help. None do with [`Backend::Boringtun`], which encrypts packet by packet.
    pub crew: Crew,
    /// Handshakes and keys; only [`spawn`](crate::spawn) asks for it.
    pub backend: Backend,
    /// Send batches with `UDP_SEGMENT`.
    pub udp_gso: bool,
    /// Receive batches with `UDP_GRO`.
    pub udp_gro: bool,
    /// Coalesce what goes to the TUN into super-packets, where the device takes them.
    pub tun_coalesce: bool,
    /// Have the data plane's threads scheduled as `SCHED_BATCH` (sched(7)), as long as no other program keeps
    /// the processors busy. See docs/threads.md.
    pub sched_batch: bool,
    /// Answer packets that cannot go with ICMP errors.
    pub icmp_unreachable: bool,
    /// Kernel send buffer to ask for, bytes, for each of the two UDP sockets. It bounds what the kernel may hold for
    /// us; in one that is smaller than [`UDP_SEND_BUFFER`](crate::UDP_SEND_BUFFER) peers have shares.
    pub udp_send_buffer: usize,
    /// Initial UDP port, 0 for any.
    pub listen_port: u16,
    /// Initial SO_MARK, 0 for none.
    pub fwmark: u32,
    /// Inner MTU, bytes.
    pub mtu: usize,
    /// The interface is up at the start; see [`Handle::set_link_up`](crate::Handle::set_link_up). Down, the port is only
    /// tried out, and remembered.
    pub link_up: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            batch: 50,
            arrangement: Arrangement::Auto,
            crew: Crew::default(),
            backend: Backend::default(),
            udp_gso: true,
            udp_gro: true,
            tun_coalesce: true,
            sched_batch: true,
            icmp_unreachable: true,
            udp_send_buffer: SEND_BUFFER,
            listen_port: 0,
            fwmark: 0,
            mtu: 1420,
            link_up: true,
        }
    }
}

impl RuntimeConfig {
    pub(crate) const fn socket_options(&self) -> SocketOptions {
        SocketOptions { gro: self.udp_gro, send_buffer: self.udp_send_buffer }
    }
}

/// A whole device update, as the UAPI gives it.
#[derive(Clone, Debug, Default)]
pub struct DeviceUpdate {
    /// Rebind to this UDP port (0: any).
    pub listen_port: Option<u16>,
    /// Set SO_MARK on the live sockets (0 clears).
    pub fwmark: Option<u32>,
    /// The tunnel's own part.
    pub tunnel: TunnelUpdate,
}
