//! `--metrics ADDR`: every counter in Prometheus' text format, by a responder that knows one path.

mod text;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use io_runtime::Handle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

pub(crate) use text::Clock;

/// Scrapers served at once; more wait in the listen queue.
const MAX_CLIENTS: usize = 8;

/// The longest request head, bytes. Scrapers send some hundred.
const MAX_HEAD_LEN: usize = 4_096;

/// From the connection to the end of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// When `accept` fails, how long to wait before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Reads `--metrics`: a port means loopback only, since the counters name peers.
///
/// # Errors
/// What to write instead.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let port = text.strip_prefix(':').unwrap_or(text).parse();
    match port {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text.parse().map_err(|_| "use PORT (on loopback), ADDRESS:PORT or [ADDRESS]:PORT"),
    }
}

/// Answers scrapers until dropped.
///
/// # Errors
/// When the listener cannot be handed to the event loop.
pub(crate) async fn serve(
    listener: StdListener,
    name: String,
    handle: Handle,
    clock: impl Clock,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = clients.clone().acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (name, handle, clock) = (name.clone(), handle.clone(), clock.clone());
        tokio::spawn(async move {
            // A scraper that went away, or hangs, is nobody's trouble but its own.
            let _ = timeout(CLIENT_TIMEOUT, answer(stream, &name, &handle, &clock)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, name: &str, handle: &Handle, clock: &impl Clock) -> io::Result<()> {
    let mut head = Vec::with_capacity(MAX_HEAD_LEN);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let room = MAX_HEAD_LEN - head.len();
        if room == 0 || (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let (status, body) = if head.starts_with(b"GET /metrics ") {
        match handle.status().await {
            Ok(status) => ("200 OK", text::metrics(name, &status, clock)),
            Err(_) => ("503 Service Unavailable", "the data plane has ended\n".to_owned()),
        }
    } else {
        ("404 Not Found", "only GET /metrics is here\n".to_owned())
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_loopback() {
        for text in ["9586", ":9586", "127.0.0.1:9586"] {
            assert_eq!(parse_address(text), Ok("127.0.0.1:9586".parse().unwrap()), "{text}");
        }
        assert_eq!(parse_address("[::]:1"), Ok("[::]:1".parse().unwrap()));
        assert!(parse_address("localhost").is_err());
        assert!(parse_address("70000").is_err());
    }
}
