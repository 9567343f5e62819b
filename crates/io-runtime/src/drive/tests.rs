//! What a full socket does to the rest of the loop, and a device that goes away.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use encrypt::{
    INITIATION_LEN, Identity as _, PeerIndex, PrivateKey, PublicKey, RESPONSE_LEN, Session as _,
    SessionConfig, native::NativeIdentity,
};
use tokio::time::timeout;
use tun_device::{MAX_FRAME_LEN, MemoryHost, MemoryTun, Offloads, TunDevice, VNET_HEADER_LEN};
use tunnel_core::{AllowedIpUpdate, PeerUpdate, TunnelUpdate};

use super::*;
use crate::{Arrangement, Crew, Handle, runtime::start};

const LIMIT: Duration = Duration::from_secs(30);
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PACKET: usize = 1_400;
/// With none, one and several helpers.
const HELPERS: [usize; 3] = [0, 1, 3];
/// A helper that finishes a batch for this port panics.
pub(super) const BAD_PORT: u16 = 9;

struct End {
    handle: Handle,
    host: MemoryHost,
    full: Arc<std::sync::atomic::AtomicBool>,
    port: u16,
    key: PrivateKey,
}

impl End {
    fn start(arrangement: Arrangement, helpers: usize, byte: u8) -> Self {
        let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
        let crew = Crew::Helpers(helpers);
        // More frames a turn than fit into one batch, so that there is more than one job at a time.
        let config = RuntimeConfig { arrangement, crew, batch: 200, ..RuntimeConfig::default() };
        let sockets = sockets(&config);
        let (full, port) = (sockets.v4.full.clone(), sockets.port);
        let handle = start::<NativeIdentity, _>(device, sockets, config, None).unwrap();
        Self { handle, host, full, port, key: PrivateKey::from_bytes([byte; 32]) }
    }

    fn public_key(&self) -> PublicKey {
        NativeIdentity::new(&self.key, clock::now()).public_key()
    }

    async fn know(&self, other: &Self, address: Ipv4Addr) {
        let mut peer = PeerUpdate::new(other.public_key());
        peer.endpoint = Some((Ipv4Addr::LOCALHOST, other.port).into());
        peer.allowed_ips = vec![AllowedIpUpdate::Add(IpAddr::V4(address).into())];
        let private_key = Some(Some(self.key.clone()));
        let tunnel = TunnelUpdate { private_key, replace_peers: true, peers: vec![peer] };
        self.handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() }).await.unwrap();
    }

    /// The next packet's number.
    async fn recv(&self) -> u32 {
        let mut frame = vec![0; MAX_FRAME_LEN];
        loop {
            match self.host.recv(&mut frame) {
                Ok(len) => {
                    assert_eq!(len, VNET_HEADER_LEN + PACKET);
                    return u32::from_be_bytes(frame[30..34].try_into().unwrap());
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            tokio::task::yield_now().await;
        }
    }

    async fn finish(self) {
        self.handle.shutdown();
        self.handle.finished().await.unwrap();
    }
}

fn sockets(config: &RuntimeConfig) -> Sockets {
    Sockets::bind(0, 0, config.socket_options()).unwrap_or_else(|error| panic!("{error:?}"))
}

fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u32) -> Vec<u8> {
    let mut packet = vec![0; PACKET];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
    packet[9] = 253; // for experiments (RFC 3692)
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

#[test]
fn a_full_socket_stops_the_tun_for_moments_only_and_nothing_that_arrives() {
    for arrangement in [Arrangement::Inline, Arrangement::TunThreads] {
        for helpers in HELPERS {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                timeout(LIMIT, fill_the_socket(arrangement, helpers)).await.expect("the test hung");
            });
        }
    }
}

/// More than a device, the threads and the queue hold together, packets.
const MANY: u32 = 20_000;

/// Fills a's socket and goes on sending: a must go on reading.
async fn fill(a: &End) {
    a.full.store(true, Relaxed);
    let mut sent = 0;
    while sent < MANY {
        match a.host.send_packet(&packet(A, B, 0)) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                a.handle.status().await.unwrap();
            }
        }
    }
}

async fn fill_the_socket(arrangement: Arrangement, helpers: usize) {
    let (a, b) = (End::start(arrangement, helpers, 1), End::start(arrangement, helpers, 2));
    a.know(&b, B).await;
    b.know(&a, A).await;
    a.host.send_packet(&packet(A, B, 0)).unwrap();
    assert_eq!(b.recv().await, 0);

    fill(&a).await;
    b.host.send_packet(&packet(B, A, 77)).unwrap();
    assert_eq!(a.recv().await, 77, "what arrives still does");
    let status = a.handle.status().await.unwrap();
    assert!(status.io.traffic.udp_send_blocked > 0, "it waits a moment");
    assert!(status.io.drops.udp_send_full > 0, "then gives up, counted");
    assert_eq!(status.io.drops.tun_overrun, 0, "no more is read than there is room for");

    a.full.store(false, Relaxed);
    a.host.send_packet(&packet(A, B, 1)).unwrap();
    while b.recv().await != 1 {}
    a.finish().await;
    b.finish().await;
}

#[test]
fn what_a_failed_receive_left_behind_is_received_though_nothing_else_happens() {
    let config = RuntimeConfig::default();
    let sockets = sockets(&config);
    let (deaf, port) = (sockets.v4.deaf.clone(), sockets.port);
    let (device, _host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
    let handle = start::<NativeIdentity, _>(device, sockets, config, None).unwrap();
    let keys = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
    let now = clock::now();
    let [ours, theirs] = keys.each_ref().map(|key| NativeIdentity::new(key, now).public_key());
    let tunnel = TunnelUpdate {
        private_key: Some(Some(keys[0].clone())),
        peers: vec![PeerUpdate::new(theirs)],
        ..TunnelUpdate::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() })).unwrap();

    let index = PeerIndex::new(1).unwrap();
    let peer = SessionConfig { peer: ours, preshared_key: None, index };
    let mut initiation = [0; INITIATION_LEN];
    let mut identity = NativeIdentity::new(&keys[1], now);
    identity.session(peer, now).initiate(&mut identity, &mut initiation, now).unwrap();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    deaf.store(true, Relaxed);
    socket.send_to(&initiation, (Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(socket.recv(&mut [0; 200]).expect("an answer"), RESPONSE_LEN);
    let status = runtime.block_on(handle.status()).unwrap();
    assert_eq!(status.io.traffic.udp_recv_errors, 1);
}

#[test]
fn a_deleted_device_is_noticed_though_the_socket_is_full() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LIMIT, delete_while_full()).await.expect("the test hung") });
}

async fn delete_while_full() {
    let (a, b) = (End::start(Arrangement::Inline, 0, 1), End::start(Arrangement::Inline, 0, 2));
    a.know(&b, B).await;
    b.know(&a, A).await;
    a.host.send_packet(&packet(A, B, 0)).unwrap();
    assert_eq!(b.recv().await, 0);
    fill(&a).await;
    let End { handle, host, .. } = a;
    drop(host);
    assert!(matches!(handle.finished().await, Err(Error::DeviceGone)));
    b.finish().await;
}

#[test]
fn a_helper_that_panics_ends_the_data_plane_and_is_told() {
    for helpers in [1, 3] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(LIMIT, panic(helpers)).await.expect("the test hung") });
    }
}

async fn panic(helpers: usize) {
    let (a, mut b) =
        (End::start(Arrangement::Inline, helpers, 1), End::start(Arrangement::Inline, helpers, 2));
    a.know(&b, B).await;
    b.know(&a, A).await;
    a.host.send_packet(&packet(A, B, 0)).unwrap();
    assert_eq!(b.recv().await, 0);
    b.port = BAD_PORT;
    let mut peer = PeerUpdate::new(b.public_key());
    peer.endpoint = Some((Ipv4Addr::LOCALHOST, b.port).into());
    let tunnel = TunnelUpdate { peers: vec![peer], ..TunnelUpdate::default() };
    a.handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() }).await.unwrap();
    // A helper gets one of them sooner or later.
    let ended = loop {
        while a.host.send_packet(&packet(A, B, 0)).is_ok() {} // until the device is full, or gone
        if let Ok(ended) = timeout(Duration::ZERO, a.handle.finished()).await {
            break ended;
        }
    };
    assert!(matches!(&ended, Err(Error::Panicked(what)) if what.contains("a bad batch")), "{ended:?}");
    b.finish().await;
}

/// A TUN device as it is for the moment in which its interface is being deleted: poll tells of a failure, reads only
/// of nothing to read.
struct Dying(UnixStream);

impl TunDevice for Dying {
    fn name(&self) -> &str {
        "dying"
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    fn recv(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn send(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Dying {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn a_deleted_device_is_noticed_though_a_read_says_only_that_it_is_empty() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for arrangement in [Arrangement::Inline, Arrangement::TunThreads] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let config = RuntimeConfig { arrangement, ..RuntimeConfig::default() };
        let handle = start::<NativeIdentity, _>(Dying(ours), sockets(&config), config, None).unwrap();
        runtime.block_on(async {
            handle.status().await.unwrap();
            drop(theirs);
            let ended = timeout(LIMIT, handle.finished()).await.expect("it goes on without its device");
            assert!(matches!(ended, Err(Error::DeviceGone)), "{ended:?}");
        });
    }
}
