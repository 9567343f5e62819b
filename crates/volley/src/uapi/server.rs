//! Serving the socket: several clients at once, several requests each; a slow or stuck one costs a table
//! entry until a newer one needs it, and nothing else.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use io_runtime::DeviceUpdate;
use nix::{
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::{
    net::UnixStream,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{
    Device, Errno, Failure, Operation, Request, RequestParser, Socket, Status,
    lines::{Line, LineBuffer},
};

/// Connections kept at once. When one more comes, one that asks for nothing goes, or one that is stuck. Only root may
/// connect, so this guards against broken clients, not hostile ones: a healthy one is gone in milliseconds.
const MAX_CLIENTS: usize = 64;

/// A client that lets us wait for so long in the middle of a request, or with an answer, is stuck: it has to go if
/// another needs its place.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// While all are at work, how long to wait before looking again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// From a request's first byte to its last. A longest request takes well under a second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Until a client takes more of its answer. One that reads slowly is served for as long as it reads.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// When `accept` fails (no file descriptors left), how long to wait before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the server needs from the device it configures.
pub trait Control: Clone + Send + Sync + 'static {
    /// Everything `get` tells.
    fn get(&self) -> impl Future<Output = Result<Device, Errno>> + Send;
    /// Applies a whole update or nothing.
    fn set(&self, update: DeviceUpdate) -> impl Future<Output = Result<(), Errno>> + Send;
    /// Features and counters.
    fn status(&self) -> impl Future<Output = Result<Status, Errno>> + Send;
}

impl Socket {
    /// Answers clients until dropped.
    ///
    /// # Errors
    /// When the socket cannot be handed to the event loop.
    pub async fn serve(&self, control: impl Control) -> io::Result<()> {
        let listener = self.listener()?;
        let mut clients = Clients::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = clients.finished() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    clients.make_room().await;
                    clients.add(stream, control.clone());
                }
                Err(error) => {
                    warn!("cannot accept a client of the configuration socket: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connections, oldest first.
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    order: VecDeque<Client>,
}

struct Client {
    task: AbortHandle,
    stream: Arc<UnixStream>,
    activity: Arc<Mutex<Activity>>,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug)]
enum Activity {
    /// It has no request.
    Idle,
    /// It has one, and it is the client who has to go on, since then: with what is polled for.
    Waiting(Instant, PollFlags),
    /// We are at work on it.
    Busy,
}

impl Clients {
    /// Waits until one more may be added: for the oldest of those that have no request, else of those that are stuck
    /// in one, it has to go. A request that goes on is never cut off.
    async fn make_room(&mut self) {
        while self.order.len() >= MAX_CLIENTS {
            let oldest = |is: fn(&Client) -> bool| self.order.iter().position(is);
            let oldest = oldest(Client::is_idle).or_else(|| oldest(Client::is_stuck));
            if let Some(client) = oldest.and_then(|position| self.order.remove(position)) {
                debug!("a client of the configuration socket makes room for a new one");
                client.task.abort();
                return;
            }
            tokio::select! {
                () = self.finished() => {}
                () = sleep(ROOM_PAUSE) => {}
            }
        }
    }

    fn add(&mut self, stream: UnixStream, control: impl Control) {
        let activity = Arc::new(Mutex::new(Activity::Idle));
        let stream = Arc::new(stream);
        let conversation = Conversation::new(Arc::clone(&stream), Arc::clone(&activity));
        let task = self.tasks.spawn(async {
            if let Err(error) = conversation.run(control).await {
                debug!("a client of the configuration socket is given up: {error}");
            }
        });
        self.order.push_back(Client { task, stream, activity });
    }

    /// Resolves when a connection has ended; never if there is none.
    async fn finished(&mut self) {
        let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.order.retain(|client| client.task.id() != id);
    }
}

impl Client {
    fn is_idle(&self) -> bool {
        matches!(self.activity(), Activity::Idle) && !self.is_ready(PollFlags::POLLIN)
    }

    fn is_stuck(&self) -> bool {
        let Activity::Waiting(since, what) = self.activity() else { return false };
        since.elapsed() >= STUCK_AFTER && !self.is_ready(what)
    }

    fn activity(&self) -> Activity {
        *self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has gone on, and we have not come to it yet.
    fn is_ready(&self, what: PollFlags) -> bool {
        let mut asked = [PollFd::new(self.stream.as_fd(), what)];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// One connection.
struct Conversation {
    stream: Arc<UnixStream>,
    parser: RequestParser,
    lines: LineBuffer,
    activity: Arc<Mutex<Activity>>,
}

impl Conversation {
    fn new(stream: Arc<UnixStream>, activity: Arc<Mutex<Activity>>) -> Self {
        let scope = |name: &str| if_nametoindex(name).ok();
        Self { stream, parser: RequestParser::new(scope), lines: LineBuffer::new(), activity }
    }

    fn is_at(&self, activity: Activity) {
        *self.activity.lock().unwrap_or_else(PoisonError::into_inner) = activity;
    }

    async fn run(mut self, control: impl Control) -> io::Result<()> {
        let mut deadline = None;
        loop {
            while let Some(request) = self.next_request() {
                self.answer(request, &control).await?;
                deadline = None;
            }
            if self.parser.is_over_limit() {
                break;
            }
            let began = !self.lines.is_empty() || !self.parser.is_idle();
            self.is_at(if began {
                Activity::Waiting(Instant::now(), PollFlags::POLLIN)
            } else {
                Activity::Idle
            });
            let received = if began {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + REQUEST_TIMEOUT);
                timeout_at(deadline, self.receive()).await.unwrap_or(Ok(0))?
            } else {
                self.receive().await?
            };
            if received == 0 {
                break;
            }
        }
        // The client stopped inside a request, or never stops sending one.
        if let Some(failure) = self.parser.truncated() {
            self.answer(Err(failure), &control).await?;
        }
        Ok(())
    }

    /// Parses what is buffered, up to the end of the next request.
    fn next_request(&mut self) -> Option<Result<Request, Failure>> {
        loop {
            match self.lines.next()? {
                Line::TooLong(length) | Line::More(length) => self.parser.line_too_long(length),
                Line::Text(line) => {
                    if let Some(request) = self.parser.line(line) {
                        return Some(request);
                    }
                }
            }
        }
    }

    async fn receive(&mut self) -> io::Result<usize> {
        let received = loop {
            self.stream.readable().await?;
            match self.stream.try_read(self.lines.space()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => break received?,
            }
        };
        self.is_at(Activity::Busy);
        self.lines.advance(received);
        Ok(received)
    }

    async fn answer(&mut self, request: Result<Request, Failure>, control: &impl Control) -> io::Result<()> {
        let (text, errno) = match request {
            Ok(Request::Get) => match control.get().await {
                Ok(device) => (super::print_get(&device), 0),
                Err(errno) => (Zeroizing::default(), errno.number()),
            },
            Ok(Request::Status) => match control.status().await {
                Ok(status) => (Zeroizing::new(status.print()), 0),
                Err(errno) => (Zeroizing::default(), errno.number()),
            },
            Ok(Request::Set(update)) => match control.set(update).await {
                Ok(()) => (Zeroizing::default(), 0),
                Err(errno) => (Zeroizing::default(), -errno.number()),
            },
            Err(Failure { operation, errno, line, reason }) => {
                warn!("a configuration request was refused: line {line}: {reason}");
                let number = errno.number();
                (Zeroizing::default(), if operation == Operation::Get { number } else { -number })
            }
        };
        let closing = format!("errno={errno}\n\n");
        self.send(text.as_bytes()).await?;
        self.send(closing.as_bytes()).await
    }

    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.is_at(Activity::Waiting(Instant::now(), PollFlags::POLLOUT));
            timeout(ANSWER_TIMEOUT, self.stream.writable()).await??;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => bytes = &bytes[taken?..],
            }
        }
        self.is_at(Activity::Busy);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::uapi::socket::tests::directory;

    /// Counts what was applied.
    #[derive(Clone, Default)]
    struct Counted(Arc<AtomicUsize>);

    impl Control for Counted {
        async fn get(&self) -> Result<Device, Errno> {
            Ok(Device { listen_port: 7, ..Device::default() })
        }

        async fn set(&self, update: DeviceUpdate) -> Result<(), Errno> {
            // Milliseconds, here.
            sleep(Duration::from_millis(update.fwmark.unwrap_or(0).into())).await;
            self.0.fetch_add(1, Ordering::Relaxed);
            if update.listen_port == Some(1) { Err(Errno::AddrInUse) } else { Ok(()) }
        }

        async fn status(&self) -> Result<Status, Errno> {
            Ok(Status::default())
        }
    }

    struct Served {
        path: PathBuf,
        applied: Counted,
    }

    /// Runs `client` against a server, on one thread, bounded in time.
    fn with_server<F: Future<Output = ()>>(client: impl FnOnce(Served) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = directory();
        let path = directory.0.join("wg0.sock");
        let socket = Socket::bind(&path).expect("the socket binds");
        let applied = Counted::default();
        let served = Served { path, applied: applied.clone() };
        runtime.block_on(async {
            tokio::select! {
                ended = socket.serve(applied) => panic!("{ended:?}"),
                () = client(served) => {}
                () = sleep(Duration::from_secs(30)) => panic!("the client hangs"),
            }
        });
    }

    async fn exchange(stream: &mut UnixStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n\n") {
            assert_ne!(stream.read_buf(&mut answer).await.expect("received"), 0, "closed after {answer:?}");
        }
        String::from_utf8(answer).expect("text")
    }

    #[test]
    fn one_connection_carries_several_requests() {
        with_server(|served| async move {
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            assert_eq!(exchange(&mut stream, "get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
            assert_eq!(exchange(&mut stream, "set=1\nlisten_port=2\n\n").await, "errno=0\n\n");
            assert_eq!(exchange(&mut stream, "set=1\nlisten_port=1\n\n").await, "errno=-98\n\n");
            assert_eq!(exchange(&mut stream, "set=1\nlisten_port=x\n\n").await, "errno=-22\n\n");
            assert_eq!(exchange(&mut stream, "nonsense\n\n").await, "errno=-71\n\n");
            assert_eq!(exchange(&mut stream, "get=1\nx=y\n\n").await, "errno=71\n\n");
            assert_eq!(served.applied.0.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn requests_sent_at_once_are_answered_in_order() {
        with_server(|served| async move {
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            stream.write_all(b"set=1\n\nset=1\nfwmark=x\n\nget=1\n\n").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "errno=0\n\nerrno=-22\n\nlisten_port=7\nerrno=0\n\n");
        });
    }

    #[test]
    fn an_overlong_line_is_refused_and_the_connection_goes_on() {
        with_server(|served| async move {
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            let request = format!("set=1\nprivate_key={}\n\n", "0".repeat(100_000));
            assert_eq!(exchange(&mut stream, &request).await, "errno=-71\n\n");
            assert_eq!(exchange(&mut stream, "set=1\n\n").await, "errno=0\n\n");
        });
    }

    #[test]
    fn a_truncated_request_is_answered_but_not_applied() {
        with_server(|served| async move {
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            stream.write_all(b"set=1\nlisten_port=2\n").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "errno=-71\n\n");
            assert_eq!(served.applied.0.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn stuck_clients_harm_nobody() {
        with_server(|served| async move {
            let mut stuck = Vec::new();
            for number in 0..3 * MAX_CLIENTS {
                let mut stream = UnixStream::connect(&served.path).await.unwrap();
                if number % 2 == 0 {
                    stream.write_all(b"set=1\nlisten_po").await.unwrap();
                }
                stuck.push(stream);
                tokio::task::yield_now().await;
            }
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            assert_eq!(exchange(&mut stream, "get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
            // The oldest of those that asked for nothing made room.
            let mut rest = Vec::new();
            assert!(matches!(stuck[1].read_to_end(&mut rest).await, Ok(0) | Err(_)));
        });
    }

    #[test]
    fn a_request_that_is_still_sent_is_not_cut_off_when_more_clients_come() {
        with_server(|served| async move {
            let mut active = UnixStream::connect(&served.path).await.unwrap();
            active.write_all(b"set=1\nlisten_po").await.unwrap();
            let mut others = Vec::new();
            for _ in 0..MAX_CLIENTS + 5 {
                let mut other = UnixStream::connect(&served.path).await.unwrap();
                assert_eq!(exchange(&mut other, "get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
                others.push(other);
            }
            assert_eq!(exchange(&mut active, "rt=2\n\n").await, "errno=0\n\n");
            assert_eq!(served.applied.0.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn a_request_that_is_being_applied_is_not_cut_off_when_more_clients_come() {
        with_server(|served| async move {
            let slow = format!("set=1\nfwmark={}\n\n", STUCK_AFTER.as_millis() + 200);
            let mut active = Vec::new();
            for _ in 0..MAX_CLIENTS {
                let mut stream = UnixStream::connect(&served.path).await.unwrap();
                stream.write_all(slow.as_bytes()).await.unwrap();
                active.push(stream);
            }
            let mut next = UnixStream::connect(&served.path).await.unwrap();
            assert_eq!(exchange(&mut next, "get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
            for mut stream in active {
                assert_eq!(exchange(&mut stream, "").await, "errno=0\n\n");
            }
            assert_eq!(served.applied.0.load(Ordering::Relaxed), MAX_CLIENTS);
        });
    }
}
