//! `--metrics`: everything the daemon counts, for Prometheus to fetch over HTTP.

mod exposition;
mod http;

use std::{
    fmt::{self, Display},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use io_runtime::Handle;
use tracing::{info, warn};

use crate::{
    Trouble,
    uapi::{BindError, Socket},
    wall_clock::WallClock,
};

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On a port.
    Tcp(SocketAddr),
    /// On a socket of the file system that its owner alone may use. `%i` stands for the interface, so that the instances
    /// which share a setting do not share an address.
    Unix(PathBuf),
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Reads `--metrics`: `9586` and `:9586` mean the loopback, for who wants the whole network to read along
/// should have to say so.
///
/// # Errors
/// What would be understood.
pub(crate) fn address(value: &str) -> Result<Address, &'static str> {
    if let Some(path) = value.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        let is_file = path.is_absolute() && path.file_name().is_some();
        return if is_file { Ok(Address::Unix(path)) } else { Err("use unix:/ABSOLUTE/PATH") };
    }
    let (host, port) = value.rsplit_once(':').unwrap_or(("", value));
    if matches!(host, "" | "localhost") {
        let port =
            port.parse().map_err(|_| "use PORT, ADDRESS:PORT such as 192.0.2.1:9586, or unix:/PATH")?;
        return Ok(Address::Tcp((Ipv4Addr::LOCALHOST, port).into()));
    }
    let wrong = "use PORT, ADDRESS:PORT such as 192.0.2.1:9586 or [2001:db8::1]:9586, or unix:/PATH";
    value.parse().map(Address::Tcp).map_err(|_| wrong)
}

/// The bound address, before anything is served there.
#[derive(Debug)]
pub(crate) struct Metrics {
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(Socket),
}

impl Metrics {
    /// Binds to `address`, as the one for `interface`.
    ///
    /// # Errors
    /// When it is taken, not ours, or forbidden.
    pub(crate) fn bind(address: &Address, interface: &str) -> Result<Self, Trouble> {
        match address {
            Address::Tcp(address) => Self::bind_tcp(*address),
            Address::Unix(path) => {
                Self::bind_unix(Path::new(&*path.to_string_lossy().replace("%i", interface)))
            }
        }
    }

    fn bind_tcp(address: SocketAddr) -> Result<Self, Trouble> {
        let bound = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        };
        let (bound, listener) = bound().map_err(|error: io::Error| {
            let trouble = Trouble::new(format!("cannot serve metrics at {address}: {error}"));
            trouble.fix(match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "give --metrics (or VOLLEY_METRICS) another port, or where several interfaces share the setting: \
                     unix:/run/wireguard/%i.metrics"
                }
                _ => "give --metrics (or VOLLEY_METRICS) another port, or an address of this machine",
            })
        })?;
        if !address.ip().is_loopback() {
            warn!("metrics are open to the network at {address}; they tell who the peers are");
        }
        info!("metrics are at http://{bound}/metrics");
        Ok(Self { listener: Listener::Tcp(listener) })
    }

    fn bind_unix(path: &Path) -> Result<Self, Trouble> {
        let socket = Socket::bind(path).map_err(|error| {
            let what = match error {
                BindError::Taken(_) => "somebody serves there already".to_owned(),
                error => error.to_string(),
            };
            Trouble::new(format!("cannot serve metrics at unix:{}: {what}", path.display())).fix(
                "give --metrics (or VOLLEY_METRICS) a path for each interface, where we may write: \
                 unix:/run/wireguard/%i.metrics",
            )
        })?;
        info!("metrics are at unix:{}", path.display());
        Ok(Self { listener: Listener::Unix(socket) })
    }

    /// Serves until it is cancelled, in a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub(crate) async fn serve(self, interface: String, handle: Handle) -> io::Result<()> {
        let page = Arc::new(Page { interface, handle, clock: WallClock::start() });
        let page = move || {
            let page = Arc::clone(&page);
            async move { page.render().await }
        };
        match &self.listener {
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
                http::serve(listener, page).await;
            }
            Listener::Unix(socket) => {
                http::serve(socket.listener()?, page).await;
            }
        }
        Ok(())
    }
}

struct Page {
    interface: String,
    handle: Handle,
    clock: WallClock,
}

impl Page {
    /// `None` when the data plane has ended.
    async fn render(&self) -> Option<String> {
        let status = self.handle.status().await.ok()?;
        self.clock.follow();
        Some(exposition::render(&self.interface, &status, &self.clock))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[test]
    fn a_bare_port_means_the_loopback() {
        let tcp = |value: &str| Ok(Address::Tcp(value.parse().unwrap()));
        for value in ["9586", ":9586", "localhost:9586", "127.0.0.1:9586"] {
            assert_eq!(address(value), tcp("127.0.0.1:9586"), "{value}");
        }
        assert_eq!(address("[::1]:9586"), tcp("[::1]:9586"));
        assert_eq!(address("0.0.0.0:1"), tcp("0.0.0.0:1"));
        assert_eq!(address("unix:/run/a/%i.sock"), Ok(Address::Unix("/run/a/%i.sock".into())));
        let wrong = ["", ":", "65536", "::1", "example", "example:80", "127.0.0.1", "localhost"];
        for value in wrong.into_iter().chain(["unix:", "unix:here", "unix:/", "unix:/..", "/run/a.sock"]) {
            assert!(address(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_taken_port_is_an_error_with_its_fix() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Address::Tcp(first.local_addr().unwrap());
        let refused = Metrics::bind(&taken, "wg0").unwrap_err().to_string();
        assert!(refused.contains("cannot serve metrics at 127.0.0.1:"), "{refused}");
        assert!(refused.contains("\n  to mend it: give --metrics"), "{refused}");
        assert!(refused.contains("unix:/run/wireguard/%i.metrics"), "{refused}");
    }

    #[tokio::test]
    async fn a_running_data_plane_is_told_over_http() {
        let (tun, _host) = tun_device::MemoryTun::pair("mem0", tun_device::Offloads::ALL).unwrap();
        let handle = io_runtime::spawn(tun, io_runtime::RuntimeConfig::default()).unwrap();
        let metrics = Metrics::bind(&address("0").unwrap(), "wg0").unwrap();
        let Listener::Tcp(listener) = &metrics.listener else { unreachable!("a port was asked for") };
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(metrics.serve("wg0".into(), handle.clone()));

        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\nvolley_peers{interface=\"wg0\"} 0\n"), "{answer}");

        handle.shutdown();
        handle.finished().await.unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        serving.abort();
    }
}
