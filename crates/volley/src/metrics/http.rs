//! As much of an HTTP/1.1 server (RFC 9112) as a scraper needs: `GET /metrics`, one request a connection.
//! Clients are strangers: each may take little memory, little time and one of few places.

use std::{future::Future, io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;

/// Connections served at once. Others wait in the kernel's queue: one scraper needs one place.
const MAX_CLIENTS: usize = 16;

/// Longest request line with headers, bytes. Prometheus sends some 300.
const MAX_HEAD: usize = 8 << 10;

/// Until the whole request is here.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Until a client has taken its answer. 10,000 peers make a few megabytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// After `accept` failed, which it does when there are no descriptors left: trying on would be a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The text format that Prometheus and OpenMetrics scrapers both take.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where clients come from.
pub(super) trait Listener {
    /// The next one. Cancelling it loses nobody.
    fn next(
        &self,
    ) -> impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>> + Send;
}

impl Listener for TcpListener {
    async fn next(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    async fn next(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        Ok(self.accept().await?.0)
    }
}

/// Serves what `page` gives, until it is cancelled. Where it gives nothing, 503 is answered.
pub(super) async fn serve<P, F>(listener: impl Listener, page: P)
where
    P: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Option<String>> + Send + 'static,
{
    let mut clients = JoinSet::new();
    loop {
        let has_room = clients.len() < MAX_CLIENTS;
        tokio::select! {
            accepted = listener.next(), if has_room => match accepted {
                Ok(stream) => drop(clients.spawn(converse(stream, page.clone()))),
                Err(error) => {
                    warn!("cannot take a metrics connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// One client, from its first byte to its last.
async fn converse<S, P, F>(mut stream: S, page: P)
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Fn() -> F,
    F: Future<Output = Option<String>>,
{
    let request = match timeout(REQUEST_TIMEOUT, read_head(&mut stream)).await {
        Ok(Some(head)) => route(&head),
        Ok(None) => return,
        Err(_) => Status::RequestTimeout,
    };
    let (status, body) = match request {
        Status::Ok => match page().await {
            Some(body) => (Status::Ok, body),
            None => (Status::Unavailable, String::new()),
        },
        error => (error, String::new()),
    };
    // A client that does not take its answer is left to itself.
    let _ = timeout(ANSWER_TIMEOUT, answer(&mut stream, status, body)).await;
}

/// The request line and headers; more than [`MAX_HEAD`] bytes if they are too long. `None` if the client left.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(1 << 10);
    let mut chunk = [0; 1 << 10];
    while head.len() <= MAX_HEAD && !is_complete(&head) {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(len) => head.extend_from_slice(&chunk[..len]),
        }
    }
    Some(head)
}

fn is_complete(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}

/// What a request deserves.
fn route(head: &[u8]) -> Status {
    if !is_complete(head) {
        return Status::TooLong;
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let Ok(line) = str::from_utf8(line) else { return Status::BadRequest };
    let words: Vec<_> = line.split(' ').collect();
    let [method, target, version] = words[..] else { return Status::BadRequest };
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        _ if !version.starts_with("HTTP/1.") => Status::BadRequest,
        ("GET", "/metrics") => Status::Ok,
        (_, "/metrics") => Status::MethodNotAllowed,
        _ => Status::NotFound,
    }
}

/// The answers we give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    TooLong,
    Unavailable,
}

impl Status {
    /// Code and reason (RFC 9110 §15, RFC 6585 §5).
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    status: Status,
    body: String,
) -> io::Result<()> {
    let line = status.line();
    let body = if status == Status::Ok { body } else { format!("{line}: try GET /metrics\n") };
    let allow = if status == Status::MethodNotAllowed { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {line}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    // Closed with something unread, the connection is reset, and the answer may be lost with it.
    let mut rest = [0; 1 << 10];
    while stream.read(&mut rest).await? != 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    #[test]
    fn only_get_metrics_is_served() {
        let status = |line: &str| route(format!("{line}\r\nHost: here\r\n\r\n").as_bytes());
        for line in ["GET /metrics HTTP/1.1", "GET /metrics HTTP/1.0", "GET /metrics?a=b HTTP/1.1"] {
            assert_eq!(status(line), Status::Ok, "{line}");
        }
        for line in
            ["GET / HTTP/1.1", "GET /metrics/ HTTP/1.1", "GET /../metrics HTTP/1.1", "POST / HTTP/1.1"]
        {
            assert_eq!(status(line), Status::NotFound, "{line}");
        }
        for line in ["POST /metrics HTTP/1.1", "get /metrics HTTP/1.1", "HEAD /metrics HTTP/1.1"] {
            assert_eq!(status(line), Status::MethodNotAllowed, "{line}");
        }
        for line in
            ["", "GET", "GET /metrics", "GET  /metrics HTTP/1.1", "GET /metrics HTTP/2", "GET /metrics x y"]
        {
            assert_eq!(status(line), Status::BadRequest, "{line}");
        }
        assert_eq!(route(b"GET /\xff HTTP/1.1\r\n\r\n"), Status::BadRequest);
    }

    async fn page() -> Option<String> {
        Some("all is well\n".to_owned())
    }

    /// A client's end of a connection that is being served.
    fn client() -> DuplexStream {
        let (client, server) = duplex(64 << 10);
        tokio::spawn(converse(server, page));
        client
    }

    async fn rest_of(mut client: DuplexStream) -> String {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_request_in_pieces_is_answered_with_its_length() {
        let mut client = client();
        for piece in ["GE", "T /metrics HTTP/1.1\r\nHost: a\r", "\n\r", "\n"] {
            client.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
        let answer = rest_of(client).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert_eq!(body, "all is well\n");
    }

    #[tokio::test]
    async fn endless_headers_are_cut_off() {
        let mut client = client();
        client.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        client.write_all(&b"A: b\r\n".repeat(MAX_HEAD / 6 + 1)).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(rest_of(client).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_sent_away() {
        let client = client();
        assert!(rest_of(client).await.starts_with("HTTP/1.1 408 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_does_not_keep_its_place() {
        let (mut client, server) = duplex(16);
        client.write_all(b"GET /metrics HTT").await.unwrap();
        let served = tokio::spawn(converse(server, page));
        client.write_all(b"P/1.1\r\n\r\n").await.unwrap();
        timeout(REQUEST_TIMEOUT + 2 * ANSWER_TIMEOUT, served).await.expect("it is given up").unwrap();
    }
}
