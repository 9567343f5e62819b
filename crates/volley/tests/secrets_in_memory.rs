//! No secret outlives its use in the memory of a daemon that lives on.
//!
//! The daemon is told its keys as people tell them, speaks with two peers that know every secret they have in common with
//! it, and loses them again. Then its whole memory is read: keys of people in each form that they are typed in, results
//! of Diffie–Hellman, chaining keys and session keys.

mod common;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    process::Command,
};

use common::{Daemon, Lab, PATIENCE, clocks::Clocks, eventually, lab, waits};
use netlab::{KnownPeer, Secrets, Word, base64, hex, public_key, random_key};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const TOOLS: &[&str] = &["wg", "ip", "cc"];
const PORT: u16 = 5_000;
const METRICS: &str = "127.0.0.1:9586";

/// A daemon with a session with each of two peers: one that it answered, and one that answered it.
struct Talk<'a> {
    lab: &'a Lab,
    daemon: Daemon,
    clocks: Clocks,
    private: Word,
    asks: Peer,
    answers: Peer,
}

struct Peer {
    end: KnownPeer,
    name: String,
    address: &'static str,
    preshared_key: Word,
    /// Of its session with the daemon.
    session: Vec<(&'static str, Word)>,
}

impl Peer {
    fn new(private: Word, daemon: Word, address: &'static str) -> Self {
        let preshared_key = random();
        let port = SocketAddr::from(([127, 0, 0, 1], PORT));
        let end = KnownPeer::new(private, preshared_key, daemon, port).expect("a peer");
        let name = base64(&end.public_key());
        Self { end, name, address, preshared_key, session: Vec::new() }
    }

    fn given(&self) -> Secrets {
        self.secrets(&[("pre-shared key", self.preshared_key)])
    }

    fn shared(&self) -> Secrets {
        self.secrets(&[("static keys' shared secret", self.end.static_shared())])
    }

    fn session(&self) -> Secrets {
        self.secrets(&self.session)
    }

    fn secrets(&self, named: &[(&str, Word)]) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.extend(self.address, named);
        secrets
    }
}

/// The backend that promises this.
fn native(lab: &Lab, args: &[&str]) -> Command {
    let mut command = lab.volley(args);
    command.env("VOLLEY_BACKEND", "native");
    command
}

fn random() -> Word {
    random_key().expect("random numbers")
}

impl<'a> Talk<'a> {
    fn start(lab: &'a Lab) -> Self {
        let clocks = Clocks::make(lab);
        let daemon = clocks.daemon(lab, native(lab, &["--metrics", METRICS]), "wg0");
        let private = random();
        let public = public_key(&private);
        let asks = Peer::new(random(), public, "10.5.0.2");
        let answers = Peer::new(random(), public, "10.5.0.3");
        let mut talk = Self { lab, daemon, clocks, private, asks, answers };
        talk.configure();
        lab.run("ip addr add 10.5.0.1/24 dev wg0 && ip link set wg0 up");
        talk.hand_shake();
        talk.look_around();
        talk
    }

    /// By `wg set`.
    fn configure(&self) {
        let Self { lab, private, asks, answers, .. } = self;
        lab.file("private", &base64(private));
        lab.file("psk-asks", &base64(&asks.preshared_key));
        lab.file("psk-answers", &base64(&answers.preshared_key));
        lab.run(&format!(
            "wg set wg0 private-key private listen-port {PORT} \
             peer {} preshared-key psk-asks allowed-ips {} \
             peer {} preshared-key psk-answers allowed-ips {} endpoint {} persistent-keepalive 5",
            asks.name,
            asks.address,
            answers.name,
            answers.address,
            answers.end.address().expect("an address")
        ));
    }

    /// Both, and a packet each way; what passes with the handshake is gone at once.
    fn hand_shake(&mut self) {
        let answered = self.answers.end.respond().expect("the daemon begins a handshake");
        let asked = self.asks.end.initiate().expect("the daemon answers a handshake");
        let mut passing = Secrets::default();
        for (peer, secrets) in [(&mut self.answers, answered), (&mut self.asks, asked)] {
            peer.session = secrets.session;
            let host = UdpSocket::bind("10.5.0.1:0").expect("a socket");
            host.set_read_timeout(Some(PATIENCE)).expect("a limit");
            host.send_to(b"there and back", (peer.address, 9)).expect("sent");
            peer.end.echo().expect("a packet");
            let mut answer = [0; 100];
            let length = host.recv(&mut answer).expect("an answer");
            assert_eq!(&answer[..length], b"there and back");
            passing.extend("the handshake", &secrets.passing);
        }
        self.assert_gone("a handshake that is done", [passing]);
    }

    /// Everybody who may asks for everything.
    fn look_around(&self) {
        let told = self.lab.run("wg show wg0 dump; wg showconf wg0; volley show wg0");
        assert!(told.matches(&base64(&self.asks.preshared_key)).count() == 2, "{told}");
        let mut metrics = TcpStream::connect(METRICS).expect("connected");
        metrics.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("asked");
        let mut page = String::new();
        metrics.read_to_string(&mut page).expect("told");
        assert!(page.contains("volley_peers{interface=\"wg0\"} 2"), "{page}");
    }

    fn own(&self) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add("the private key", &self.private);
        secrets
    }

    fn found(&self, secrets: &Secrets) -> BTreeSet<String> {
        secrets.found_in(self.daemon.pid()).expect("its memory")
    }

    /// As soon as the daemon has let go of what it was asked: it may still do so when it has answered.
    fn assert_gone<const N: usize>(&self, after: &str, secrets: [Secrets; N]) {
        let secrets = Secrets::of(&secrets);
        let mut left = BTreeSet::new();
        let gone = || {
            left = self.found(&secrets);
            left.is_empty()
        };
        assert!(waits(PATIENCE, gone), "left in memory after {after}: {left:#?}");
    }

    /// Each is there as the bytes it is, so that nobody looks in vain; and in no other form.
    fn assert_in_use<const N: usize>(&self, secrets: [Secrets; N]) {
        let secrets = Secrets::of(&secrets);
        let mut found = BTreeSet::new();
        let is_written = |found: &String| found.contains(" in ");
        let none_is_written = || {
            found = self.found(&secrets);
            !found.iter().any(is_written)
        };
        assert!(waits(PATIENCE, none_is_written), "written down somewhere: {found:#?}");
        for name in secrets.names() {
            assert!(found.iter().any(|found| found.starts_with(&format!("{name} ("))), "{name}: {found:?}");
        }
    }
}

#[test]
fn nothing_is_left_of_a_peer_that_is_removed() {
    lab(TOOLS, |lab| {
        let talk = Talk::start(lab);
        let (asks, answers) = (&talk.asks, &talk.answers);
        let all = |peer: &Peer| [peer.given(), peer.shared(), peer.session()];
        talk.assert_in_use([talk.own()]);
        talk.assert_in_use(all(asks));
        lab.run(&format!("wg set wg0 peer {} remove", asks.name));
        talk.assert_gone("`remove`", all(asks));
        talk.assert_in_use(all(answers));
        lab.file(
            "empty",
            &format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", base64(&talk.private)),
        );
        lab.run("wg setconf wg0 empty");
        talk.assert_gone("`setconf`", all(answers));
        talk.assert_in_use([talk.own()]);
    });
}

#[test]
fn nothing_is_left_of_a_key_that_is_changed() {
    lab(TOOLS, |lab| {
        let mut talk = Talk::start(lab);
        // A client that changes a key, as slowly as nobody does, and stays.
        let old = talk.asks.given();
        talk.assert_in_use([talk.asks.given()]);
        talk.asks.preshared_key = random();
        let mut stays = UnixStream::connect(talk.daemon.socket()).expect("connected");
        let peer = hex(&talk.asks.end.public_key());
        let key = hex(&talk.asks.preshared_key);
        let request = format!("set=1\npublic_key={peer}\nupdate_only=true\npreshared_key={key}\n\n");
        for part in request.as_bytes().chunks(7) {
            stays.write_all(part).expect("sent");
        }
        let mut answer = [0; 9];
        stays.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"errno=0\n\n");
        talk.assert_gone("a change of the pre-shared key", [old]);
        talk.assert_in_use([talk.asks.given()]);

        // And one that is refused, with a key in it.
        let mut refused = Secrets::default();
        let key = random();
        refused.add("a key that was refused", &key);
        let request = format!("set=1\nprivate_key={}\nlisten_port=x\n\n", hex(&key));
        stays.write_all(request.as_bytes()).expect("sent");
        stays.read_exact(&mut [0; 11]).expect("answered");
        talk.assert_gone("a refusal", [refused]);

        let of_the_old = [
            talk.own(),
            talk.asks.shared(),
            talk.answers.shared(),
            talk.asks.session(),
            talk.answers.session(),
        ];
        talk.private = random();
        lab.file("private", &base64(&talk.private));
        lab.run("wg set wg0 private-key private");
        talk.assert_gone("a change of the private key", of_the_old);
        talk.assert_in_use([talk.own(), talk.asks.given(), talk.answers.given()]);
        drop(stays);
    });
}

#[test]
fn nothing_is_left_of_a_session_that_is_540_seconds_old_or_whose_link_is_down() {
    lab(TOOLS, |lab| {
        let mut talk = Talk::start(lab);
        let sessions = |talk: &Talk<'_>| [talk.asks.session(), talk.answers.session()];
        talk.assert_in_use(sessions(&talk));
        talk.clocks.set(541, 541);
        lab.run("wg show wg0");
        talk.assert_gone("540 s", sessions(&talk));
        talk.hand_shake();
        talk.assert_in_use(sessions(&talk));
        lab.run("ip link set wg0 down");
        talk.assert_gone("`down`", sessions(&talk));
        talk.assert_in_use([talk.own(), talk.asks.given(), talk.answers.given()]);
    });
}

#[test]
fn nothing_is_left_of_hundreds_of_keys_that_came_in_one_request() {
    lab(TOOLS, |lab| {
        let daemon = lab.daemon_from(native(lab, &[]), "wg0");
        let mut secrets = Secrets::default();
        let private = random();
        secrets.add("the private key", &private);
        let mut file = format!("[Interface]\nPrivateKey = {}\n", base64(&private));
        for number in 0..300 {
            let key = random();
            secrets.add(&format!("pre-shared key {number}"), &key);
            let peer = base64(&random());
            let _ = writeln!(file, "[Peer]\nPublicKey = {peer}\nPresharedKey = {}", base64(&key));
        }
        lab.file("many", &file);
        lab.file("none", "[Interface]\n");
        for _ in 0..2 {
            lab.run("wg setconf wg0 many");
            assert_eq!(lab.run("wg showconf wg0").matches("PresharedKey").count(), 300);
            assert!(secrets.found_in(daemon.pid()).expect("its memory").len() >= 600);
            lab.run("wg setconf wg0 none");
            let mut left = BTreeSet::new();
            let gone = || {
                left = secrets.found_in(daemon.pid()).expect("its memory");
                left.is_empty()
            };
            assert!(waits(PATIENCE, gone), "{} are left in memory: {:#?}", left.len(), left.first());
        }
    });
}

/// It does not need the keys any more, and stays as long as the daemon, which may get others.
#[test]
fn nothing_is_left_of_keys_in_an_up_that_stays() {
    lab(TOOLS, |lab| {
        let (private, preshared_key) = (random(), random());
        let mut secrets = Secrets::default();
        secrets.add("the private key", &private);
        secrets.add("the pre-shared key", &preshared_key);
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.5.0.1/24\nPostUp = true\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.6.0.0/16\n# caf\u{e9}\n",
            base64(&private),
            base64(&random()),
            base64(&preshared_key)
        );
        lab.file("wg0.conf", &text);
        // Not through what stands for `volley` in a lab: it is this very process that is looked at.
        let mut up = lab
            .command(env!("CARGO_BIN_EXE_volley"), &["up", "-f", "./wg0.conf"])
            .spawn()
            .expect("it starts");
        eventually("it is up", || lab.sh("ip route show 10.6.0.0/16 dev wg0 | grep -q .").status.success());
        let mut left = BTreeSet::new();
        let gone = || {
            left = secrets.found_in(up.id()).expect("its memory");
            left.is_empty()
        };
        assert!(waits(PATIENCE, gone), "left in memory: {left:#?}");
        kill(Pid::from_raw(up.id().cast_signed()), Signal::SIGTERM).expect("signalled");
        assert!(up.wait().expect("a child").success());
        assert!(!lab.sh("ip link show wg0").status.success(), "it takes down what it has brought up");
    });
}

#[test]
fn a_daemon_that_is_killed_by_a_fault_leaves_no_core() {
    lab(TOOLS, |lab| {
        // Whoever wants one would get one.
        let command = "ulimit -c unlimited && exec ";
        let killed = |program: &str| {
            let mut child =
                lab.command("sh", &["-c", &format!("{command}{program}")]).spawn().expect("sh runs");
            let is_it = || {
                std::fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm != "sh\n")
            };
            eventually("it is started", is_it);
            if program.contains("volley") {
                eventually("it answers", || volley::uapi::client::get(&common::socket("wg0")).is_ok());
            }
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGABRT).expect("signalled");
            let status = child.wait().expect("a child");
            assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
            status.core_dumped()
        };
        assert!(killed("sleep 60"), "this machine dumps cores, or nothing is shown here");
        assert!(!killed(&format!("{} -f wg0", env!("CARGO_BIN_EXE_volley"))));
    });
}
