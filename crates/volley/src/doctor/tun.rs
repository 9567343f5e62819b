//! The TUN's offloads, tried on an interface that lives for a moment, in a network of its own if possible.

use std::{io, thread};

use netlink_packet_route::link::LinkMessage;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use rtnetlink::LinkUnspec;
use tun_device::{GsoType, LinuxTun, Offloads, TunDevice, TunOptions, VNET_HEADER_LEN, VnetHeader};

use super::Check;

const NAME: &str = "TUN offloads";

/// The kernel chooses a number for which there is no interface.
const THROW_AWAY: &str = "volley%d";

/// What a TUN interface was granted, and what it does.
#[derive(Debug)]
pub(super) struct Probed {
    granted: Offloads,
    /// How super-packets written to it fared; `None` where that could not be tried unseen.
    taken: Option<Taken>,
}

/// Which super-packets the kernel takes from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    tcp: bool,
    udp: bool,
}

/// Makes an interface, tries it, and lets it go.
pub(super) fn probe() -> Result<Probed, tun_device::Error> {
    let tried = thread::Builder::new().name("volley-doctor".into()).spawn(|| {
        // For this thread alone. Forbidden with CAP_NET_ADMIN alone; then the interface is made among the
        // others, but stays down.
        let is_alone = unshare(CloneFlags::CLONE_NEWNET).is_ok();
        let tun = LinuxTun::create(THROW_AWAY, &TunOptions::default())?;
        let taken = if is_alone { try_writing(&tun).ok() } else { None };
        Ok(Probed { granted: tun.offloads(), taken })
    });
    let failed = |source| tun_device::Error::System { call: "a thread", name: THROW_AWAY.into(), source };
    let tried = tried.map_err(failed)?;
    tried.join().unwrap_or_else(|_| Err(failed(io::Error::other("it panicked"))))
}

/// Only in a network of our own: what is written here arrives there.
fn try_writing(tun: &LinuxTun) -> io::Result<Taken> {
    change_link(LinkUnspec::new_with_index(if_nametoindex(tun.name())?).up().build())?;
    let takes = |gso_type| tun.send(&super_packet(gso_type)).is_ok();
    Ok(Taken { tcp: takes(GsoType::TcpV4), udp: takes(GsoType::UdpL4) })
}

/// Whether interfaces may be made in this network, as opposed to one made for the question: it may belong to another
/// user namespace than the one that gave us our rights. Asks to change nothing about the loopback.
///
/// # Errors
/// EPERM if they may not, or why nobody knows.
pub(super) fn may_change_links() -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    change_link(LinkUnspec::new_with_index(LOOPBACK).build())
}

fn change_link(change: LinkMessage) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let result = handle.link().set(change).execute().await.map_err(|error| match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        });
        connection.abort();
        result
    })
}

/// Three segments to nobody: from 192.0.2.1 to 192.0.2.2, which are for documentation (RFC 5737).
fn super_packet(gso_type: GsoType) -> Vec<u8> {
    const IP: usize = 20;
    const SEGMENT: u16 = 1_000;
    let (protocol, transport, csum_offset) = match gso_type {
        GsoType::UdpL4 => (17, 8, 6),
        _ => (6, 20, 16),
    };
    let total = IP + transport + 3 * usize::from(SEGMENT);
    let mut frame = vec![0; VNET_HEADER_LEN + total];
    let (header, packet) = frame.split_at_mut(VNET_HEADER_LEN);
    if let Some(header) = header.first_chunk_mut() {
        let hdr_len = (IP + transport) as u16;
        VnetHeader {
            needs_checksum: true,
            gso_type,
            ecn: false,
            hdr_len,
            gso_size: SEGMENT,
            csum_start: IP as u16,
            csum_offset,
        }
        .write_to(header);
    }
    packet[0] = 0x45; // version 4, 20 bytes of header
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    if protocol == 6 {
        packet[IP + 12] = 5 << 4; // 20 bytes of header
        packet[IP + 13] = 0x10; // ACK
    } else {
        packet[IP + 4..IP + 6].copy_from_slice(&((total - IP) as u16).to_be_bytes());
    }
    frame
}

pub(super) fn judge(probed: Result<Probed, tun_device::Error>) -> Check {
    let Probed { granted, taken } = match probed {
        Ok(probed) => probed,
        Err(error) => {
            let fix = error.fix().unwrap_or("see what `TUN device` and `privileges` say");
            return Check::warn(NAME, format!("not checked: {error}"), fix);
        }
    };
    let refused = match taken {
        Some(Taken { tcp: false, .. }) => Some("TCP"),
        Some(Taken { udp: false, .. }) if granted.uso => Some("UDP"),
        _ => None,
    };
    if let Some(kind) = refused {
        return Check::warn(
            NAME,
            format!(
                "the kernel promises to take {kind} super-packets, and refuses them: Volley writes packets singly"
            ),
            "update the kernel; some 6.6 releases do so",
        );
    }
    let writing = if taken.is_some() { "" } else { " (writing is not checked: it needs CAP_SYS_ADMIN)" };
    match granted {
        Offloads { tso: true, uso: true, .. } => Check::pass(NAME, format!("checksum, TSO, USO{writing}")),
        Offloads { tso: true, .. } => Check::warn(
            NAME,
            format!("checksum and TSO, but no USO{writing}: UDP crosses the interface packet by packet"),
            "run Linux 6.2 or later",
        ),
        _ => Check::warn(
            NAME,
            "none: every packet crosses the interface alone, with its checksum",
            "run a kernel whose TUN driver has TUNSETOFFLOAD with TSO, such as any recent Linux",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome::{self, Pass, Warn};

    const BOTH: Taken = Taken { tcp: true, udp: true };

    fn outcome(granted: Offloads, taken: Option<Taken>) -> Outcome {
        judge(Ok(Probed { granted, taken })).outcome
    }

    #[test]
    fn what_is_granted_and_does_not_work_is_a_warning() {
        let no_uso = Offloads { uso: false, ..Offloads::ALL };
        let tcp_only = Taken { udp: false, ..BOTH };
        assert_eq!(outcome(Offloads::ALL, Some(BOTH)), Pass);
        assert_eq!(outcome(Offloads::ALL, None), Pass);
        assert_eq!(outcome(Offloads::ALL, Some(tcp_only)), Warn);
        assert_eq!(outcome(Offloads::ALL, Some(Taken { tcp: false, ..BOTH })), Warn);
        assert_eq!(outcome(Offloads::NONE, None), Warn);
        let check = judge(Ok(Probed { granted: no_uso, taken: Some(tcp_only) }));
        assert!(check.fix.unwrap().contains("6.2"), "what is not granted is not missed when written");
    }

    #[test]
    fn without_privilege_it_says_that_nothing_was_checked() {
        let error = tun_device::Error::NoPrivilege { action: "create", name: THROW_AWAY.into() };
        let check = judge(Err(error));
        assert_eq!(check.outcome, Warn);
        assert!(check.found.starts_with("not checked: "));
        assert!(check.fix.unwrap().contains("CAP_NET_ADMIN"));
    }

    #[test]
    fn the_super_packets_are_what_they_say() {
        for (gso_type, headers) in [(GsoType::TcpV4, 40), (GsoType::UdpL4, 28)] {
            let mut frame = super_packet(gso_type);
            let mut segments = tun_device::Segments::new(&mut frame).expect("well-formed");
            for _ in 0..3 {
                assert_eq!(segments.next().expect("a segment").len(), headers + 1_000);
            }
            assert!(segments.next().is_none());
        }
    }
}
