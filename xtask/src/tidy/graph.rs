//! Which crate may depend on which: design.md's layers, checked on what cargo says.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;

/// One package, as `cargo metadata` gives it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// `None`: anywhere; empty: nowhere (`publish = false`).
    pub(crate) publish: Option<Vec<String>>,
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Every crate of the workspace and those of ours it may use: dependencies run one way only.
const LAYERS: [(&str, &[&str]); 9] = [
    ("gso-queue", &[]),
    ("encrypt", &[]),
    ("tun-device", &[]),
    ("tunnel-core", &["gso-queue", "encrypt"]),
    ("io-runtime", &["gso-queue", "encrypt", "tun-device", "tunnel-core"]),
    ("volley", &["gso-queue", "encrypt", "tun-device", "tunnel-core", "io-runtime"]),
    ("netlab", &["tun-device"]),
    ("xtask", &["netlab", "encrypt", "tun-device", "io-runtime", "gso-queue"]),
    ("benches", &["gso-queue", "encrypt", "tun-device", "tunnel-core", "io-runtime", "netlab"]),
];

/// For tests `volley` needs the lab. A leaf's tests stand alone like the leaf.
const TEST_LAYERS: [(&str, &str); 1] = [("volley", "netlab")];

/// Crates that few may name, and who may. Tools that publish nothing are free to do I/O.
const RESTRICTED: [(&str, &[&str]); 8] = [
    ("boringtun", &["encrypt"]),
    ("ring", &["encrypt"]),
    ("x25519-dalek", &["encrypt"]),
    ("chacha20poly1305", &["encrypt"]),
    ("blake2", &["encrypt"]),
    ("tokio", &["io-runtime", "volley", "netlab", "xtask", "benches"]),
    ("flume", &["io-runtime", "volley", "netlab", "xtask", "benches"]),
    ("quinn-udp", &["io-runtime", "volley", "netlab", "xtask", "benches"]),
];

/// Errors without types are for the ends, never for libraries.
const ANYHOW: [&str; 4] = ["volley", "xtask", "netlab", "benches"];

pub(super) fn parse(metadata: &[u8]) -> Result<Vec<Package>> {
    let metadata: Metadata = serde_json::from_slice(metadata).context("cargo metadata")?;
    Ok(metadata.packages)
}

pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(|package| check_package(package, packages)).collect()
}

fn check_package(package: &Package, all: &[Package]) -> Vec<Finding> {
    let name = package.name.as_str();
    let Some((_, below)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
        return vec![format!("{name}: a new crate needs its place in the layers (xtask/src/tidy/graph.rs)")];
    };
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let other = dependency.name.as_str();
        let ours = all.iter().any(|package| package.name == other);
        let for_tests = dependency.kind.as_deref() == Some("dev");
        let allowed = below.contains(&other) || for_tests && TEST_LAYERS.contains(&(name, other));
        if ours && !allowed {
            findings.push(format!("{name} must not depend on {other}: dependencies run one way only"));
        }
        let restricted = RESTRICTED.iter().find(|(restricted, _)| *restricted == other);
        if restricted.is_some_and(|(_, users)| !users.contains(&name)) {
            findings.push(format!("{name} must not name {other}"));
        }
        if other == "anyhow" && !ANYHOW.contains(&name) {
            findings.push(format!("{name} is a library: its errors have types, not anyhow"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency { name: (*name).into(), kind: kind.map(str::to_owned) })
            .collect();
        Package { name: name.into(), publish: None, dependencies }
    }

    #[test]
    fn a_leaf_may_know_no_other_leaf_not_even_in_tests() {
        for kind in [None, Some("dev"), Some("build")] {
            let packages = [package("encrypt", &[("gso-queue", kind)]), package("gso-queue", &[])];
            assert_eq!(check(&packages).len(), 1, "{kind:?}");
        }
    }

    #[test]
    fn only_the_adapter_names_the_cryptography() {
        let packages =
            [package("encrypt", &[("boringtun", None)]), package("volley", &[("boringtun", None)])];
        assert_eq!(check(&packages), ["volley must not name boringtun"]);
    }

    #[test]
    fn a_sans_io_core_has_no_runtime_and_a_library_no_anyhow() {
        let packages = [package("tunnel-core", &[("tokio", Some("dev")), ("anyhow", None)])];
        assert_eq!(check(&packages).len(), 2);
    }

    #[test]
    fn the_lab_is_for_tests_of_the_daemon_only() {
        let netlab = package("netlab", &[]);
        assert!(check(&[package("volley", &[("netlab", Some("dev"))]), netlab.clone()]).is_empty());
        assert_eq!(check(&[package("volley", &[("netlab", None)]), netlab]).len(), 1);
    }

    #[test]
    fn an_unknown_crate_is_asked_for_its_place() {
        assert_eq!(check(&[package("helpers", &[])]).len(), 1);
    }
}
