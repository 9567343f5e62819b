//! Which crate may depend on which: design.md's layers, checked on what cargo says.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;

/// One package, as `cargo metadata` gives it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// `None`: anywhere; empty: nowhere (`publish = false`).
    publish: Option<Vec<String>>,
    dependencies: Vec<Dependency>,
}

impl Package {
    pub(super) fn is_published(&self) -> bool {
        self.publish.as_ref().is_none_or(|registries| !registries.is_empty())
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    /// `*`: no version is named.
    req: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Every crate of the workspace and those of ours it may use: dependencies run one way only.
const LAYERS: [(&str, &[&str]); 11] = [
    ("gso-queue", &[]),
    ("encrypt", &[]),
    ("tun-device", &[]),
    ("tunnel-core", &["gso-queue", "encrypt"]),
    ("io-runtime", &["gso-queue", "encrypt", "tun-device", "tunnel-core"]),
    ("volley", &["gso-queue", "encrypt", "tun-device", "tunnel-core", "io-runtime"]),
    ("allocation-counter", &[]),
    ("seeds", &[]),
    ("netlab", &["encrypt", "tun-device"]),
    ("xtask", &["netlab", "encrypt", "tun-device", "io-runtime", "gso-queue"]),
    ("benches", &["gso-queue", "encrypt", "tun-device", "tunnel-core", "io-runtime", "netlab"]),
];

/// Who needs what for tests alone: `volley` the lab, whoever promises to allocate nothing or to keep nothing the counter, and
/// who is tried with thousands of seeds their runner. A leaf's tests know no other leaf.
const TEST_LAYERS: [(&str, &str); 9] = [
    ("volley", "netlab"),
    ("encrypt", "allocation-counter"),
    ("encrypt", "seeds"),
    ("tunnel-core", "allocation-counter"),
    ("tunnel-core", "seeds"),
    ("gso-queue", "allocation-counter"),
    ("tun-device", "allocation-counter"),
    ("io-runtime", "allocation-counter"),
    ("benches", "allocation-counter"),
];

/// Crates that few may name, and who may. Tools that publish nothing are free to do I/O.
const RESTRICTED: [(&str, &[&str]); 9] = [
    ("boringtun", &["encrypt"]),
    ("ring", &["encrypt", "benches"]),        // measured against
    ("x25519-dalek", &["encrypt", "netlab"]), // whose peer tells its secrets
    ("chacha20poly1305", &["encrypt", "netlab"]),
    ("blake2", &["encrypt", "netlab"]),
    ("hmac", &["encrypt", "netlab"]),
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
    if package.is_published() && TEST_LAYERS.iter().any(|(_, helper)| *helper == name) {
        findings.push(format!("{name} is for tests: its manifest must say publish = false"));
    }
    for dependency in &package.dependencies {
        let other = dependency.name.as_str();
        let ours = all.iter().find(|package| package.name == other);
        let for_tests = dependency.kind.as_deref() == Some("dev");
        // A crate that names itself chooses the features that its tests are built with.
        let is_test_layer = other == name || TEST_LAYERS.contains(&(name, other));
        let allowed = below.contains(&other) || for_tests && is_test_layer;
        if ours.is_some() && !allowed {
            findings.push(format!("{name} must not depend on {other}: dependencies run one way only"));
        }
        // A dev-dependency without a version is left out of what cargo publishes; one with a version is not.
        let is_missing_downstream = package.is_published() && ours.is_some_and(|ours| !ours.is_published());
        if is_missing_downstream && dependency.req != "*" {
            findings
                .push(format!("{name} must name {other} by its path alone: nobody could get that version"));
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
            .map(|(name, kind)| Dependency {
                name: (*name).into(),
                kind: kind.map(str::to_owned),
                req: "*".into(),
            })
            .collect();
        Package { name: name.into(), publish: None, dependencies }
    }

    fn unpublished(name: &str) -> Package {
        Package { publish: Some(Vec::new()), ..package(name, &[]) }
    }

    #[test]
    fn a_leaf_may_know_no_other_leaf_not_even_in_tests() {
        for kind in [None, Some("dev"), Some("build")] {
            let packages = [package("encrypt", &[("gso-queue", kind)]), package("gso-queue", &[])];
            assert_eq!(check(&packages).len(), 1, "{kind:?}");
        }
    }

    #[test]
    fn a_crate_may_choose_its_own_features_for_its_tests() {
        assert_eq!(check(&[package("encrypt", &[("encrypt", Some("dev"))])]), Vec::<Finding>::new());
        assert_eq!(check(&[package("encrypt", &[("encrypt", None)])]).len(), 1);
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
        let netlab = unpublished("netlab");
        assert!(check(&[package("volley", &[("netlab", Some("dev"))]), netlab.clone()]).is_empty());
        assert_eq!(check(&[package("volley", &[("netlab", None)]), netlab]).len(), 1);
    }

    #[test]
    fn the_allocation_counter_is_for_tests_only() {
        for user in ["gso-queue", "tun-device", "io-runtime", "benches"] {
            let uses = |kind| {
                check(&[package(user, &[("allocation-counter", kind)]), unpublished("allocation-counter")])
            };
            assert_eq!(uses(Some("dev")), Vec::<Finding>::new(), "{user}");
            for kind in [None, Some("build")] {
                let expected =
                    format!("{user} must not depend on allocation-counter: dependencies run one way only");
                assert_eq!(uses(kind), [expected], "{kind:?}");
            }
        }
        let stranger = package("volley", &[("allocation-counter", Some("dev"))]);
        assert_eq!(check(&[stranger, unpublished("allocation-counter")]).len(), 1);
    }

    #[test]
    fn a_crate_for_tests_is_not_published_and_not_asked_for_downstream() {
        assert_eq!(check(&[package("allocation-counter", &[])]).len(), 1);
        let mut leaf = package("gso-queue", &[("allocation-counter", Some("dev"))]);
        leaf.dependencies[0].req = "^0.1.0".into();
        let counter = unpublished("allocation-counter");
        assert_eq!(check(&[leaf.clone(), counter.clone()]).len(), 1);
        leaf.publish = Some(Vec::new());
        assert_eq!(check(&[leaf, counter]), Vec::<Finding>::new());
    }

    #[test]
    fn an_unknown_crate_is_asked_for_its_place() {
        assert_eq!(check(&[package("helpers", &[])]).len(), 1);
    }
}
