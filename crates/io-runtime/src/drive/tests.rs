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

use encrypt::{Identity as _, PrivateKey, PublicKey, deterministic::InsecureIdentity};
use tokio::time::timeout;
use tun_device::{MAX_FRAME_LEN, MemoryHost, MemoryTun, Offloads, TunDevice, VNET_HEADER_LEN};
use tunnel_core::{AllowedIpUpdate, PeerUpdate, TunnelUpdate};

use super::*;
use crate::{Arrangement, Handle, runtime::start};

const LIMIT: Duration = Duration::from_secs(30);
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PACKET: usize = 1_400;

struct End {
    handle: Handle,
    host: MemoryHost,
    full: Arc<std::sync::atomic::AtomicBool>,
    port: u16,
    key: PrivateKey,
}

impl End {
    fn start(arrangement: Arrangement, byte: u8) -> Self {
        let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
        let sockets = Sockets::bind(0, 0, true).unwrap_or_else(|error| panic!("{error:?}"));
        let (full, port) = (sockets.v4.full.clone(), sockets.port);
        let config = RuntimeConfig { arrangement, ..RuntimeConfig::default() };
        let handle = start::<InsecureIdentity, _>(device, sockets, config).unwrap();
        Self { handle, host, full, port, key: PrivateKey::from_bytes([byte; 32]) }
    }

    fn public_key(&self) -> PublicKey {
        InsecureIdentity::new(&self.key, clock::now()).public_key()
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
fn a_full_socket_holds_the_tun_back_loses_nothing_and_stops_nothing_that_arrives() {
    for arrangement in [Arrangement::Inline, Arrangement::TunThreads] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(LIMIT, hold_back(arrangement)).await.expect("the test hung") });
    }
}

/// Fills a's socket, and then its device, until the host can write no more: a has stopped reading. Gives how many
/// packets that took.
async fn fill(a: &End) -> u32 {
    a.full.store(true, Relaxed);
    let mut sent = 0;
    let mut refused = 0;
    while refused < 50 {
        match a.host.send_packet(&packet(A, B, sent + 1)) {
            Ok(()) => (sent, refused) = (sent + 1, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
                // a may only be slow; its answer shows that it has taken another turn.
                a.handle.status().await.unwrap();
            }
        }
    }
    sent
}

async fn hold_back(arrangement: Arrangement) {
    let (a, b) = (End::start(arrangement, 1), End::start(arrangement, 2));
    a.know(&b, B).await;
    b.know(&a, A).await;
    a.host.send_packet(&packet(A, B, 0)).unwrap();
    assert_eq!(b.recv().await, 0);

    let sent = fill(&a).await;
    let status = a.handle.status().await.unwrap();
    assert!(status.io.traffic.udp_send_blocked > 0);
    let taken = status.io.traffic.tun_packets_read as usize * PACKET;
    assert!(taken < 4 * BACKLOG_BYTES, "{taken} bytes were taken from the TUN");

    b.host.send_packet(&packet(B, A, 77)).unwrap();
    assert_eq!(a.recv().await, 77, "what arrives still does");

    a.full.store(false, Relaxed);
    for number in 1..=sent {
        assert_eq!(b.recv().await, number);
    }
    let status = a.handle.status().await.unwrap();
    assert_eq!(status.io.drops.total(), 0);
    a.finish().await;
    b.finish().await;
}

#[test]
fn a_deleted_device_is_noticed_though_a_full_socket_holds_the_tun_back() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LIMIT, delete_while_held_back()).await.expect("the test hung") });
}

async fn delete_while_held_back() {
    let (a, b) = (End::start(Arrangement::Inline, 1), End::start(Arrangement::Inline, 2));
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
        let sockets = Sockets::bind(0, 0, true).unwrap_or_else(|error| panic!("{error:?}"));
        let config = RuntimeConfig { arrangement, ..RuntimeConfig::default() };
        let handle = start::<InsecureIdentity, _>(Dying(ours), sockets, config).unwrap();
        runtime.block_on(async {
            handle.status().await.unwrap();
            drop(theirs);
            let ended = timeout(LIMIT, handle.finished()).await.expect("it goes on without its device");
            assert!(matches!(ended, Err(Error::DeviceGone)), "{ended:?}");
        });
    }
}
