//! `volley doctor`: will a tunnel run here, and run fast? Everything that can be tried is tried, on a
//! throw-away interface, rather than guessed from versions.

use std::{
    fmt,
    fs::{self, File},
    io::ErrorKind,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use caps::{CapSet, Capability};
use io_runtime::{DeviceStatus, Feature, RuntimeConfig};
use nix::sys::utsname::uname;
use tun_device::{LinuxTun, TunDevice, TunOptions};

use crate::{Trouble, WithFix, tools, uapi::server::SOCKET_DIR};

/// The throw-away interface; the kernel puts a number in.
const PROBE_NAME: &str = "volleyprobe%d";

/// Socket buffers below this lose bursts, bytes: ten milliseconds at 1 Gbit/s, and some slack.
const SMALL_BUFFER: usize = 2 << 20;

/// How long the data plane may take to tell about itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It runs, but not as well as it could.
    Warning,
    /// A tunnel cannot run.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    said: String,
    fix: Option<String>,
}

impl Finding {
    fn good(what: &'static str, said: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what, said: said.into(), fix: None }
    }

    fn warning(what: &'static str, said: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, what, said: said.into(), fix: Some(fix.into()) }
    }

    fn bad(what: &'static str, said: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, what, said: said.into(), fix: Some(fix.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Good => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Bad => "BAD ",
        };
        write!(f, "{mark}  {}: {}", self.what, self.said)?;
        match &self.fix {
            Some(fix) => write!(f, "\n      to mend it: {fix}"),
            None => Ok(()),
        }
    }
}

/// Looks at everything and prints it.
///
/// # Errors
/// When a tunnel cannot run here.
pub(crate) fn run(port: u16) -> Result<(), Trouble> {
    let mut findings = vec![kernel(), capability(), tun_node(), socket_directory(), udp_port(port)];
    findings.extend(probe());
    findings.extend([module(), wireguard_tools(), firewall()]);
    let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    tools::write(lines.as_bytes())?;
    if findings.iter().any(|finding| finding.verdict == Verdict::Bad) {
        return Err(Trouble::new("a tunnel cannot run here until what is BAD above is mended"));
    }
    Ok(())
}

fn kernel() -> Finding {
    const WHAT: &str = "kernel";
    let Ok(name) = uname() else {
        return Finding::warning(WHAT, "it does not tell its version", "none is known");
    };
    let release = name.release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version < (4, 18, 0) => {
            Finding::warning(WHAT, format!("{release} has no UDP GSO"), "use Linux 4.18 or later")
        }
        Some(version) if version < (6, 2, 0) => Finding::warning(
            WHAT,
            format!("{release} has no UDP super-packets on TUN devices"),
            "use Linux 6.2 or later",
        ),
        Some(version) if ((7, 0, 0)..=(7, 1, 4)).contains(&version) => Finding::warning(
            WHAT,
            format!("{release} corrupts UDP GSO trains of equal segments; GSO stays off"),
            "use Linux 7.1.5 or later",
        ),
        _ => Finding::good(WHAT, release),
    }
}

fn version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

fn capability() -> Finding {
    const WHAT: &str = "privileges";
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(true) => Finding::good(WHAT, "CAP_NET_ADMIN"),
        Ok(false) => Finding::bad(
            WHAT,
            "CAP_NET_ADMIN is missing",
            "run as root; or setcap cap_net_admin+ep on the program; or --cap-add NET_ADMIN in a container",
        ),
        Err(error) => Finding::warning(WHAT, format!("cannot be read: {error}"), "mount /proc"),
    }
}

fn tun_node() -> Finding {
    const WHAT: &str = "/dev/net/tun";
    match File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::good(WHAT, "opens"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::bad(WHAT, error.to_string(), "run as root, or chmod 666 /dev/net/tun")
        }
        Err(error) => {
            Finding::bad(WHAT, error.to_string(), "modprobe tun; or --device /dev/net/tun in a container")
        }
    }
}

fn socket_directory() -> Finding {
    const WHAT: &str = "configuration sockets";
    let directory = Path::new(SOCKET_DIR);
    let place = if directory.is_dir() { directory } else { directory.parent().unwrap_or(directory) };
    match nix::unistd::access(place, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => Finding::good(WHAT, format!("{SOCKET_DIR} can be used")),
        Err(error) => Finding::bad(
            WHAT,
            format!("cannot write to {}: {}", place.display(), error.desc()),
            format!("run as root, or make {SOCKET_DIR} and give it to this user"),
        ),
    }
}

fn udp_port(port: u16) -> Finding {
    const WHAT: &str = "UDP port";
    match UdpSocket::bind(("0.0.0.0", port)) {
        Ok(_) => Finding::good(WHAT, format!("{port} is free")),
        Err(error) => Finding::warning(
            WHAT,
            format!("{port}: {error}"),
            format!("choose another ListenPort, or see who has it: ss -ulpn 'sport = :{port}'"),
        ),
    }
}

/// Runs a whole data plane for a moment and asks it what it found.
fn probe() -> Vec<Finding> {
    const WHAT: &str = "data plane";
    let tun = match LinuxTun::create(PROBE_NAME, &TunOptions::default()) {
        Ok(tun) => tun,
        Err(error) => {
            let fix = error.fix().unwrap_or("see the kernel's log: dmesg");
            return vec![Finding::bad("TUN interface", error.to_string(), fix)];
        }
    };
    let offloads = tun.offloads();
    let tun_finding = if offloads.tso && offloads.uso {
        Finding::good("TUN offloads", "checksum, TSO and USO")
    } else {
        let said = format!("checksum {}, TSO {}, USO {}", offloads.checksum, offloads.tso, offloads.uso);
        Finding::warning("TUN offloads", said, "use Linux 6.2 or later")
    };
    match ask_data_plane(tun) {
        Ok(status) => std::iter::once(tun_finding).chain(fast_paths(&status)).collect(),
        Err(trouble) => vec![tun_finding, Finding::bad(WHAT, trouble.to_string(), "report this, please")],
    }
}

fn ask_data_plane(tun: LinuxTun) -> Result<DeviceStatus, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_trouble("cannot start the event loop")?;
    let handle = io_runtime::spawn(tun, RuntimeConfig::default())?;
    runtime.block_on(async {
        let status = tokio::time::timeout(PROBE_TIMEOUT, handle.status()).await;
        handle.shutdown();
        let _ = tokio::time::timeout(PROBE_TIMEOUT, handle.finished()).await;
        status.or_trouble("it does not answer")?.or_trouble("it ended")
    })
}

fn fast_paths(status: &DeviceStatus) -> Vec<Finding> {
    let features = &status.features;
    let path = |what, feature: Feature, detail: String, fix: &str| match feature {
        Feature::On => Finding::good(what, detail),
        off => Finding::warning(what, off.to_string(), fix),
    };
    let segments = format!("{} datagrams per send", features.udp_gso_segments);
    let mut findings = vec![
        path("UDP GSO", features.udp_gso, segments, "use Linux 4.18 or later, and not 7.0 to 7.1.4"),
        path("UDP GRO", features.udp_gro, "on".to_owned(), "use Linux 5.0 or later"),
        path("TUN coalescing", features.tun_coalesce, "on".to_owned(), "use Linux 6.2 or later"),
    ];
    findings.push(if features.ipv6 {
        Finding::good("IPv6", "peers can be reached by it")
    } else {
        Finding::warning(
            "IPv6",
            "there is none; peers are reached by IPv4 alone",
            "sysctl net.ipv6.conf.all.disable_ipv6=0",
        )
    });
    let smaller = features.udp_send_buffer.min(features.udp_recv_buffer);
    let buffers = format!(
        "{} KiB to send, {} KiB to receive",
        features.udp_send_buffer >> 10,
        features.udp_recv_buffer >> 10
    );
    findings.push(if smaller >= SMALL_BUFFER {
        Finding::good("socket buffers", buffers)
    } else {
        let fix = "run with CAP_NET_ADMIN, or sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=4194304";
        Finding::warning("socket buffers", buffers, fix)
    });
    findings
}

fn module() -> Finding {
    const WHAT: &str = "kernel module";
    if Path::new("/sys/module/wireguard").exists() {
        Finding::warning(
            WHAT,
            "`wireguard` is loaded, so wg-quick uses it and not Volley",
            "use `volley up` instead of `wg-quick up`; or modprobe -r wireguard",
        )
    } else {
        Finding::good(WHAT, "`wireguard` is not loaded; wg-quick can start Volley")
    }
}

fn wireguard_tools() -> Finding {
    const WHAT: &str = "wireguard-tools";
    match found("wg") {
        Some(path) => Finding::good(WHAT, path.display().to_string()),
        None => Finding::warning(
            WHAT,
            "`wg` is not installed",
            "install wireguard-tools; `volley up` and `volley show` do without",
        ),
    }
}

fn firewall() -> Finding {
    const WHAT: &str = "nft";
    let Some(path) = found("nft") else {
        return Finding::warning(
            WHAT,
            "not installed; default routes (AllowedIPs = 0.0.0.0/0) need it",
            "install nftables",
        );
    };
    match Command::new(&path).args(["list", "tables"]).output() {
        Ok(output) if output.status.success() => Finding::good(WHAT, path.display().to_string()),
        _ => Finding::warning(WHAT, "it cannot list tables", "modprobe nf_tables, and run as root"),
    }
}

/// Where a program is, by `PATH`.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(program));
    places.find(|place| fs::metadata(place).is_ok_and(|metadata| metadata.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_in_every_style() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18, 44)));
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1, 0)));
        assert_eq!(version("7.1-rc3"), Some((7, 1, 0)));
        assert_eq!(version("nonsense"), None);
    }

    #[test]
    fn every_finding_that_is_not_good_has_its_fix() {
        let finding = Finding::warning("thing", "is so-so", "do this");
        assert_eq!(finding.to_string(), "warn  thing: is so-so\n      to mend it: do this");
        assert_eq!(Finding::good("thing", "is well").to_string(), "ok    thing: is well");
    }
}
