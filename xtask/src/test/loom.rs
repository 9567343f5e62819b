//! What threads share is tried in every order in which they can meet: the tests named `loom…`, built with `--cfg loom`.

use std::{env, fs};

use anyhow::{Context, Result};

use super::Pass;
use crate::cargo;

/// A pass over the crates that have such tests.
pub(super) fn pass() -> Result<Pass> {
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    let variables = vec![
        ("RUSTFLAGS", format!("{flags} --cfg loom")),
        // Millions of orders take their time.
        ("CARGO_PROFILE_DEV_OPT_LEVEL", "2".to_owned()),
    ];
    // With other flags everything is built anew, and the next pass should not have to do it again.
    let target = cargo::root().join("target/loom");
    let mut arguments = vec!["--lib".to_owned(), format!("--target-dir={}", target.display())];
    arguments.extend(crates()?.iter().map(|name| format!("--package={name}")));
    arguments.push("loom".to_owned());
    Ok(Pass { name: "loom".to_owned(), arguments, variables })
}

/// Those that depend on loom. It is there for these builds alone.
fn crates() -> Result<Vec<String>> {
    let directory = cargo::root().join("crates");
    let mut found = Vec::new();
    for folder in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let folder = folder?;
        let manifest = fs::read_to_string(folder.path().join("Cargo.toml")).unwrap_or_default();
        if manifest.contains("cfg(loom)") {
            found.push(folder.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_whose_keys_threads_share_is_among_them() {
        assert!(crates().unwrap().contains(&"encrypt".to_owned()));
    }
}
