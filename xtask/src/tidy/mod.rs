//! `cargo xtask tidy`: the rules of the house that a compiler does not check.

mod graph;
mod promises;
mod sources;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cargo;

/// Checks the rules of the house.
#[derive(Args, Debug)]
pub(crate) struct Tidy {
    /// List the longest files too.
    #[arg(long)]
    sizes: bool,
}

/// A rule broken, and where.
type Finding = String;

impl Tidy {
    pub(crate) fn run(&self) -> Result<()> {
        let metadata = cargo::cargo()
            .args(["metadata", "--format-version=1", "--no-deps", "--locked", "--offline"])
            .output()
            .context("cannot run cargo metadata")?;
        ensure!(metadata.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&metadata.stderr));
        let packages = graph::parse(&metadata.stdout)?;
        let files = sources::read_all(cargo::root())?;
        let mut findings = graph::check(&packages);
        findings.extend(sources::check(&files, &packages));
        findings.extend(promises::check(&files));
        if !cargo::cargo().args(["fmt", "--all", "--check", "--", "-l"]).status()?.success() {
            findings.push("the files above are not formatted: cargo fmt".into());
        }
        if self.sizes {
            sources::longest(&files).for_each(|(path, lines)| say!("{lines:5} {path}"));
        }
        findings.iter().for_each(|finding| say!("{finding}"));
        if !findings.is_empty() {
            bail!("{} findings", findings.len());
        }
        say!("tidy: {} packages and {} files keep the rules", packages.len(), files.len());
        Ok(())
    }
}
