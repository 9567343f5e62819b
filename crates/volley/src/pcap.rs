//! `--pcap`: what crosses the interface, in the clear, in a file for Wireshark and tcpdump.

mod records;

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::OFlag;
use tracing::{info, warn};
use tun_device::{Tap, TunDevice};

use self::records::Records;
use crate::{Trouble, wall_clock::since_epoch};

/// Packets reach the file after this long at most, so that a capture can be watched while it grows.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How every classic capture begins, in either byte order, with microseconds or nanoseconds.
const MAGICS: [u32; 4] = [0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1];

/// A device that is tapped into a file. Dropped, it writes what it still holds.
pub(crate) type Tapped<D> = Tap<D, Records<File>>;

/// The file of a capture, before anything is captured.
#[derive(Debug)]
pub(crate) struct Capture {
    file: File,
    path: PathBuf,
}

impl Capture {
    /// Makes the file. In its name `%i` stands for the interface's, as it does for `wg-quick`: a variable of
    /// the environment may reach several daemons.
    ///
    /// The file is new, and its owner's alone, for it will hold what the tunnel keeps from others. An older
    /// capture of that name is replaced, so that a restart does not fail; nothing else is.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn create(template: &Path, interface: &str) -> Result<Self, Trouble> {
        let path = file_of(template, interface);
        let file = make(&path).map_err(|error| failed(&path, &error))?;
        Ok(Self { file, path })
    }

    /// Puts a tap around `device`.
    ///
    /// # Errors
    /// When the file takes not even its header.
    pub(crate) fn tap<D: TunDevice>(self, device: D) -> Result<Arc<Tapped<D>>, Trouble> {
        let now: fn() -> SystemTime = || UNIX_EPOCH + since_epoch();
        let tap =
            Tap::new(device, Records::new(self.file), now).map_err(|error| failed(&self.path, &error))?;
        info!("what crosses {} is written in the clear to {}", tap.name(), self.path.display());
        Ok(Arc::new(tap))
    }
}

fn failed(path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(format!("cannot capture to {}: {error}", path.display()))
        .fix("give --pcap (or VOLLEY_PCAP) a new file in a directory that this user may write")
}

/// Hands on what was tapped every second, until the device is gone or the file takes no more.
pub(crate) async fn keep_flushed<D: TunDevice>(tap: Weak<Tapped<D>>) {
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    loop {
        ticks.tick().await;
        // Never held over a wait: the device closes when the data plane lets go of it.
        let Some(tap) = tap.upgrade() else { return };
        tap.flush();
        if tap.is_broken() {
            warn!("the capture has ended: its file takes no more (is the disk full?); the traffic goes on");
            return;
        }
    }
}

fn file_of(template: &Path, interface: &str) -> PathBuf {
    match template.to_str() {
        Some(text) => text.replace("%i", interface).into(),
        None => template.to_owned(),
    }
}

fn make(path: &Path) -> io::Result<File> {
    match create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let replaceable = is_capture(path)?;
            if !replaceable {
                return Err(io::Error::new(error.kind(), "it exists, and is not a capture"));
            }
            fs::remove_file(path)?;
            create(path)
        }
        made => made,
    }
}

/// Never follows a link, and never takes a file that somebody else prepared.
fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// True for a file that an earlier run, or a tool like it, has written or was about to write.
fn is_capture(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    // Between the two calls it may have become something else, which must not be followed, nor waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut start = Vec::with_capacity(4);
    File::options().read(true).custom_flags(flags.bits()).open(path)?.take(4).read_to_end(&mut start)?;
    Ok(match start.try_into() {
        Ok(magic) => MAGICS.contains(&u32::from_be_bytes(magic)),
        Err(short) => short.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tun_device::{MemoryHost, MemoryTun, Offloads, VNET_HEADER_LEN};

    use super::*;

    /// A directory, gone with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("volley-pcap-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A tapped device, which lives as long as its host's side.
    fn tapped(file: &Path) -> Result<(Arc<Tapped<MemoryTun>>, MemoryHost), Trouble> {
        let (device, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        Ok((Capture::create(file, device.name())?.tap(device)?, host))
    }

    /// One packet of 20 bytes with the pcap's two headers.
    const ONE_PACKET: u64 = 24 + 16 + 20;

    fn send_one(tap: &impl TunDevice) {
        let mut frame = [0; VNET_HEADER_LEN + 20];
        frame[VNET_HEADER_LEN] = 0x45;
        frame[VNET_HEADER_LEN + 3] = 20; // its total length
        tap.send(&frame).unwrap();
    }

    #[test]
    fn only_its_owner_reads_a_capture_and_the_end_of_the_device_completes_it() {
        let directory = Directory::new("owner");
        let (tap, _host) = tapped(&directory.file("%i.pcap")).unwrap();
        send_one(&tap);
        drop(tap);
        let written = fs::metadata(directory.file("mem0.pcap")).unwrap();
        assert_eq!(written.permissions().mode() & 0o777, 0o600);
        assert_eq!(written.len(), ONE_PACKET);
    }

    #[test]
    fn an_older_capture_is_replaced_and_nothing_else_is() {
        let directory = Directory::new("older");
        let path = directory.file("a.pcap");
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        for _ in 0..2 {
            let (tap, _host) = tapped(&path).unwrap();
            send_one(&tap);
            drop(tap);
            let written = fs::metadata(&path).unwrap();
            assert_eq!((written.len(), written.permissions().mode() & 0o777), (ONE_PACKET, 0o600));
        }

        let text = directory.file("text");
        fs::write(&text, "PrivateKey").unwrap();
        symlink(&path, directory.file("link")).unwrap();
        for name in ["text", "link", "", "missing/a.pcap"] {
            let error = tapped(&directory.file(name)).unwrap_err().to_string();
            assert!(error.starts_with("cannot capture to "), "{error}");
            assert!(error.contains("\n  to mend it: give --pcap"), "{error}");
        }
        assert_eq!(fs::read(&text).unwrap(), b"PrivateKey");
        assert_eq!(fs::metadata(&path).unwrap().len(), ONE_PACKET);
    }

    #[tokio::test(start_paused = true)]
    async fn packets_reach_the_file_while_the_device_lives() {
        let directory = Directory::new("live");
        let path = directory.file("a.pcap");
        let (tap, _host) = tapped(&path).unwrap();
        let flushing = tokio::spawn(keep_flushed(Arc::downgrade(&tap)));
        send_one(&tap);
        assert_eq!(fs::metadata(&path).unwrap().len(), 24);
        tokio::time::sleep(2 * FLUSH_EVERY).await;
        assert_eq!(fs::metadata(&path).unwrap().len(), ONE_PACKET);
        drop(tap);
        tokio::time::timeout(3 * FLUSH_EVERY, flushing).await.expect("it ends with the device").unwrap();
    }
}
