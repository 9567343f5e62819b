//! Who is measured.

use std::{path::Path, process::Command, str::FromStr};

use anyhow::{Context, Error, Result, ensure};
use netlab::{FarCipher, Implementation};

/// A daemon, and what its peers seal with.
#[derive(Clone, Debug)]
pub(super) struct Contestant {
    pub(super) implementation: Implementation,
    pub(super) cipher: FarCipher,
}

/// What a build without a cipher wants to be told before it starts.
const NO_CIPHER: &str = "VOLLEY_NO_CIPHER";

impl Contestant {
    pub(super) fn new(implementation: Implementation) -> Self {
        Self { implementation, cipher: FarCipher::WireGuard }
    }

    /// Volley's own backend in a build whose cipher does nothing.
    pub(super) fn without_cipher(volley: &Path) -> Result<Self> {
        ensure_refuses(volley)?;
        let implementation = Implementation::volley(volley, &["--backend=native"])
            .with_environment(NO_CIPHER, "1")
            .named("volley, free cipher");
        Ok(Self { implementation, cipher: FarCipher::None })
    }

    pub(super) fn name(&self) -> &str {
        self.implementation.name()
    }
}

/// Such a daemon must not be of use to anybody by mistake.
fn ensure_refuses(volley: &Path) -> Result<()> {
    let output = Command::new(volley)
        .args(["--foreground", "wg-nothing"])
        .env_remove(NO_CIPHER)
        .output()
        .with_context(|| volley.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains(NO_CIPHER),
        "a build without a cipher starts as if it had one: {said}"
    );
    Ok(())
}

/// Two columns of one name could not be told apart.
pub(super) fn ensure_distinct(contestants: &[Contestant]) -> Result<()> {
    for (number, contestant) in contestants.iter().enumerate() {
        let name = contestant.name();
        let is_new = contestants[..number].iter().all(|earlier| earlier.name() != name);
        ensure!(is_new, "two daemons are called {name:?}: give one another name with --peer or --variant");
    }
    Ok(())
}

/// `--variant name='[VARIABLE=VALUE …] [--option …]'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    name: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Default for Variant {
    fn default() -> Self {
        Self { name: "volley".into(), environment: Vec::new(), arguments: Vec::new() }
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(argument: &str) -> Result<Self> {
        const FORM: &str = "say name='[VARIABLE=VALUE …] [--option …]'";
        let (name, how) = argument.split_once('=').context(FORM)?;
        ensure!(!name.trim().is_empty(), "{FORM}: the name is missing");
        let mut words = how.split_whitespace().peekable();
        let mut environment = Vec::new();
        while let Some(word) = words.next_if(|word| !word.starts_with('-')) {
            let (variable, value) = word.split_once('=').with_context(|| format!("{FORM}, not {word:?}"))?;
            environment.push((variable.to_owned(), value.to_owned()));
        }
        Ok(Self { name: name.trim().to_owned(), environment, arguments: words.map(str::to_owned).collect() })
    }
}

impl Variant {
    pub(super) fn implementation(&self, volley: &Path) -> Implementation {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let volley = Implementation::volley(volley, &arguments).named(&self.name);
        self.environment
            .iter()
            .fold(volley, |volley, (variable, value)| volley.with_environment(variable, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_then_variables_then_options() {
        let variant: Variant = "crew, native=VOLLEY_CREW=1 --backend native --batch=64".parse().unwrap();
        assert_eq!(variant.name, "crew, native");
        assert_eq!(variant.environment, [("VOLLEY_CREW".to_owned(), "1".to_owned())]);
        assert_eq!(variant.arguments, ["--backend", "native", "--batch=64"]);
        let plain: Variant = "volley=".parse().unwrap();
        assert_eq!(plain, Variant::default());
        for wrong in ["native", "=--backend native", "native=backend native"] {
            assert!(wrong.parse::<Variant>().unwrap_err().to_string().contains("say name="), "{wrong}");
        }
    }

    #[test]
    fn two_of_one_name_are_refused() {
        let one = Contestant::new(Implementation::template("volley", "x {iface}").unwrap());
        assert!(ensure_distinct(std::slice::from_ref(&one)).is_ok());
        assert!(ensure_distinct(&[one.clone(), one]).is_err());
    }
}
