//! Two data planes on the loopback, each with a TUN device that is a pair of datagram sockets.
#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixDatagram,
    },
    sync::Arc,
    time::Duration,
};

use encrypt::PrivateKey;
use io_runtime::{DeviceStatus, DeviceUpdate, Handle, RuntimeConfig};
use tun_device::{MAX_FRAME_LEN, Offloads, Segments, TunDevice, VNET_HEADER_LEN};
use tunnel_core::{AllowedIpUpdate, PeerUpdate, TunnelUpdate};

/// Nothing here takes that long; a test that does has hung.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Runs a test's future, and fails it if it hangs.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("the test hung") })
}

/// A TUN device whose other side is a socket in the test's hands. It blocks and hangs up as a device does.
pub struct PairTun {
    socket: UnixDatagram,
    offloads: Offloads,
}

/// The other side of a [`PairTun`].
#[derive(Clone)]
pub struct Wire(Arc<UnixDatagram>);

impl PairTun {
    pub fn new(offloads: Offloads) -> (Self, Wire) {
        let (socket, wire) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        wire.set_read_timeout(Some(LIMIT)).unwrap();
        wire.set_write_timeout(Some(LIMIT)).unwrap();
        (Self { socket, offloads }, Wire(Arc::new(wire)))
    }
}

impl TunDevice for PairTun {
    fn name(&self) -> &str {
        "pair"
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buf).map_err(gone)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop).map_err(gone)
    }
}

fn gone(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionRefused => {
            io::ErrorKind::UnexpectedEof.into()
        }
        _ => error,
    }
}

impl AsFd for PairTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Wire {
    /// Gives the device a packet.
    pub fn send(&self, packet: &[u8]) {
        self.send_frame(&[&[0; VNET_HEADER_LEN], packet].concat());
    }

    /// Gives the device a frame, header and all.
    pub fn send_frame(&self, frame: &[u8]) {
        self.0.send(frame).expect("the device takes a frame");
    }

    /// The packets of the next frame the device wrote.
    pub fn recv(&self) -> Vec<Vec<u8>> {
        let mut frame = vec![0; MAX_FRAME_LEN];
        let len = self.0.recv(&mut frame).expect("the device writes a frame");
        let mut segments = Segments::new(&mut frame[..len]).expect("a frame that can be taken apart");
        let mut packets = Vec::new();
        while let Some(packet) = segments.next() {
            packets.push(packet.to_vec());
        }
        packets
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
    pub async fn start_over(config: RuntimeConfig, offloads: Offloads, outer: std::net::IpAddr) -> Self {
        let a = Side::start(config.clone(), offloads, Ipv4Addr::new(10, 0, 0, 1));
        let b = Side::start(config, offloads, Ipv4Addr::new(10, 0, 0, 2));
        let port = b.status().await.listen_port;
        a.know(&b, Some((outer, port).into())).await;
        b.know(&a, None).await; // learns it from the handshake
        Self { a, b }
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
    pub fn start(config: RuntimeConfig, offloads: Offloads, inner: Ipv4Addr) -> Self {
        let (device, wire) = PairTun::new(offloads);
        let handle = io_runtime::spawn(device, config).unwrap();
        Self { handle, wire, key: PrivateKey::generate(), inner }
    }

    pub async fn status(&self) -> DeviceStatus {
        self.handle.status().await.unwrap()
    }

    /// Makes `other` this side's only peer.
    pub async fn know(&self, other: &Self, endpoint: Option<SocketAddr>) {
        let mut peer = PeerUpdate::new(other.key.public_key());
        peer.endpoint = endpoint;
        peer.replace_allowed_ips = true;
        peer.allowed_ips = vec![AllowedIpUpdate::Add(ipnet::IpNet::from(std::net::IpAddr::V4(other.inner)))];
        let tunnel = TunnelUpdate {
            private_key: Some(Some(self.key.clone())),
            replace_peers: true,
            peers: vec![peer],
        };
        self.handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() }).await.unwrap();
    }
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
