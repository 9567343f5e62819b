//! `cargo xtask wire`: is every packet that leaves a tunnel right, checksum by checksum and byte by byte?

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use netlab::{
    Implementation, Side, TcpPlan, TcpTransfer, Tunnel, TunnelBuilder, WireKind, WireReport, carry_checked,
};

use crate::{cargo, modes::counter, table::Table};

const MIB: u64 = 1 << 20;
/// How often the bar moves.
const FRAME: Duration = Duration::from_millis(100);

/// Checks every inner packet of mixed TCP and UDP, then every byte of coalesced TCP.
#[derive(Args, Debug)]
pub(crate) struct Wire {
    /// MiB of inner packets to check one by one; then as much again of coalesced TCP to compare.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    mib: u64,
    /// This daemon instead of one built here.
    #[arg(long, value_name = "PATH")]
    volley: Option<PathBuf>,
}

impl Wire {
    pub(crate) fn run(&self) -> Result<()> {
        let volley = self.volley.clone().map_or_else(cargo::build_volley, Ok)?;
        netlab::enter_user_namespace()?;
        let bytes = self.mib * MIB;
        let (report, cut) = packets(&volley, bytes).context("packets checked one by one")?;
        say!("{}", table(&report));
        say!(
            "The daemon cut {} packets from {} frames of the kernel's. Of those that the tap kept up with, every \
             checksum and length is right.",
            cut.packets,
            cut.frames
        );
        let joined = content(&volley, bytes).context("coalesced TCP")?;
        say!(
            "The other daemon joined {} MiB of TCP into {joined} super-packets: every byte is the one sent.",
            self.mib
        );
        Ok(())
    }
}

/// What the sender's daemon read from its TUN device.
struct Cut {
    frames: u64,
    packets: u64,
}

/// The sender has every fast path on, so that it cuts super-packets and completes their checksums; the receiver writes
/// each packet as it came, for an independent checker to read.
fn packets(volley: &Path, bytes: u64) -> Result<(WireReport, Cut)> {
    let sender = Implementation::volley(volley, &[]);
    let receiver = Implementation::volley(volley, &["--no-tun-offload"]);
    let tunnel = TunnelBuilder::new(&sender, &receiver).start()?;
    let bar = bar("packets", bytes);
    let report = carry_checked(&tunnel, bytes, |checked| bar.set_position(checked.min(bytes)))?;
    bar.abandon();
    let cut = Cut {
        frames: counter(&tunnel, Side::A, "io_tun_frames_read")?,
        packets: counter(&tunnel, Side::A, "io_tun_packets_read")?,
    };
    ensure!(
        cut.packets > 4 * cut.frames,
        "{} packets in {} frames: the kernel hands over few super-packets here, so this proved little",
        cut.packets,
        cut.frames
    );
    let joined = counter(&tunnel, Side::B, "io_tun_super_frames_written")?;
    ensure!(
        joined == 0,
        "the receiver joined packets into {joined} super-packets in spite of --no-tun-offload"
    );
    Ok((report, cut))
}

/// Both daemons have every fast path on; what the kernel makes of the super-packets is compared with what was sent.
/// Gives their number.
fn content(volley: &Path, bytes: u64) -> Result<u64> {
    let implementation = Implementation::volley(volley, &[]);
    let tunnel = TunnelBuilder::new(&implementation, &implementation).start()?;
    let bar = bar("bytes", bytes);
    let half = bytes / 2;
    for (address, bytes) in [(Side::B.inner_v4(), half), (Side::B.inner_v6(), bytes - half)] {
        compare(&tunnel, address, bytes, &bar).with_context(|| format!("to {address}"))?;
    }
    bar.abandon();
    let joined = counter(&tunnel, Side::B, "io_tun_super_frames_written")?;
    ensure!(joined > 0, "the receiver joined nothing, so this proved nothing");
    Ok(joined)
}

fn compare(tunnel: &Tunnel, address: IpAddr, bytes: u64, bar: &ProgressBar) -> Result<()> {
    let plan = TcpPlan::bytes(bytes);
    let transfer = TcpTransfer::start(tunnel.host(Side::A), tunnel.host(Side::B), address, plan)?;
    let already = bar.position();
    while !transfer.is_finished() {
        bar.set_position(already + transfer.received());
        thread::sleep(FRAME);
    }
    let received = transfer.wait()?.bytes;
    ensure!(received == bytes, "{received} bytes of {bytes} arrived");
    bar.set_position(already + received);
    Ok(())
}

fn bar(name: &'static str, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:7} {bar:32} {bytes:>10} of {total_bytes} checked")
        .expect("a valid template");
    ProgressBar::new(bytes).with_style(style).with_prefix(name)
}

fn table(report: &WireReport) -> Table {
    let mut table = Table::new(["inner packets", "checked", "MiB", "bad"]);
    let tallies = WireKind::ALL.map(|kind| (kind.name(), report.tally(kind)));
    for (name, tally) in tallies.into_iter().chain([("all", report.total())]) {
        let mib = format!("{:.1}", tally.bytes as f64 / MIB as f64);
        table.row([name.to_owned(), tally.packets.to_string(), mib, tally.bad.to_string()]);
    }
    table
}
