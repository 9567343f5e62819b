//! Looks for secrets in the memory of a process that had them and lives on.
//!
//! The test runs itself again as a child. The child is given the private keys, pre-shared key and ephemeral keys of a known
//! handshake (`vectors/`), plays both ends of it, lets other threads seal and open with the keys, and stops at two points:
//! while it has everything, and when all of it is gone. At each the parent reads the child's whole writable memory. At the
//! first it must find the session keys (or it would be blind), at the second no secret of the handshake at all: session keys,
//! chaining keys, results of Diffie–Hellman, pre-shared, private and ephemeral keys, nor the two forms HMAC gives its keys.

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use encrypt::{
    DATA_OVERHEAD, INITIATION_LEN, Identity, PeerIndex, PresharedKey, PrivateKey, RESPONSE_LEN, Session,
    SessionConfig,
    native::{Addressed, Environment, LocalIdentity, NativeIdentity, PeerHandshake},
};
use rand_core::{CryptoRng, Error, RngCore};
use support::{Vector, start, wall};
use zeroize::{Zeroize, Zeroizing};

/// How the child lets go of its secrets.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// Peers and identities are dropped.
    Removed,
    /// Peers stay, with another pre-shared key, after the private keys were replaced and the sessions expired.
    Changed,
    /// Peers and identities stay; 540 s after the last new keys those are forgotten (§6.3).
    Expired,
}

const CHILD: [(&str, End); 3] = [
    ("--as-the-child-that-removes", End::Removed),
    ("--as-the-child-that-changes", End::Changed),
    ("--as-the-child-whose-keys-expire", End::Expired),
];

fn main() {
    for argument in std::env::args() {
        if let Some((_, end)) = CHILD.iter().find(|(name, _)| *name == argument) {
            // Should one of the two wait for the other in vain.
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_secs(60));
                std::process::exit(1);
            });
            return if *end == End::Expired { child_that_waits() } else { child(*end) };
        }
    }
    for (name, end) in [
        ("no_secret_is_left_in_memory_when_peers_and_keys_are_removed", End::Removed),
        ("no_secret_is_left_in_memory_when_all_keys_have_changed", End::Changed),
        ("no_secret_of_a_session_is_left_in_memory_after_540_seconds", End::Expired),
    ] {
        parent(end);
        println!("test {name} ... ok");
    }
}

/// What the child is given, in this order, 32 bytes each.
const INPUTS: [&str; 5] = ["static_i", "static_r", "psk", "ephemeral_i", "ephemeral_r"];

// ---------------------------------------------------------------------------------------------------------------- parent

fn parent(end: End) {
    let vector =
        Vector::all().into_iter().find(|vector| vector.psk().is_some()).expect("one with a pre-shared key");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(CHILD.iter().filter(|(_, child)| *child == end).map(|(name, _)| name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for input in INPUTS {
        to.write_all(vector.bytes(input)).unwrap();
    }
    let patterns = patterns(&vector);

    await_stop(&mut from);
    let found = search(child.id(), &patterns);
    for secret in ["initiators", "responders", "static_i", "static_r", "psk"] {
        assert!(
            found.iter().any(|found| found.starts_with(secret)),
            "{secret} is in use, and must be seen: {found:?}"
        );
    }

    go_on(&mut to);
    if end != End::Expired {
        to.write_all(vector.bytes("ephemeral_i")).unwrap();
    }
    await_stop(&mut from);
    let mut found = search(child.id(), &patterns);
    if end == End::Expired {
        // What is meant to last.
        found.retain(|name| {
            !["static_i", "static_r", "psk", "ss"].iter().any(|lasts| name.starts_with(lasts))
        });
    }
    go_on(&mut to);
    assert!(child.wait().unwrap().success());
    assert!(found.is_empty(), "left in memory: {found:?}");
}

/// Each half of each secret by itself: a copy of one half tells too much as well. Private keys are copied with a few bits changed
/// (clamping), so the bytes that this can change are left out.
fn patterns(vector: &Vector) -> Vec<(String, Vec<u8>)> {
    let mut patterns = Vec::new();
    for (name, secret) in vector.secrets() {
        for (part, half) in [("", &secret[1..16]), (", second half", &secret[16..31])] {
            patterns.push((format!("{name}{part}"), half.to_vec()));
            for (pad, mask) in [("ipad", 0x36), ("opad", 0x5c)] {
                patterns
                    .push((format!("{name}{part}, {pad}"), half.iter().map(|byte| byte ^ mask).collect()));
            }
        }
    }
    patterns
}

fn await_stop(from: &mut ChildStdout) {
    from.read_exact(&mut [0]).expect("the child comes this far");
}

fn go_on(to: &mut ChildStdin) {
    to.write_all(&[0]).unwrap();
}

/// The names of the patterns that are in the writable memory of a process, and where.
fn search(process: u32, patterns: &[(String, Vec<u8>)]) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    // By their first two bytes, so that one pass does for all.
    let mut by_start: Vec<Vec<&(String, Vec<u8>)>> = vec![Vec::new(); 1 << 16];
    for pattern in patterns {
        by_start[usize::from(u16::from_ne_bytes([pattern.1[0], pattern.1[1]]))].push(pattern);
    }
    let mut found = Vec::new();
    let mut searched = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
    {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue; // [vvar] and the like
        }
        searched += bytes.len();
        for (at, pair) in bytes.windows(2).enumerate() {
            for (name, pattern) in &by_start[usize::from(u16::from_ne_bytes([pair[0], pair[1]]))] {
                if bytes[at..].starts_with(pattern) {
                    let place = line.rsplit(' ').next().unwrap_or_default();
                    found.push(format!("{name} at {at:#x} of {:#x} in {place}", bytes.len()));
                }
            }
        }
    }
    assert!(searched > 100_000, "stack and heap at least");
    found
}

// ----------------------------------------------------------------------------------------------------------------- child

/// Gives ephemeral keys, straight from the pipe, and numbers that are no secret.
struct FromParent(File, u32);

impl RngCore for FromParent {
    fn next_u32(&mut self) -> u32 {
        self.1 += 1;
        self.1
    }
    fn next_u64(&mut self) -> u64 {
        self.next_u32().into()
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.read_exact(bytes).unwrap();
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for FromParent {}

/// Stops for the parent to look.
fn stop(input: &File) {
    let mut output = std::io::stdout();
    output.write_all(&[0]).and_then(|()| output.flush()).unwrap();
    (&mut &*input).read_exact(&mut [0]).unwrap();
}

/// Reads 32 bytes and makes something of them that is wiped, in a box.
fn read<T>(mut input: &File, make: impl FnOnce(&[u8; 32]) -> T) -> T {
    let mut bytes = Zeroizing::new([0; 32]);
    input.read_exact(&mut *bytes).unwrap();
    make(&bytes)
}

/// Not `std::io::stdin`, which has a buffer of its own.
#[inline(never)]
fn child(end: End) {
    let input = File::open("/dev/stdin").unwrap();
    // One that only uses keys which others hold longer, and one that is the last to hold them.
    let helpers = [Helper::start(), Helper::start()];

    let [i, r] = [0; 2].map(|_| {
        let mut key = read(&input, |bytes| Box::new(PrivateKey::from_bytes(*bytes)));
        let identity = LocalIdentity::new(&key);
        key.zeroize();
        scrub();
        identity
    });
    let psk = read(&input, |bytes| Box::new(PresharedKey::from_bytes(*bytes)));
    let mut to_r = PeerHandshake::new(r.public_key(), Some(&psk));
    let mut to_i = PeerHandshake::new(i.public_key(), Some(&psk));
    drop(psk);
    scrub();

    let (now, wall) = (start(), wall(1));
    let mut rng = FromParent(input.try_clone().unwrap(), 0);
    let mut initiation = [0; INITIATION_LEN];
    to_r.initiate(&i, 1, wall, now, &mut rng, &mut initiation).unwrap();
    let Ok(Addressed::Initiation(message)) = r.verify_mac1(&initiation) else { panic!() };
    let mut response = [0; RESPONSE_LEN];
    let handshakes = &mut to_i;
    let find = move |_: &_| Some(((), handshakes));
    let ((), rs) = r.respond(&message, find, 2, now, &mut rng, &mut response).unwrap();
    let Ok(Addressed::Response(message)) = i.verify_mac1(&response) else { panic!() };
    let is = to_r.read_response(&i, &message).unwrap();

    // Both directions, on this thread and on the others.
    for (from, to) in [(&is, &rs), (&rs, &is)].map(|(from, to)| (from.keys().clone(), to.keys().clone())) {
        let job = move || {
            let mut train = [0; 5 * 100];
            from.lease(5).unwrap().seal_train(&mut train, 100).unwrap();
            to.open_train(&mut train, 100, |_, opened| assert!(opened.is_ok()));
        };
        job();
        for helper in &helpers {
            helper.run(job.clone());
        }
    }
    stop(&input);

    // The last holder of the keys is not their owner, but a lease on another thread.
    let lease = is.keys().lease(1).unwrap();
    drop((is, rs));
    helpers[1].run(move || lease.seal_train(&mut [0; 32], 32).unwrap());
    // One initiation more, that is never answered: its secrets are those of the first, for its ephemeral key is the same.
    let mut again = [0; INITIATION_LEN];
    to_r.initiate(&i, 3, wall, now, &mut rng, &mut again).unwrap();
    match end {
        End::Removed => {
            drop((to_i, to_r, i, r));
            stop(&input);
        }
        End::Expired => unreachable!("has a child of its own"),
        End::Changed => {
            drop((i, r));
            for peer in [&mut to_i, &mut to_r] {
                peer.set_preshared_key(None);
                peer.forget_identity();
            }
            stop(&input);
            assert_eq!(to_i.pending().chain(to_r.pending()).count(), 0);
        }
    }
}

/// Two sessions whose identities have their random numbers from the parent.
#[inline(never)]
fn child_that_waits() {
    let input = File::open("/dev/stdin").unwrap();
    let now = start();
    let [mut i, mut r] = [0; 2].map(|_| {
        let mut key = read(&input, |bytes| Box::new(PrivateKey::from_bytes(*bytes)));
        let rng = Box::new(FromParent(input.try_clone().unwrap(), 0));
        let environment = Environment { rng, wall: Box::new(|_| wall(1)) };
        let identity = NativeIdentity::with(&key, environment);
        key.zeroize();
        scrub();
        identity
    });
    let psk = read(&input, |bytes| Box::new(PresharedKey::from_bytes(*bytes)));
    let peers = [r.public_key(), i.public_key()];
    let [mut to_r, mut to_i] = [(peers[0], &mut i), (peers[1], &mut r)].map(|(peer, own)| {
        let index = PeerIndex::new(1).unwrap();
        own.session(SessionConfig { peer, preshared_key: Some((*psk).clone()), index }, now)
    });
    drop(psk);
    scrub();

    let (mut initiation, mut response, mut confirmation) = ([0; INITIATION_LEN], [0; 148], [0; 148]);
    to_r.initiate(&mut i, &mut initiation, now).unwrap();
    drop(r.claim(&initiation).unwrap()); // as of a stranger
    let (_, claim) = r.claim(&initiation).unwrap();
    to_i.answer(&mut r, &initiation, claim, &mut response, now).unwrap();
    to_r.read_response(&mut i, &response[..RESPONSE_LEN], &mut confirmation, now).unwrap();
    to_i.open(&mut r, &mut confirmation[..DATA_OVERHEAD], now).unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        let mut ends = [(&mut to_r, &mut i), (&mut to_i, &mut r)];
        // Keepalives: nothing of them has to be answered, or there would be another handshake.
        let mut sealed = [0; DATA_OVERHEAD];
        ends[from].0.seal(&[], &mut sealed, now).unwrap();
        let (session, identity) = &mut ends[to];
        session.open(identity, &mut sealed, now).unwrap();
    }
    stop(&input);

    for (session, identity) in [(&mut to_r, &mut i), (&mut to_i, &mut r)] {
        for _ in 0..4 {
            session.handle_timeout(identity, &mut initiation, now + Duration::from_secs(540));
        }
        assert!(!session.is_live());
    }
    stop(&input);
    drop((to_r, to_i));
}

/// A thread that does jobs, and sleeps in between with whatever they left on its stack.
struct Helper {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    done: mpsc::Receiver<()>,
}

impl Helper {
    fn start() -> Self {
        let (jobs, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (report, done) = mpsc::channel();
        std::thread::spawn(move || {
            for job in inbox {
                job();
                report.send(()).unwrap();
            }
        });
        Self { jobs, done }
    }

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.jobs.send(Box::new(job)).unwrap();
        self.done.recv().unwrap();
    }
}

/// The child's own copies of what it was given are on its stack; they are no concern of the crate's.
#[inline(never)]
fn scrub() {
    zeroize::optimization_barrier(&[0u8; 16 << 10]);
}
