//! A device whose traffic is also written to a pcap file.

use std::{
    fmt,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use crate::{MAX_FRAME_LEN, Offloads, Segments, TunDevice};

/// A device around which every packet, in both directions, is also written to a pcap stream: what
/// Wireshark and tcpdump read. Super-packets are written as the packets that they stand for.
///
/// Tapping must not harm the traffic: if the stream fails, tapping ends and [`Tap::is_broken`] tells. The
/// head of the stream and each packet with its header are one call of [`Write::write_all`] each, so that a
/// writer can see to it that the stream ends with a whole packet.
pub struct Tap<D, W> {
    device: D,
    now: fn() -> SystemTime,
    pcap: Mutex<Pcap<W>>,
}

struct Pcap<W> {
    /// `None` after it failed.
    out: Option<W>,
    /// A frame's copy, for splitting it.
    scratch: Box<[u8]>,
    /// A packet behind its header.
    record: Vec<u8>,
}

/// The classic format with microseconds, in the writer's byte order (draft-ietf-opsawg-pcap).
const MAGIC: u32 = 0xa1b2_c3d4;
/// Version 2.4 of the format.
const VERSION: [u16; 2] = [2, 4];
/// Every packet is an IPv4 or IPv6 packet, told apart by its first nibble.
const LINKTYPE_RAW: u32 = 101;
const SNAP_LEN: u32 = 65_535;
/// Time, and the length as captured and as it was, four bytes each.
const RECORD_HEADER_LEN: usize = 16;

impl<D, W: Write> Tap<D, W> {
    /// Writes the file's header. Buffer `out`, or each packet is a system call. `now` gives the time stamps,
    /// since this crate reads no clock.
    ///
    /// # Errors
    /// `out`'s, for the header.
    pub fn new(device: D, mut out: W, now: fn() -> SystemTime) -> io::Result<Self> {
        let mut head = Vec::new();
        head.extend(MAGIC.to_ne_bytes());
        head.extend(VERSION.map(u16::to_ne_bytes).as_flattened());
        head.extend([0; 8]); // time zone and accuracy: always zero
        head.extend(SNAP_LEN.to_ne_bytes());
        head.extend(LINKTYPE_RAW.to_ne_bytes());
        out.write_all(&head)?;
        out.flush()?;
        let pcap = Pcap {
            out: Some(out),
            scratch: vec![0; MAX_FRAME_LEN].into_boxed_slice(),
            record: Vec::with_capacity(RECORD_HEADER_LEN + SNAP_LEN as usize),
        };
        Ok(Self { device, now, pcap: Mutex::new(pcap) })
    }

    /// Whether the stream has failed, and nothing is tapped any more.
    pub fn is_broken(&self) -> bool {
        self.lock().out.is_none()
    }

    /// Hands what was tapped so far on to the stream's end; dropping a `BufWriter` does so, too.
    pub fn flush(&self) {
        let mut pcap = self.lock();
        if pcap.out.as_mut().is_some_and(|out| out.flush().is_err()) {
            pcap.out = None;
        }
    }

    /// The device inside.
    pub const fn device(&self) -> &D {
        &self.device
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pcap<W>> {
        self.pcap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tap(&self, frame: &[u8]) {
        let since_epoch = (self.now)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.lock().write(frame, since_epoch);
    }
}

impl<W: Write> Pcap<W> {
    fn write(&mut self, frame: &[u8], since_epoch: Duration) {
        let Some(out) = &mut self.out else { return };
        let Some(copy) = self.scratch.get_mut(..frame.len()) else { return };
        copy.copy_from_slice(frame);
        let Ok(mut segments) = Segments::new(copy) else { return };
        while let Some(packet) = segments.next() {
            fill_record(&mut self.record, packet, since_epoch);
            if out.write_all(&self.record).is_err() {
                self.out = None;
                return;
            }
        }
    }
}

fn fill_record(record: &mut Vec<u8>, packet: &[u8], since_epoch: Duration) {
    let len = packet.len() as u32;
    let fields = [since_epoch.as_secs() as u32, since_epoch.subsec_micros(), len, len];
    record.clear();
    record.extend_from_slice(fields.map(u32::to_ne_bytes).as_flattened());
    record.extend_from_slice(packet);
}

impl<D: TunDevice, W: Write + Send + 'static> TunDevice for Tap<D, W> {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn offloads(&self) -> Offloads {
        self.device.offloads()
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.device.recv(buf)?;
        self.tap(&buf[..len]);
        Ok(len)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.device.send(frame)?;
        self.tap(frame);
        Ok(())
    }
}

impl<D: AsFd, W> AsFd for Tap<D, W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl<D: fmt::Debug, W> fmt::Debug for Tap<D, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("device", &self.device).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::{GsoType, MemoryTun, VNET_HEADER_LEN, VnetHeader};

    #[derive(Clone, Default)]
    struct SharedFile {
        bytes: Arc<Mutex<Vec<u8>>>,
        is_full: Arc<AtomicBool>,
    }

    impl Write for SharedFile {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.lock().unwrap().extend(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(43_200, 5_000)
    }

    /// A UDP super-packet of `len` payload bytes in segments of 100.
    fn super_packet(len: usize) -> Vec<u8> {
        let mut frame = vec![0; VNET_HEADER_LEN + 28 + len];
        let header = VnetHeader {
            needs_checksum: true,
            gso_type: GsoType::UdpL4,
            gso_size: 100,
            csum_start: 20,
            csum_offset: 6,
            ..VnetHeader::PLAIN
        };
        header.write_to(frame.first_chunk_mut().unwrap());
        let packet = &mut frame[VNET_HEADER_LEN..];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(28 + len as u16).to_be_bytes());
        packet[9] = 17;
        frame
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn super_packets_are_written_as_the_packets_they_stand_for() {
        let (tun, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let file = SharedFile::default();
        let tap = Tap::new(tun, file.clone(), noon).unwrap();
        host.send(&super_packet(250)).unwrap();
        tap.recv(&mut vec![0; MAX_FRAME_LEN]).unwrap();
        let bytes = file.bytes.lock().unwrap().clone();
        assert_eq!((u32_at(&bytes, 0), u32_at(&bytes, 20)), (0xa1b2_c3d4, 101));
        let mut at = 24;
        let mut lens = Vec::new();
        while at < bytes.len() {
            assert_eq!((u32_at(&bytes, at), u32_at(&bytes, at + 4)), (43_200, 5));
            lens.push(u32_at(&bytes, at + 8));
            at += 16 + u32_at(&bytes, at + 8) as usize;
        }
        assert_eq!(lens, [128, 128, 78]);
    }

    #[test]
    fn a_full_disk_ends_the_tap_and_not_the_traffic() {
        let (tun, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let file = SharedFile::default();
        let tap = Tap::new(tun, file.clone(), noon).unwrap();
        file.is_full.store(true, Ordering::Relaxed);
        tap.send(&super_packet(250)).unwrap();
        assert!(tap.is_broken());
        assert_eq!(host.recv(&mut vec![0; MAX_FRAME_LEN]).unwrap(), super_packet(250).len());
    }
}
