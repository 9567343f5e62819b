//! Starting, changing and ending a data plane.

mod common;

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use common::{Pair, SETUPS, config, listen, packet, run};
use io_runtime::{Arrangement, DeviceUpdate, Error, RuntimeConfig, Stopped, UpdateError};
use tun_device::{MemoryTun, Offloads, TunDevice};

#[test]
fn shutdown_ends_every_thread_and_frees_the_port_and_the_device() {
    for setup in SETUPS {
        run(async {
            let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
            let handle = io_runtime::spawn(device, config(setup)).unwrap();
            let port = handle.status().await.unwrap().listen_port;
            handle.shutdown();
            handle.shutdown();
            handle.finished().await.unwrap();
            handle.clone().finished().await.unwrap();
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
            let gone = host.recv(&mut [0; 100]).unwrap_err();
            assert_eq!(gone.kind(), std::io::ErrorKind::UnexpectedEof, "all threads have let go of it");
            assert_eq!(handle.status().await.unwrap_err(), Stopped);
            assert!(matches!(handle.update(listen(0)).await, Err(UpdateError::Stopped(Stopped))));
        });
    }
}

#[test]
fn a_deleted_device_ends_the_data_plane() {
    for setup in SETUPS {
        run(async {
            let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
            let handle = io_runtime::spawn(device, config(setup)).unwrap();
            drop(host);
            assert!(matches!(handle.finished().await, Err(Error::DeviceGone)));
        });
    }
}

#[test]
fn dropping_the_last_handle_ends_the_data_plane() {
    for setup in SETUPS {
        run(async {
            let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
            drop(io_runtime::spawn(device, config(setup)).unwrap());
            let ended = tokio::task::spawn_blocking(move || {
                let flags = nix::poll::PollFlags::POLLIN;
                let limit = nix::poll::PollTimeout::try_from(common::LIMIT).unwrap();
                nix::poll::poll(&mut [nix::poll::PollFd::new(host.as_fd(), flags)], limit).unwrap()
            });
            assert_eq!(ended.await.unwrap(), 1, "the device's side hangs up");
        });
    }
}

#[test]
fn a_busy_port_at_the_start_is_an_error_that_names_it() {
    let busy = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = busy.local_addr().unwrap().port();
    let (device, _host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
    let started = io_runtime::spawn(device, RuntimeConfig { listen_port: port, ..RuntimeConfig::default() });
    assert!(matches!(started, Err(Error::AddrInUse(p)) if p == port));
}

#[test]
fn changing_to_a_busy_port_changes_nothing() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        pair.ping(1);
        let busy = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let taken = busy.local_addr().unwrap().port();
        let before = pair.b.status().await;

        let mut update = listen(taken);
        update.tunnel.replace_peers = true;
        let refused = pair.b.handle.update(update).await;
        assert!(matches!(refused, Err(UpdateError::AddrInUse(port)) if port == taken));

        let after = pair.b.status().await;
        assert_eq!((after.listen_port, after.peers.len()), (before.listen_port, 1));
        pair.ping(2);
        pair.finish().await;
    });
}

#[test]
fn the_port_changes_under_a_live_session() {
    for setup in SETUPS {
        run(async {
            let pair = Pair::start(config(setup), Offloads::ALL).await;
            pair.ping(1);
            let before = pair.a.status().await;
            pair.a.handle.update(listen(0)).await.unwrap();
            let after = pair.a.status().await;
            assert_ne!(after.listen_port, before.listen_port);
            assert!(before.peers[0].source.is_some());
            assert_eq!(after.peers[0].source, None, "until b answers");
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, before.listen_port)).expect("the old port is free");

            pair.ping(2);
            let b = pair.b.status().await;
            assert_eq!(b.peers[0].endpoint.unwrap().port(), after.listen_port, "b follows");
            assert_eq!(after.peers[0].last_handshake, before.peers[0].last_handshake, "no new handshake");
            pair.finish().await;
        });
    }
}

#[test]
fn asking_for_the_port_it_has_keeps_the_sockets() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        let port = pair.a.status().await.listen_port;
        pair.a.handle.update(listen(port)).await.unwrap();
        assert_eq!(pair.a.status().await.listen_port, port);
        pair.ping(1);
        pair.finish().await;
    });
}

/// SO_MARK needs CAP_NET_ADMIN. With it the live sockets are marked; without it the update fails whole.
#[test]
fn the_mark_is_set_on_the_live_sockets_or_nothing_changes() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        pair.ping(1);
        let probe = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        let may_mark = probe.set_mark(1).is_ok();

        let before = pair.a.status().await;
        let mut update = DeviceUpdate { fwmark: Some(0x1234), ..DeviceUpdate::default() };
        update.tunnel.replace_peers = !may_mark;
        let result = pair.a.handle.update(update).await;
        let after = pair.a.status().await;
        assert_eq!(after.listen_port, before.listen_port, "never rebinds");
        assert_eq!(after.peers.len(), 1);
        if may_mark {
            result.unwrap();
            assert_eq!(after.fwmark, 0x1234);
            assert!(before.peers[0].source.is_some());
            assert_eq!(after.peers[0].source, None, "the mark may choose another route");
        } else {
            assert!(matches!(result, Err(UpdateError::Io(_))));
            assert_eq!(after.fwmark, 0);
        }
        pair.ping(2);
        pair.finish().await;
    });
}

#[test]
fn the_mtu_is_followed() {
    run(async {
        let gro_off = RuntimeConfig { udp_gro: false, ..config(Arrangement::Inline) };
        let pair = Pair::start(gro_off, Offloads::ALL).await;
        for side in [&pair.a, &pair.b] {
            side.handle.set_mtu(20_000).await.unwrap();
            assert_eq!(side.status().await.mtu, 20_000);
        }
        let long = packet(pair.a.inner, pair.b.inner, 7, 20_000);
        pair.a.wire.send(&long);
        assert_eq!(pair.b.wire.recv(), [long]);
        pair.finish().await;
    });
}

#[test]
fn an_idle_data_plane_sleeps() {
    for setup in SETUPS {
        run(async {
            let pair = Pair::start(config(setup), Offloads::ALL).await;
            pair.ping(1);
            // What is still on its way after the ping may wake it; then nothing does but our questions.
            let mut before = pair.a.status().await.io.traffic;
            let mut quiet = false;
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let now = pair.a.status().await.io.traffic;
                quiet = now.wakeups - before.wakeups <= 1 && now.ticks - before.ticks <= 2;
                if quiet {
                    break;
                }
                before = now;
            }
            assert!(quiet, "an idle loop keeps turning");
            pair.finish().await;
        });
    }
}

/// A device with a bug.
struct Panicking(MemoryTun);

impl TunDevice for Panicking {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn offloads(&self) -> Offloads {
        self.0.offloads()
    }

    fn recv(&self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.recv(buf)?;
        panic!("a bug in recv")
    }

    fn send(&self, frame: &[u8]) -> std::io::Result<()> {
        self.0.send(frame)
    }
}

impl AsFd for Panicking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn a_panic_ends_the_data_plane_and_is_told() {
    for setup in SETUPS {
        run(async {
            let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
            let handle = io_runtime::spawn(Panicking(device), config(setup)).unwrap();
            host.send_packet(&[0x45; 20]).unwrap();
            let ended = handle.finished().await;
            assert!(
                matches!(&ended, Err(Error::Panicked(message)) if message.contains("a bug in recv")),
                "{ended:?}"
            );
        });
    }
}
