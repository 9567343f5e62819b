//! Calling cargo, and knowing where the workspace is.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The cargo that runs us, in the workspace's root.
///
/// `cargo run` tells us about our own package in the environment. A cargo that inherits that finds the build
/// scripts' environment changed and builds half the workspace again, each time one calls it here and then by hand.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let inherited = std::env::vars_os().map(|(name, _)| name);
    inherited.filter(|name| name.to_str().is_some_and(ours)).for_each(|name| {
        command.env_remove(name);
    });
    command.current_dir(root());
    command
}

/// Builds the daemon in release and gives its path.
pub(crate) fn build_volley() -> Result<PathBuf> {
    tell!("Building volley in release …");
    build(cargo())
}

/// The same with a cipher that does nothing, apart from every other build.
pub(crate) fn build_volley_without_cipher() -> Result<PathBuf> {
    tell!("Building a volley that protects nothing …");
    let mut cargo = cargo();
    cargo.env("CARGO_TARGET_DIR", root().join("target/no-cipher")).env("RUSTFLAGS", "--cfg volley_no_cipher");
    build(cargo)
}

fn build(mut cargo: Command) -> Result<PathBuf> {
    let arguments = ["build", "--release", "--package", "volley", "--bin", "volley"];
    let output = cargo
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo {} failed", arguments.join(" "));
    let messages = String::from_utf8(output.stdout).context("cargo's messages")?;
    messages.lines().find_map(executable).context("cargo built no volley")
}

fn executable(message: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    serde_json::from_str::<Message>(message).ok()?.executable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_the_messages() {
        let artifact = r#"{"reason":"compiler-artifact","executable":"/t/volley","fresh":true}"#;
        assert_eq!(executable(artifact), Some(PathBuf::from("/t/volley")));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(executable(r#"{"reason":"build-finished"}"#), None);
    }
}
