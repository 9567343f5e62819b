//! Which tests run again in each [environment](Environment).

use std::fs;

use anyhow::{Context, Result};
use io_runtime::Backend;
use netlab::Environment;

use crate::cargo;

/// Why tests of traffic run once: the environment decides how a daemon starts, lives and ends, not how it seals.
const TRAFFIC: &str = "minutes of traffic, which no environment changes";

/// The files of the daemon's tests that do not, and why. A new file does, unless it is added here.
const ONCE: &[(&str, &str)] = &[
    ("clocks", "preloads clocks into the daemon, which `env -i` drops; they jump alike in all of them"),
    ("config_mutants", "about the parser, which knows nothing of its environment"),
    ("delayed_path", TRAFFIC),
    ("e2e_traffic", TRAFFIC),
    ("interop_boringtun", TRAFFIC),
    ("interop_gotatun", TRAFFIC),
    ("interop_wireguard_go", TRAFFIC),
    ("one_end", TRAFFIC),
    ("refused_calls", "each of its daemons runs under strace, which is an environment of its own"),
    ("scale", "its limits of time are the daemon's, and entering an environment takes its own"),
    ("secrets_in_memory", "preloads clocks as `clocks` does, and reads the memory of what it starts itself"),
    ("user_namespace", "makes an environment of its own"),
    ("signals", "it starts hundreds of daemons, each in the environment that it is about"),
    ("slow_peers", TRAFFIC),
    ("up_killed", "`strace` counts the calls of a program that nothing is put before, hundreds of times"),
    ("uplinks", "about the routes of its network namespaces, which are the same in all of them"),
    ("wire_correctness", TRAFFIC),
];

/// The files whose tests are the same with another backend, and why.
const WHATEVER_THE_BACKEND: &[(&str, &str)] = &[
    ("config_mutants", "about the parser, which knows nothing of it"),
    ("interop_boringtun", NAMED),
    ("interop_gotatun", NAMED),
    ("interop_wireguard_go", NAMED),
    ("secrets_in_memory", "about the native backend: what boringtun keeps in memory is its own"),
    ("up_killed", "counts the calls of `volley up`, which is another process than the backend's"),
];

const NAMED: &str = "each of its tests names its backend";

/// What the processes of an environment are told besides its name.
pub(super) fn variables(environment: Environment) -> Option<(&'static str, String)> {
    let other = match Backend::default() {
        Backend::Boringtun => Backend::Native,
        Backend::Native => Backend::Boringtun,
    };
    (environment == Environment::OtherBackend).then(|| (netlab::BACKEND, other.to_string()))
}

/// The tests that run in an environment, by cargo's names.
pub(super) fn repeated(environment: Environment) -> Result<Vec<String>> {
    let left_out = match environment {
        Environment::OtherBackend => WHATEVER_THE_BACKEND,
        _ => ONCE,
    };
    let directory = cargo::root().join("crates/volley/tests");
    let files = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let files: Vec<_> = files.collect::<Result<_, _>>()?;
    let names =
        files.iter().filter_map(|file| file.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned));
    let mut names: Vec<_> =
        names.filter(|name| left_out.iter().all(|(left_out, _)| left_out != name)).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cargo takes a test's name for every package that has one.
    #[test]
    fn no_other_package_has_tests_of_these_names() {
        for name in Environment::ALL.into_iter().flat_map(|environment| repeated(environment).unwrap()) {
            let crates = fs::read_dir(cargo::root().join("crates")).unwrap();
            let owners = crates
                .filter(|owner| owner.as_ref().unwrap().path().join(format!("tests/{name}.rs")).exists());
            assert_eq!(owners.count(), 1, "{name}");
        }
    }

    #[test]
    fn the_daemons_life_is_repeated_and_traffic_is_not() {
        let repeated = repeated(Environment::EnvI).unwrap();
        for name in ["background", "start_and_end", "privileges", "up_down", "wg_quick", "wg_tool"] {
            assert!(repeated.iter().any(|repeated| repeated == name), "{name}");
        }
        for (once, why) in ONCE.iter().copied() {
            assert!(cargo::root().join(format!("crates/volley/tests/{once}.rs")).exists(), "{once}: {why}");
            assert!(!repeated.iter().any(|repeated| repeated == once), "{once}");
        }
    }

    #[test]
    fn the_other_backend_is_tried_with_traffic_too() {
        let repeated = repeated(Environment::OtherBackend).unwrap();
        for name in ["clocks", "e2e_traffic", "slow_peers", "start_and_end", "traffic", "wire_correctness"] {
            assert!(repeated.iter().any(|repeated| repeated == name), "{name}");
        }
        for (left_out, why) in WHATEVER_THE_BACKEND {
            assert!(
                cargo::root().join(format!("crates/volley/tests/{left_out}.rs")).exists(),
                "{left_out}: {why}"
            );
        }
        let (_, other) = variables(Environment::OtherBackend).unwrap();
        assert_ne!(other, Backend::default().to_string());
        assert_eq!(variables(Environment::EnvI), None);
    }
}
