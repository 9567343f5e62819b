//! Which tests run again in each [environment](netlab::Environment).

use std::fs;

use anyhow::{Context, Result};

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

/// The others, by cargo's names.
pub(super) fn repeated() -> Result<Vec<String>> {
    let directory = cargo::root().join("crates/volley/tests");
    let files = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let files: Vec<_> = files.collect::<Result<_, _>>()?;
    let names =
        files.iter().filter_map(|file| file.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned));
    let mut names: Vec<_> = names.filter(|name| ONCE.iter().all(|(once, _)| once != name)).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cargo takes a test's name for every package that has one.
    #[test]
    fn no_other_package_has_tests_of_these_names() {
        for name in repeated().unwrap() {
            let crates = fs::read_dir(cargo::root().join("crates")).unwrap();
            let owners = crates
                .filter(|owner| owner.as_ref().unwrap().path().join(format!("tests/{name}.rs")).exists());
            assert_eq!(owners.count(), 1, "{name}");
        }
    }

    #[test]
    fn the_daemons_life_is_repeated_and_traffic_is_not() {
        let repeated = repeated().unwrap();
        for name in ["background", "start_and_end", "privileges", "up_down", "wg_quick", "wg_tool"] {
            assert!(repeated.iter().any(|repeated| repeated == name), "{name}");
        }
        for (once, why) in ONCE.iter().copied() {
            assert!(cargo::root().join(format!("crates/volley/tests/{once}.rs")).exists(), "{once}: {why}");
            assert!(!repeated.iter().any(|repeated| repeated == once), "{once}");
        }
    }
}
