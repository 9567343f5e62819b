//! Which names an interface may have.

use nix::libc::IFNAMSIZ;

use crate::Error;

/// The longest name, bytes: `IFNAMSIZ` (linux/if.h) counts the terminating zero.
const MAX_LEN: usize = IFNAMSIZ - 1;

/// Checks a name as the kernel would, and more strictly where only a mistake can be meant: an option such
/// as `--help` must never become an interface. One `%d` stands for a number that the kernel chooses.
///
/// # Errors
/// [`Error::BadName`] with the rule that the name breaks.
pub fn check_interface_name(name: &str) -> Result<(), Error> {
    match broken_rule(name) {
        Some(rule) => Err(Error::BadName { name: name.into(), rule }),
        None => Ok(()),
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    let is_separator = |c: char| c == '/' || c == ':';
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > MAX_LEN {
        return Some("it is longer than 15 bytes");
    }
    if name.starts_with('-') {
        return Some("it starts with `-`, as an option does");
    }
    if name == "." || name == ".." {
        return Some("it is a directory's name");
    }
    if name.contains(is_separator) {
        return Some("it holds `/` or `:`");
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some("it holds white space or control characters");
    }
    let after_number = name.replacen("%d", "", 1);
    after_number.contains('%').then_some("it holds `%` other than one `%d`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_takes_are_taken() {
        for name in ["wg0", "a", "tun%d", "exactly15bytes_", "wg-home.lan", "été"] {
            assert!(check_interface_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_cannot_be_meant_are_refused_with_the_rule() {
        for name in [
            "",
            "--help",
            "-f",
            "sixteen_bytes_xx",
            "a/b",
            "a:1",
            "a b",
            "a\n",
            "a\0b",
            ".",
            "..",
            "%s",
            "%d%d",
        ] {
            let error = check_interface_name(name).unwrap_err();
            assert!(matches!(error, Error::BadName { .. }), "{name:?}");
            assert!(error.fix().is_some());
        }
    }
}
