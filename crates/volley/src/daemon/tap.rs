//! `--pcap FILE`: what goes through the tunnel, in the clear, for Wireshark.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tracing::warn;
use tun_device::Tap;

use crate::{Trouble, WithFix};

/// How long a packet may be on its way to the file.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// A buffered file that two owners write to: the tap, and the clock that flushes it.
#[derive(Clone)]
pub(super) struct PcapFile(Arc<Mutex<BufWriter<File>>>);

impl PcapFile {
    /// Nobody else may read it: it holds what the tunnel keeps secret.
    pub(super) fn create(path: &Path) -> Result<Self, Trouble> {
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.or_trouble(format!("cannot write packets to {}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(BufWriter::new(file)))))
    }

    /// Puts a tap around `device`.
    pub(super) fn tap<D>(&self, device: D) -> Result<Tap<D, Self>, Trouble> {
        Tap::new(device, self.clone(), now).or_trouble("cannot write packets")
    }

    /// Flushes the file now and then, until it fails.
    pub(super) async fn keep_flushed(self) {
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            if let Err(error) = self.clone().flush() {
                warn!("packets are no longer written: {error}");
                return;
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BufWriter<File>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for PcapFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(BufWriter::flush)
    }
}

#[expect(clippy::disallowed_methods, reason = "packets are stamped with wall-clock time")]
fn now() -> SystemTime {
    SystemTime::now()
}
