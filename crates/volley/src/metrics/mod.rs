//! `--metrics`: everything the daemon counts, for Prometheus to fetch over HTTP.

mod exposition;
mod http;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use io_runtime::Handle;
use tracing::{info, warn};

use crate::{Trouble, wall_clock::WallClock};

/// Reads `--metrics`: `9586` and `:9586` mean the loopback, for who wants the whole network to read along
/// should have to say so.
///
/// # Errors
/// What would be understood.
pub(crate) fn listen_addr(value: &str) -> Result<SocketAddr, &'static str> {
    let (host, port) = value.rsplit_once(':').unwrap_or(("", value));
    if matches!(host, "" | "localhost") {
        let port = port.parse().map_err(|_| "use PORT, or ADDRESS:PORT such as 192.0.2.1:9586")?;
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    value.parse().map_err(|_| "use PORT, or ADDRESS:PORT such as 192.0.2.1:9586 or [2001:db8::1]:9586")
}

/// The bound port, before anything is served there.
#[derive(Debug)]
pub(crate) struct Metrics {
    listener: TcpListener,
    address: SocketAddr,
}

impl Metrics {
    /// Binds to `address`.
    ///
    /// # Errors
    /// When it is taken, not ours, or forbidden.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, Trouble> {
        let bound = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        let metrics = bound().map_err(|error: io::Error| {
            Trouble::new(format!("cannot serve metrics at {address}: {error}"))
                .fix("give --metrics (or VOLLEY_METRICS) another port, or an address of this machine")
        })?;
        if !address.ip().is_loopback() {
            warn!("metrics are open to the network at {address}; they tell who the peers are");
        }
        info!("metrics are at http://{}/metrics", metrics.address);
        Ok(metrics)
    }

    /// Serves until it is cancelled, in a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub(crate) async fn serve(self, interface: String, handle: Handle) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let page = Arc::new(Page { interface, handle, clock: WallClock::start() });
        http::serve(listener, move || {
            let page = Arc::clone(&page);
            async move { page.render().await }
        })
        .await;
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
        let loopback = "127.0.0.1:9586".parse();
        for value in ["9586", ":9586", "localhost:9586", "127.0.0.1:9586"] {
            assert_eq!(listen_addr(value).ok(), loopback.clone().ok(), "{value}");
        }
        assert_eq!(listen_addr("[::1]:9586"), Ok("[::1]:9586".parse().unwrap()));
        assert_eq!(listen_addr("0.0.0.0:1"), Ok("0.0.0.0:1".parse().unwrap()));
        for value in ["", ":", "65536", "::1", "example", "example:80", "127.0.0.1", "localhost"] {
            assert!(listen_addr(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_taken_port_is_an_error_with_its_fix() {
        let first = Metrics::bind(listen_addr("0").unwrap()).unwrap();
        let refused = Metrics::bind(first.address).unwrap_err().to_string();
        assert!(refused.contains("cannot serve metrics at 127.0.0.1:"), "{refused}");
        assert!(refused.contains("\n  to mend it: give --metrics"), "{refused}");
    }

    #[tokio::test]
    async fn a_running_data_plane_is_told_over_http() {
        let (tun, _host) = tun_device::MemoryTun::pair("mem0", tun_device::Offloads::ALL).unwrap();
        let handle = io_runtime::spawn(tun, io_runtime::RuntimeConfig::default()).unwrap();
        let metrics = Metrics::bind(listen_addr("0").unwrap()).unwrap();
        let address = metrics.address;
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
