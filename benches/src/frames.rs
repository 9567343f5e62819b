//! TCP packets and super-packets as the TUN gives them, from 10.1.0.1 to 10.2.0.1.

use tun_device::{GsoType, VNET_HEADER_LEN, VnetHeader};

/// A full packet at the default inner MTU, bytes.
pub const FULL_PACKET: usize = 1420;

/// IPv4 and TCP headers without options.
const HEADERS: usize = 20 + 20;

/// TCP payload of a full packet.
const MSS: usize = FULL_PACKET - HEADERS;

/// Full packets in the longest super-packet.
pub const FULL_TRAIN: usize = (65_535 - HEADERS) / MSS;

/// One packet with its virtio-net header in front, of `len` bytes without that: what a TUN without
/// offloads gives.
pub fn tcp_packet(len: usize) -> Vec<u8> {
    frame(len, VnetHeader { needs_checksum: true, csum_start: 20, csum_offset: 16, ..VnetHeader::PLAIN })
}

/// A super-packet that splits into `segments` full packets, virtio-net header in front.
pub fn tcp_frame(segments: usize) -> Vec<u8> {
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::TcpV4,
        hdr_len: HEADERS as u16,
        gso_size: MSS as u16,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::PLAIN
    };
    frame(HEADERS + segments * MSS, header)
}

/// The same frame in the other direction. Swapping the addresses changes no checksum.
pub fn turned_around(mut frame: Vec<u8>) -> Vec<u8> {
    let (source, destination) = frame[VNET_HEADER_LEN + 12..VNET_HEADER_LEN + 20].split_at_mut(4);
    source.swap_with_slice(destination);
    frame
}

fn frame(len: usize, virtio: VnetHeader) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER_LEN + len];
    let (header, packet) = frame.split_first_chunk_mut().expect("longer than the header");
    virtio.write_to(header);
    let payload = packet[HEADERS..].iter_mut();
    payload.enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8);

    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).expect("an IPv4 packet").to_be_bytes());
    packet[6] = 0x40; // don't fragment
    packet[8] = 64;
    packet[9] = TCP;
    packet[12..16].copy_from_slice(&[10, 1, 0, 1]);
    packet[16..20].copy_from_slice(&[10, 2, 0, 1]);
    let checksum = !fold(sum(&packet[..20]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());

    packet[20..24].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]); // ports 40000 and 5201
    packet[32] = 5 << 4;
    packet[33] = ACK;
    packet[34..36].copy_from_slice(&[0xff, 0xff]); // window
    // The pseudo-header's sum alone: NEEDS_CSUM asks the reader to finish it.
    let pseudo = fold(sum(&packet[12..20]) + u32::from(TCP) + (len - 20) as u32);
    packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

const TCP: u8 = 6;
const ACK: u8 = 0x10;

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

/// The Internet checksum's last step (RFC 1071), not complemented.
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
