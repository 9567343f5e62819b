//! Every choice of features that people make is built: tests alone have all of them at once.

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// What is chosen beside the default, which everything else builds: none of it has boringtun.
const CHOICES: [&[&str]; 3] = [
    &["--package=encrypt", "--no-default-features"],
    &["--package=tunnel-core"], // names no backend
    &["--package=volley", "--no-default-features"],
];

/// Builds them, and looks at what they are built of.
pub(super) fn check() -> Result<()> {
    for choice in CHOICES {
        let name = choice.join(" ");
        say!("{name}");
        let check = cargo::cargo().args(["check", "--quiet"]).args(choice).status();
        ensure!(check.context("cannot run cargo")?.success(), "cargo check {name} failed");
        let tree = ["tree", "--prefix=none", "--edges=normal,build"];
        let tree = cargo::cargo().args(tree).args(choice).output().context("cannot run cargo")?;
        ensure!(tree.status.success(), "cargo tree {name} failed");
        let tree = String::from_utf8(tree.stdout).context("cargo's tree")?;
        let stranger = tree.lines().find(|line| line.starts_with("boringtun"));
        ensure!(stranger.is_none(), "{name} brings {} along", stranger.unwrap_or_default());
    }
    Ok(())
}
