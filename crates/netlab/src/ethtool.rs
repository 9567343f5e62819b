//! What a network device takes off the kernel's hands: features by the names that `ethtool -k` shows, switched
//! over generic netlink.

use std::{io, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::namespace::Host;

/// linux/netlink.h.
mod nl {
    pub(super) const REQUEST_AND_ACK: u16 = 1 | 4;
    pub(super) const ERROR: u16 = 2;
    pub(super) const HEADER_LEN: usize = 16;
    pub(super) const NESTED: u16 = 1 << 15;
}

/// linux/genetlink.h.
mod ctrl {
    pub(super) const ID: u16 = 16;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const HEADER_LEN: usize = 4;
}

/// linux/ethtool_netlink.h.
mod ethnl {
    pub(super) const FEATURES_SET: u8 = 12;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const FEATURES_WANTED: u16 = 3;
    pub(super) const HEADER_DEV_NAME: u16 = 2;
    pub(super) const HEADER_FLAGS: u16 = 3;
    pub(super) const FLAG_OMIT_REPLY: u32 = 2;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BITS_BIT: u16 = 1;
    pub(super) const BIT_NAME: u16 = 2;
    pub(super) const BIT_VALUE: u16 = 3;
}

impl Host {
    /// Switches a feature of an interface (`tx-udp-segmentation`), as `ethtool -K` does.
    ///
    /// # Errors
    /// When there is no such interface or feature, or the kernel refuses. A feature that the device has fixed is
    /// left alone without an error, as with `ethtool`.
    pub fn set_feature(&self, interface: &str, feature: &str, on: bool) -> Result<()> {
        let (name, wanted) = (interface.to_owned(), feature.to_owned());
        self.run(move || set_feature(&name, &wanted, on))
            .with_context(|| format!("{feature} of {interface} in {}", self.name()))
    }
}

fn set_feature(interface: &str, feature: &str, on: bool) -> Result<()> {
    let request = Message::new(ctrl::ID, ctrl::GET_FAMILY).text(ctrl::FAMILY_NAME, "ethtool");
    let answer = request.ask()?.context("no answer about the family")?;
    let family = attribute(&answer, ctrl::FAMILY_ID).context("no family identifier")?;
    let family = u16::from_ne_bytes(family.try_into().context("a short family identifier")?);

    let header = Attributes::default()
        .text(ethnl::HEADER_DEV_NAME, interface)
        .bytes(ethnl::HEADER_FLAGS, &ethnl::FLAG_OMIT_REPLY.to_ne_bytes());
    let bit = Attributes::default().text(ethnl::BIT_NAME, feature);
    let bit = if on { bit.bytes(ethnl::BIT_VALUE, &[]) } else { bit };
    let bits = Attributes::default().nested(ethnl::BITS_BIT, bit);
    let wanted = Attributes::default().nested(ethnl::BITSET_BITS, bits);
    let message = Message::new(family, ethnl::FEATURES_SET)
        .nested(ethnl::FEATURES_HEADER, header)
        .nested(ethnl::FEATURES_WANTED, wanted);
    message.ask().map(|_no_payload| ())
}

/// Netlink attributes one after the other, each padded to 4 bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).expect("names are short");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let terminated: Vec<u8> = value.bytes().chain([0]).collect();
        self.bytes(kind, &terminated)
    }

    fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | nl::NESTED, &inner.0)
    }
}

/// One generic netlink request.
struct Message {
    family: u16,
    command: u8,
    attributes: Attributes,
}

impl Message {
    fn new(family: u16, command: u8) -> Self {
        Self { family, command, attributes: Attributes::default() }
    }

    fn text(self, kind: u16, value: &str) -> Self {
        Self { attributes: self.attributes.text(kind, value), ..self }
    }

    fn nested(self, kind: u16, inner: Attributes) -> Self {
        Self { attributes: self.attributes.nested(kind, inner), ..self }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let len = nl::HEADER_LEN + ctrl::HEADER_LEN + self.attributes.0.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u32).to_ne_bytes());
        bytes.extend_from_slice(&self.family.to_ne_bytes());
        bytes.extend_from_slice(&nl::REQUEST_AND_ACK.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // sequence and port: one question, one socket
        bytes.extend_from_slice(&[self.command, 1, 0, 0]);
        bytes.extend_from_slice(&self.attributes.0);
        bytes
    }

    /// Sends it, and gives the attributes of the answer, if there is one before the acknowledgement.
    fn ask(&self) -> Result<Option<Vec<u8>>> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )?;
        send(socket.as_raw_fd(), &self.to_bytes(), MsgFlags::empty())?;
        let mut answer = None;
        loop {
            let mut buffer = vec![0; 32 * 1024];
            let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..len];
            while let Some((message, after)) = next_message(rest) {
                rest = after;
                let body = &message[nl::HEADER_LEN..];
                if u16_at(message, 4) == Some(nl::ERROR) {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    ensure!(code == 0, io::Error::from_raw_os_error(-code));
                    return Ok(answer);
                }
                answer = body.get(ctrl::HEADER_LEN..).map(<[u8]>::to_vec);
            }
        }
    }
}

fn next_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let message = bytes.get(..len).filter(|message| message.len() >= nl::HEADER_LEN)?;
    Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of the first attribute of that kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..len)?;
        if u16_at(attributes, 2)? & !nl::NESTED == kind {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::{
        io::IoSlice,
        net::{SocketAddr, UdpSocket},
        time::Duration,
    };

    use nix::sys::socket::{ControlMessage, SockaddrStorage, sendmsg, setsockopt, sockopt};

    use super::*;
    use crate::{Need, connect};

    fn linked() -> (Host, Host) {
        let (a, b) = (Host::new("a").unwrap(), Host::new("b").unwrap());
        connect(&a, "veth", &b, "veth", 1500).unwrap();
        for (host, address) in [(&a, "192.0.2.1"), (&b, "192.0.2.2")] {
            // Without IPv6's own chatter every packet that is counted is ours.
            host.sysctl("net/ipv6/conf/veth/disable_ipv6", "1").unwrap();
            host.add_address("veth", address.parse().unwrap(), 24).unwrap();
        }
        crate::ping(&a, "192.0.2.2".parse().unwrap(), 1, Duration::ZERO).unwrap();
        (a, b)
    }

    /// Sends a train of 10 datagrams of 100 bytes.
    fn send_train(from: &Host, to: SocketAddr) {
        from.run(move || {
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            let train = [0; 1000];
            let control = [ControlMessage::UdpGsoSegments(&100)];
            let slices = [IoSlice::new(&train)];
            let to = SockaddrStorage::from(to);
            sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to)).unwrap();
        });
    }

    /// How many packets of a train cross the link.
    fn packets_of_a_train(a: &Host, b: &Host) -> u64 {
        let received = || b.interface_counters("veth").unwrap().rx_packets;
        let before = received();
        send_train(a, "192.0.2.2:9".parse().unwrap());
        received() - before
    }

    #[test]
    fn with_receive_offload_a_cut_train_arrives_joined() {
        crate::require!(Need::Namespaces);
        let (a, b) = linked();
        a.set_feature("veth", "tx-udp-segmentation", false).unwrap();
        // veth leaves GRO out for senders that have TSO, but for UDP sockets when forwarding is on.
        b.set_feature("veth", "rx-gro", true).unwrap();
        b.set_feature("veth", "rx-udp-gro-forwarding", true).unwrap();
        let socket = b.run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        send_train(&a, socket.local_addr().unwrap());
        let len = socket.recv(&mut [0; 2000]).unwrap();
        assert_eq!(len, 1000, "the whole train in one call");
    }

    #[test]
    fn without_segmentation_offload_trains_are_cut_before_they_cross() {
        crate::require!(Need::Namespaces);
        let (a, b) = linked();
        let whole = packets_of_a_train(&a, &b);
        a.set_feature("veth", "tx-udp-segmentation", false).unwrap();
        let cut = packets_of_a_train(&a, &b);
        a.set_feature("veth", "tx-udp-segmentation", true).unwrap();
        let whole_again = packets_of_a_train(&a, &b);
        assert_eq!((whole, cut, whole_again), (1, 10, 1));
    }

    #[test]
    fn unknown_features_and_interfaces_are_errors() {
        crate::require!(Need::Namespaces);
        let host = Host::new("a").unwrap();
        assert!(host.set_feature("lo", "tx-no-such-feature", true).is_err());
        let error = format!("{:#}", host.set_feature("nowhere", "tx-udp-segmentation", true).unwrap_err());
        assert!(error.contains("No such device"), "{error}");
    }
}
