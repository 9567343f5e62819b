//! Linux's TUN device, with a virtio-net header in front of every packet.

mod access;
mod inherit;
mod link;
mod name;
mod rtnetlink;
mod sys;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    sync::atomic::{AtomicU8, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use self::sys::TunFlags;
pub use self::{inherit::inherited_fd, link::TunLink, name::check_interface_name};
use crate::{Error, Offloads, TunDevice, VNET_HEADER_LEN};

/// Where TUN interfaces come from.
const TUN_DEVICE: &str = "/dev/net/tun";

/// `MISC_MAJOR` (linux/major.h) and `TUN_MINOR` (linux/miscdevice.h).
const TUN_MAJOR: libc::c_uint = 10;
const TUN_MINOR: libc::c_uint = 200;

/// Opens /dev/net/tun and lets it go: whether interfaces can come from there, before one is asked for.
///
/// # Errors
/// Why it does not open.
pub fn check_device() -> Result<(), Error> {
    open_clone_device("").map(drop)
}

/// How to set up a [`LinuxTun`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunOptions {
    /// Ask for partial checksums, TSO and USO. What the kernel grants is in [`TunDevice::offloads`].
    pub offload: bool,
    /// Set the MTU, bytes. `None` leaves the kernel's 1500, or what the interface had.
    pub mtu: Option<usize>,
    /// Set the transmit queue length. It counts *super-packets* when there are offloads: the kernel's 500
    /// is 32 MB of them, or 0.7 MB of plain packets. `None` leaves it alone.
    pub tx_queue_len: Option<u32>,
}

impl Default for TunOptions {
    fn default() -> Self {
        Self { offload: true, mtu: None, tx_queue_len: None }
    }
}

/// A Linux TUN interface. It goes away when this is dropped, unless it was made persistent.
///
/// Wait for readiness on [`AsFd`]: readable when [`TunDevice::recv`] has a frame. When the interface is
/// deleted, epoll reports **an error condition alone** (`EPOLLERR`), once: treat that as readable, too, and the
/// device as gone when the next `recv` tells `UnexpectedEof` *or* `WouldBlock`. The kernel wakes whoever waits
/// just before it lets go of the device (`tun_detach_all`), and a read in between finds it merely empty.
#[derive(Debug)]
pub struct LinuxTun {
    file: File,
    /// Any socket of the interface's namespace; MTU ioctls go by name through it, even if the thread
    /// moves to another namespace later.
    control: OwnedFd,
    name: String,
    has_vnet_header: bool,
    offloads: AtomicU8,
}

impl LinuxTun {
    /// Creates the interface `name`, or attaches to a persistent one that nobody holds. A `%d` in the name
    /// lets the kernel choose a number.
    ///
    /// # Errors
    /// Every [`Error`] but `NotTun`; nothing is left behind then.
    pub fn create(name: &str, options: &TunOptions) -> Result<Self, Error> {
        check_interface_name(name)?;
        let file = open_clone_device(name)?;
        // IFF_MULTI_QUEUE is left out on purpose: with it a second process could attach to our interface.
        let flags = TunFlags(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        let name = sys::set_interface(file.as_fd(), name, flags)
            .map_err(|source| access::attach_error(source, name))?;
        let tun = Self::attached(file, name, true)?;
        tun.apply(options)?;
        Ok(tun)
    }

    /// Takes over a descriptor that is already attached to an interface, as `WG_TUN_FD` hands it on.
    /// Makes it non-blocking and close-on-exec. If it was opened without `IFF_VNET_HDR`, frames carry a
    /// header of zeros and there are no offloads.
    ///
    /// It must have been opened with `IFF_NO_PI`. That cannot be checked: TUNGETIFF says the same bit for
    /// "no socket filter".
    ///
    /// # Errors
    /// `NotTun` if it is no TUN device; what [`Self::create`] fails with if the options cannot be applied.
    pub fn from_fd(fd: OwnedFd, options: &TunOptions) -> Result<Self, Error> {
        let (name, flags) =
            sys::interface(fd.as_fd()).map_err(|_| Error::NotTun("it is attached to no TUN interface"))?;
        if !flags.has(libc::IFF_TUN) {
            return Err(Error::NotTun("it is a TAP device, which carries Ethernet"));
        }
        prepare_descriptor(fd.as_fd()).map_err(|errno| system("fcntl", &name, errno.into()))?;
        let tun = Self::attached(File::from(fd), name, flags.has(libc::IFF_VNET_HDR))?;
        tun.apply(options)?;
        Ok(tun)
    }

    /// Changes which offloads the kernel may use towards us. CSUM comes first, then TSO, then USO, so that
    /// an older kernel keeps what it can. Gives what is in force afterwards.
    ///
    /// This is about what we *read*. Whether we *write* super-packets is the coalescer's choice.
    ///
    /// # Errors
    /// The kernel's answer if it refuses even to go without offloads.
    pub fn set_offloads(&self, wanted: Offloads) -> io::Result<Offloads> {
        let granted = if self.has_vnet_header { self.negotiate(wanted)? } else { Offloads::NONE };
        self.offloads.store(pack(granted), Ordering::Relaxed);
        Ok(granted)
    }

    /// The interface's MTU, bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` once the interface is gone, or the kernel's answer.
    pub fn mtu(&self) -> io::Result<usize> {
        let mtu = sys::mtu(self.control.as_fd(), &self.current_name()?).map_err(gone_or)?;
        usize::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Sets the interface's MTU, bytes: 68 to 65,535.
    ///
    /// # Errors
    /// `UnexpectedEof` once the interface is gone, or the kernel's answer (EINVAL out of range, EPERM).
    pub fn set_mtu(&self, mtu: usize) -> io::Result<()> {
        let mtu = libc::c_int::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
        sys::set_mtu(self.control.as_fd(), &self.current_name()?, mtu).map_err(gone_or)
    }

    /// Sets the transmit queue length, as [`TunOptions::tx_queue_len`] does, of an interface in the calling thread's
    /// network namespace.
    ///
    /// # Errors
    /// The kernel's answer (EPERM).
    pub fn set_tx_queue_len(&self, len: u32) -> io::Result<()> {
        rtnetlink::set_tx_queue_len(&self.current_name()?, len)
    }

    /// Has the kernel give the interface no IPv6 address by itself, and so solicit no routers on it. In force while
    /// the interface stays in the calling thread's network namespace. No error where there is no IPv6.
    ///
    /// # Errors
    /// The kernel's answer (EPERM).
    pub fn generate_no_address(&self) -> io::Result<()> {
        rtnetlink::set_no_address_generation(&self.current_name()?)
    }

    /// Whether the interface outlives its descriptors: then somebody else has made it.
    ///
    /// # Errors
    /// `UnexpectedEof` once the interface is gone.
    pub fn is_persistent(&self) -> io::Result<bool> {
        let (_, flags) = sys::interface(self.file.as_fd()).map_err(gone_or)?;
        Ok(flags.has(libc::IFF_PERSIST))
    }

    /// Whether the descriptor carries virtio-net headers; without them there are no offloads.
    pub const fn has_vnet_header(&self) -> bool {
        self.has_vnet_header
    }

    fn attached(file: File, name: String, has_vnet_header: bool) -> Result<Self, Error> {
        let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .or_else(|_| socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))
            .map_err(|errno| system("socket", &name, errno.into()))?;
        if has_vnet_header {
            // The length survives in persistent and handed-over devices, so never assume the default.
            sys::set_vnet_header_len(file.as_fd(), VNET_HEADER_LEN as libc::c_int)
                .map_err(|source| system("TUNSETVNETHDRSZ", &name, source))?;
        }
        Ok(Self { file, control, name, has_vnet_header, offloads: AtomicU8::new(pack(Offloads::NONE)) })
    }

    fn apply(&self, options: &TunOptions) -> Result<(), Error> {
        let wanted = if options.offload { Offloads::ALL } else { Offloads::NONE };
        self.set_offloads(wanted).map_err(|source| system("TUNSETOFFLOAD", &self.name, source))?;
        if let Some(mtu) = options.mtu {
            self.set_mtu(mtu).map_err(|source| self.change_error("SIOCSIFMTU", source))?;
        }
        if let Some(len) = options.tx_queue_len {
            self.set_tx_queue_len(len).map_err(|source| self.change_error("IFLA_TXQLEN", source))?;
        }
        Ok(())
    }

    fn negotiate(&self, wanted: Offloads) -> io::Result<Offloads> {
        let none = Offloads::NONE;
        let checksum = Offloads { checksum: true, ..none };
        let steps = [
            (wanted.checksum, checksum),
            (wanted.checksum && wanted.tso, Offloads { tso: true, ..checksum }),
            (wanted.checksum && wanted.tso && wanted.uso, Offloads::ALL),
        ];
        sys::set_offload(self.file.as_fd(), features(none)).map_err(gone_or)?;
        let mut granted = none;
        for (_, step) in steps.into_iter().take_while(|(wanted, _)| *wanted) {
            if sys::set_offload(self.file.as_fd(), features(step)).is_err() {
                break; // the kernel keeps the previous step
            }
            granted = step;
        }
        Ok(granted)
    }

    /// The name now: `ip link set NAME name OTHER` may have changed it.
    fn current_name(&self) -> io::Result<String> {
        sys::interface(self.file.as_fd()).map(|(name, _)| name).map_err(gone_or)
    }

    fn change_error(&self, call: &'static str, source: io::Error) -> Error {
        if source.raw_os_error() == Some(libc::EPERM) {
            return Error::NoPrivilege { action: "configure", name: self.name.clone() };
        }
        system(call, &self.name, source)
    }
}

impl TunDevice for LinuxTun {
    fn name(&self) -> &str {
        &self.name
    }

    fn offloads(&self) -> Offloads {
        unpack(self.offloads.load(Ordering::Relaxed))
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.has_vnet_header {
            return (&self.file).read(buf).map_err(gone_or);
        }
        let Some((header, packet)) = buf.split_at_mut_checked(VNET_HEADER_LEN) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        header.fill(0);
        let len = (&self.file).read(packet).map_err(gone_or)?;
        Ok(VNET_HEADER_LEN + len)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let bytes = if self.has_vnet_header { frame } else { plain_packet(frame)? };
        let written = (&self.file).write(bytes).map_err(gone_or)?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl AsFd for LinuxTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The packet of a frame for a device without virtio-net headers. EINVAL, as the kernel would answer, if
/// the frame needs what only the header can say.
fn plain_packet(frame: &[u8]) -> io::Result<&[u8]> {
    let Some((header, packet)) = frame.split_at_checked(VNET_HEADER_LEN) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let is_plain = header.iter().all(|&byte| byte == 0);
    if is_plain { Ok(packet) } else { Err(Errno::EINVAL.into()) }
}

fn open_clone_device(name: &str) -> Result<File, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_DEVICE)
        .map_err(|source| access::open_error(source, name))?;
    let node = file.metadata().map_err(|source| system("fstat", name, source))?;
    let is_tun = node.file_type().is_char_device() && node.rdev() == libc::makedev(TUN_MAJOR, TUN_MINOR);
    if is_tun { Ok(file) } else { Err(Error::NotTheNode) }
}

fn system(call: &'static str, name: &str, source: io::Error) -> Error {
    Error::System { call, name: name.into(), source }
}

fn prepare_descriptor(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Names the errors a caller must tell apart: `UnexpectedEof` when the interface was deleted, `NetworkDown`
/// when it is only down (a write then gives EIO). Everything else stays as the kernel said it.
fn gone_or(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV) => io::ErrorKind::UnexpectedEof.into(),
        Some(libc::EIO) => io::ErrorKind::NetworkDown.into(),
        _ => error,
    }
}

/// `TUN_F_*` (linux/if_tun.h).
fn features(offloads: Offloads) -> libc::c_uint {
    let bit = |on: bool, bits: libc::c_uint| if on { bits } else { 0 };
    bit(offloads.checksum, libc::TUN_F_CSUM)
        | bit(offloads.tso, libc::TUN_F_TSO4 | libc::TUN_F_TSO6)
        | bit(offloads.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6)
}

fn pack(offloads: Offloads) -> u8 {
    u8::from(offloads.checksum) | u8::from(offloads.tso) << 1 | u8::from(offloads.uso) << 2
}

fn unpack(bits: u8) -> Offloads {
    Offloads { checksum: bits & 1 != 0, tso: bits & 2 != 0, uso: bits & 4 != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn deleted_and_down_are_told_apart() {
        assert_eq!(gone_or(errno(libc::EBADFD)).kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(gone_or(errno(libc::ENODEV)).kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(gone_or(errno(libc::EIO)).kind(), io::ErrorKind::NetworkDown);
        assert_eq!(gone_or(errno(libc::EAGAIN)).kind(), io::ErrorKind::WouldBlock);
        assert_eq!(gone_or(errno(libc::EINVAL)).kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn offloads_survive_packing() {
        for bits in 0..8 {
            assert_eq!(pack(unpack(bits)), bits);
        }
    }

    #[test]
    fn a_descriptor_that_is_no_tun_is_refused() {
        let fd = OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(matches!(LinuxTun::from_fd(fd, &TunOptions::default()), Err(Error::NotTun(_))));
    }

    #[test]
    fn a_headerless_device_takes_only_plain_frames() {
        let mut frame = vec![0; VNET_HEADER_LEN + 20];
        assert_eq!(plain_packet(&frame).unwrap().len(), 20);
        frame[1] = 1; // gso_type TCPV4
        assert_eq!(plain_packet(&frame).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(plain_packet(&frame[..4]).is_err());
    }
}
