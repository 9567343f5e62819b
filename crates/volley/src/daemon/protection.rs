//! A build that protects nothing serves nobody by mistake.

use std::env;

use encrypt::transport::HAS_CIPHER;
use tracing::warn;

use crate::Trouble;

/// Says that it is meant so.
const NO_CIPHER: &str = "VOLLEY_NO_CIPHER";

/// Refuses to go on in a build without a cipher (see [`HAS_CIPHER`]), unless told that it is meant so.
pub(super) fn ensure() -> Result<(), Trouble> {
    check(HAS_CIPHER, env::var_os(NO_CIPHER).is_some_and(|value| value == "1"))
}

fn check(has_cipher: bool, is_meant: bool) -> Result<(), Trouble> {
    if has_cipher {
        return Ok(());
    }
    if !is_meant {
        let what = "this build encrypts nothing: it is for measuring alone";
        let fix = format!("build it without --cfg volley_no_cipher; or, to measure, set {NO_CIPHER}=1");
        return Err(Trouble::new(what).fix(fix));
    }
    warn!("NOTHING IS ENCRYPTED: this build is for measuring alone");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cipher_it_must_be_told_so() {
        assert!(check(true, false).is_ok() && check(true, true).is_ok() && check(false, true).is_ok());
        let refusal = check(false, false).unwrap_err().to_string();
        assert!(refusal.contains("encrypts nothing") && refusal.contains("VOLLEY_NO_CIPHER=1"), "{refusal}");
    }

    #[test]
    fn this_build_has_one() {
        ensure().unwrap();
    }
}
