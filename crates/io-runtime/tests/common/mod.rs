//! Two data planes on the loopback, each with a TUN device in memory.
#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use encrypt::PrivateKey;
use io_runtime::{Arrangement, Backend, Crew, DeviceStatus, DeviceUpdate, Handle, RuntimeConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_device::{
    GsoType, MAX_FRAME_LEN, MemoryHost, MemoryTun, Offloads, Segments, TunDevice, VNET_HEADER_LEN, VnetHeader,
};
use tunnel_core::{AllowedIpUpdate, PeerUpdate, TunnelUpdate};

/// Nothing here takes that long; a test that does has hung.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How threads share the work.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub arrangement: Arrangement,
    pub helpers: usize,
}

/// Both arrangements, with none, one and several helpers.
pub const SETUPS: [Setup; 5] = [
    Setup { arrangement: Arrangement::Inline, helpers: 0 },
    Setup { arrangement: Arrangement::Inline, helpers: 1 },
    Setup { arrangement: Arrangement::Inline, helpers: 3 },
    Setup { arrangement: Arrangement::TunThreads, helpers: 0 },
    Setup { arrangement: Arrangement::TunThreads, helpers: 3 },
];

impl From<Arrangement> for Setup {
    fn from(arrangement: Arrangement) -> Self {
        Self { arrangement, helpers: 0 }
    }
}

pub fn config(setup: impl Into<Setup>) -> RuntimeConfig {
    let Setup { arrangement, helpers } = setup.into();
    // Only Volley's own backend has work for helpers.
    let backend = if helpers > 0 { Backend::Native } else { Backend::default() };
    RuntimeConfig { arrangement, crew: Crew::Helpers(helpers), backend, ..RuntimeConfig::default() }
}

pub fn listen(port: u16) -> DeviceUpdate {
    DeviceUpdate { listen_port: Some(port), ..DeviceUpdate::default() }
}

/// Runs a test's future, and fails it if it hangs.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("the test hung") })
}

/// The host's side of a device, with calls that wait.
#[derive(Clone)]
pub struct Wire(Arc<MemoryHost>);

impl Wire {
    /// Gives the device a packet.
    pub fn send(&self, packet: &[u8]) {
        self.send_frame(&[&[0; VNET_HEADER_LEN], packet].concat());
    }

    /// Gives the device a frame, header and all.
    pub fn send_frame(&self, frame: &[u8]) {
        while !self.try_send_frame(frame) {
            self.wait(PollFlags::POLLOUT);
        }
    }

    /// False when the device's queue is full.
    pub fn try_send_frame(&self, frame: &[u8]) -> bool {
        match self.0.send(frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            result => result.map(|()| true).expect("the device is there"),
        }
    }

    /// The next frame the device wrote. Gives its length.
    pub fn recv_frame(&self, frame: &mut [u8]) -> usize {
        loop {
            match self.0.recv(frame) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN),
                result => return result.expect("the device is there"),
            }
        }
    }

    /// The packets of the next frame the device wrote.
    pub fn recv(&self) -> Vec<Vec<u8>> {
        let mut frame = vec![0; MAX_FRAME_LEN];
        let len = self.recv_frame(&mut frame);
        split(&mut frame[..len])
    }

    fn wait(&self, events: PollFlags) {
        let limit = PollTimeout::try_from(LIMIT).unwrap();
        let ready = poll(&mut [PollFd::new(self.0.as_fd(), events)], limit).unwrap();
        assert_eq!(ready, 1, "nothing happens on the wire");
    }

    /// Exactly that many packets.
    pub fn recv_packets(&self, count: usize) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        while packets.len() < count {
            packets.extend(self.recv());
        }
        packets
    }
}

/// One side of a tunnel.
pub struct Side {
    pub handle: Handle,
    pub wire: Wire,
    pub key: PrivateKey,
    /// Its address inside.
    pub inner: Ipv4Addr,
}

/// Two data planes that know each other.
pub struct Pair {
    pub a: Side,
    pub b: Side,
}

impl Pair {
    pub async fn start(config: RuntimeConfig, offloads: Offloads) -> Self {
        Self::start_over(config, offloads, Ipv4Addr::LOCALHOST.into()).await
    }

    /// The UDP between them runs over `outer`.
    pub async fn start_over(config: RuntimeConfig, offloads: Offloads, outer: IpAddr) -> Self {
        let [a, b] = Side::ADDRESSES;
        let (a, b) = (Side::start(config.clone(), offloads, a), Side::start(config, offloads, b));
        Self::introduce(a, b, outer).await
    }

    /// B's device is wrapped, to fail as a test wants.
    pub async fn start_with_device<D: TunDevice + AsFd>(
        config: RuntimeConfig,
        offloads: Offloads,
        wrap: impl FnOnce(MemoryTun) -> D,
    ) -> Self {
        let [a, b] = Side::ADDRESSES;
        let a = Side::start(config.clone(), offloads, a);
        let b = Side::start_with_device(config, offloads, b, wrap);
        Self::introduce(a, b, Ipv4Addr::LOCALHOST.into()).await
    }

    async fn introduce(a: Side, b: Side, outer: IpAddr) -> Self {
        let port = b.status().await.listen_port;
        a.know(&b, Some((outer, port).into())).await;
        b.know(&a, None).await; // learns it from the handshake
        Self { a, b }
    }

    /// A packet from a to b, seen to arrive.
    #[track_caller]
    pub fn ping(&self, number: u32) {
        let ping = packet(self.a.inner, self.b.inner, number, 100);
        self.a.wire.send(&ping);
        assert_eq!(self.b.wire.recv(), [ping]);
    }

    /// Shuts both down and waits until they are.
    pub async fn finish(self) {
        for side in [self.a, self.b] {
            side.handle.shutdown();
            side.handle.finished().await.unwrap();
        }
    }
}

impl Side {
    const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

    pub fn start(config: RuntimeConfig, offloads: Offloads, inner: Ipv4Addr) -> Self {
        Self::start_with_device(config, offloads, inner, |device| device)
    }

    fn start_with_device<D: TunDevice + AsFd>(
        config: RuntimeConfig,
        offloads: Offloads,
        inner: Ipv4Addr,
        wrap: impl FnOnce(MemoryTun) -> D,
    ) -> Self {
        let (device, host) = MemoryTun::pair("test", offloads).unwrap();
        let handle = io_runtime::spawn(wrap(device), config).unwrap();
        let wire = Wire(Arc::new(host));
        Self { handle, wire, key: PrivateKey::generate(), inner }
    }

    pub async fn status(&self) -> DeviceStatus {
        self.handle.status().await.unwrap()
    }

    /// The status once everything that the tunnel has opened is counted as written, too.
    pub async fn settled(&self) -> DeviceStatus {
        loop {
            let status = self.status().await;
            if status.io.traffic.tun_packets_written == status.core.traffic.rx_packets {
                return status;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Makes `other` this side's only peer.
    pub async fn know(&self, other: &Self, endpoint: Option<SocketAddr>) {
        let mut peer = PeerUpdate::new(other.key.public_key());
        peer.endpoint = endpoint;
        peer.replace_allowed_ips = true;
        peer.allowed_ips = vec![AllowedIpUpdate::Add(ipnet::IpNet::from(IpAddr::V4(other.inner)))];
        let tunnel = TunnelUpdate {
            private_key: Some(Some(self.key.clone())),
            replace_peers: true,
            peers: vec![peer],
        };
        self.handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() }).await.unwrap();
    }
}

/// The packets of a frame.
pub fn split(frame: &mut [u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame).expect("a frame that can be taken apart");
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// A frame with a TCP super-packet over IPv4: so many segments of `mss` bytes, from this sequence number on.
pub fn tcp_frame(from: Ipv4Addr, to: Ipv4Addr, sequence: u32, segments: usize, mss: u16) -> Vec<u8> {
    const TCP: usize = 20;
    let len = TCP + 20 + segments * usize::from(mss);
    let mut packet = packet(from, to, 0, len);
    packet[6] = 0x40; // don't fragment
    packet[9] = 6;
    packet[TCP..TCP + 4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    packet[TCP + 4..TCP + 8].copy_from_slice(&sequence.to_be_bytes());
    packet[TCP + 8..TCP + 12].copy_from_slice(&1_u32.to_be_bytes());
    packet[TCP + 12..TCP + 20].copy_from_slice(&[5 << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    let mut frame = vec![0; VNET_HEADER_LEN];
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::TcpV4,
        hdr_len: 40,
        gso_size: mss,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::PLAIN
    };
    header.write_to(frame.first_chunk_mut().unwrap());
    frame.extend(packet);
    frame
}

/// An IPv4 packet of `len` bytes that carries a number. Its protocol is one for experiments (RFC 3692), so
/// nothing merges it.
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet[8] = 64;
    packet[9] = 253;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let checksum = ones_complement(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    for (i, byte) in packet[24..].iter_mut().enumerate() {
        *byte = (number as usize + i) as u8;
    }
    packet
}

fn ones_complement(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
