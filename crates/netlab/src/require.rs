//! What a test needs of the machine, and what happens when the machine lacks it: the test says so where
//! `cargo xtask test` finds it, and fails outright when `VOLLEY_REQUIRE_ALL=1`.

use std::{fs::OpenOptions, io::Write, path::PathBuf};

use crate::{daemon::Implementation, namespace};

/// Set to `1` (by `.ci/run`), a test that cannot run fails.
pub const REQUIRE_ALL: &str = "VOLLEY_REQUIRE_ALL";
/// Names a file that collects one `NOT RUN: …` line per test that could not run.
pub const NOT_RUN_FILE: &str = "VOLLEY_NOT_RUN_FILE";

/// Names a file that collects one `DOES NOT APPLY: …` line per test that has nothing to test in the environment of
/// the run.
pub const DOES_NOT_APPLY_FILE: &str = "VOLLEY_DOES_NOT_APPLY_FILE";

/// Something a test cannot do without.
#[derive(Clone, Debug)]
pub enum Need {
    /// Network namespaces and `/dev/net/tun`, as root.
    Namespaces,
    /// Another WireGuard implementation, by name (`wireguard-go`, `boringtun-cli`, `gotatun`).
    Peer(&'static str),
    /// A program on the path (`wg`, `ip`).
    Program(&'static str),
}

impl Need {
    /// Why it is not met; `None` when it is.
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::Namespaces => namespace::unavailable(),
            Self::Peer(name) => Implementation::find(name)
                .is_none()
                .then(|| format!("no {name} in $VOLLEY_PEERS_DIR, its default or on the path")),
            Self::Program(name) => find_program(name).is_none().then(|| format!("no {name} on the path")),
        }
    }
}

/// Leaves the test early, loudly, when the machine lacks what it needs. See [`Need`].
///
/// ```no_run
/// # fn main() {
/// netlab::require!(netlab::Need::Namespaces, netlab::Need::Peer("wireguard-go"));
/// // … the test …
/// # }
/// ```
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        if !$crate::can_run(&[$($need),+]) {
            return;
        }
    };
}

/// Whether everything needed is here. If not, records the running test (by thread name) as not run.
///
/// # Panics
/// When something is missing and `VOLLEY_REQUIRE_ALL=1`.
pub fn can_run(needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter_map(Need::missing).collect();
    if missing.is_empty() {
        return true;
    }
    not_run(&running_test(), &missing.join("; "));
    false
}

/// Records that `what` did not run.
///
/// # Panics
/// When `VOLLEY_REQUIRE_ALL=1`, or when the side file cannot be written: silence is the one forbidden answer.
pub fn not_run(what: &str, why: &str) {
    let line = format!("NOT RUN: {what}: {why}");
    assert!(std::env::var(REQUIRE_ALL).as_deref() != Ok("1"), "{line} ({REQUIRE_ALL}=1)");
    record(NOT_RUN_FILE, &line);
}

/// Records that the running test has nothing to test in an environment. That is no failure, and never silent.
pub(crate) fn does_not_apply(environment: &str, why: &str) {
    record(DOES_NOT_APPLY_FILE, &format!("DOES NOT APPLY: {} in {environment}: {why}", running_test()));
}

/// Harnesses name a test's thread after the test.
fn running_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// Prints a line, and appends it to the file that a variable names.
fn record(variable: &str, line: &str) {
    println!("{line}");
    if let Some(path) = std::env::var_os(variable) {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The full path of a program on `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|folder| folder.join(name)).find(|file| file.is_file())
}
