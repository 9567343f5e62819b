//! Looking for secrets in the memory of a process that had them and lives on.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result, ensure};

/// What is compared with zeros at once, bytes: most pages of a stack were never used.
const PAGE: usize = 4_096;

/// Secrets, in every form that a process may have them in: raw, hexadecimal, base64, and as HMAC has its keys.
#[derive(Debug, Default)]
pub struct Secrets {
    names: Vec<String>,
    patterns: Vec<(String, Vec<u8>)>,
}

impl Secrets {
    /// One more. A copy of one half tells too much as well, so each half is looked for by itself, but for the bits
    /// that X25519 sets and clears.
    pub fn add(&mut self, name: &str, secret: &[u8; 32]) {
        self.names.push(name.to_owned());
        let base64 = base64(secret);
        for (half, bytes, digits) in [("", 1..16, 2..21), ("'s second half", 16..31, 22..41)] {
            let raw = &secret[bytes];
            let hex = raw.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            let mut form = |form: &str, pattern: Vec<u8>| {
                self.patterns.push((format!("{name}{half}{form}"), pattern));
            };
            form("", raw.to_vec());
            form(" in base64", base64.as_bytes()[digits].to_vec());
            form(" in hex", hex.to_ascii_uppercase().into_bytes());
            form(" in hex", hex.into_bytes());
            for pad in [0x36, 0x5c] {
                form(" in HMAC", raw.iter().map(|byte| byte ^ pad).collect());
            }
        }
    }

    /// All of `more`, each name after `of`.
    pub fn extend(&mut self, of: &str, more: &[(&str, [u8; 32])]) {
        for (name, secret) in more {
            self.add(&format!("{of}'s {name}"), secret);
        }
    }

    /// All of several.
    pub fn of<'a>(several: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for secrets in several {
            all.names.extend_from_slice(&secrets.names);
            all.patterns.extend_from_slice(&secrets.patterns);
        }
        all
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What of it is in the readable memory of a process, by name, and in which mapping.
    ///
    /// # Errors
    /// When this process may not look.
    pub fn found_in(&self, process: u32) -> Result<BTreeSet<String>> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).context("its mappings")?;
        let memory = File::open(format!("/proc/{process}/mem")).context("its memory")?;
        let mut by_start: Vec<Vec<&(String, Vec<u8>)>> = vec![Vec::new(); 1 << 16];
        for pattern in &self.patterns {
            by_start[start(pattern.1[0], pattern.1[1])].push(pattern);
        }
        let (mut found, mut searched) = (BTreeSet::new(), 0);
        let mut bytes = Vec::new();
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (range, mode) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let (from, to) = range.split_once('-').context("a range")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            bytes.resize(usize::try_from(to - from)?, 0);
            // Files' own bytes are no secrets; [vvar] and the like cannot be read.
            if !mode.starts_with("rw") || memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            searched += bytes.len();
            let place = fields.nth(3).unwrap_or("memory");
            for at in (0..bytes.len().saturating_sub(1)).step_by(PAGE) {
                let page = &bytes[at..bytes.len().min(at + PAGE + 1)];
                if *page == [0; PAGE + 1][..page.len()] {
                    continue;
                }
                for (offset, pair) in page.windows(2).enumerate() {
                    for (name, pattern) in &by_start[start(pair[0], pair[1])] {
                        if bytes[at + offset..].starts_with(pattern) {
                            found.insert(format!("{name} ({place} {:#x})", from as usize + at + offset));
                        }
                    }
                }
            }
        }
        ensure!(searched > 100_000, "only {searched} bytes of process {process} can be read");
        Ok(found)
    }
}

fn start(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

/// 32 bytes as people and files have them.
pub fn base64(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte)) << (24 - 8 * group.len());
        let digits = (0..=group.len()).map(|digit| char::from(DIGITS[bits >> (18 - 6 * digit) & 63]));
        text.extend(digits);
    }
    text + "="
}

/// The same in the configuration protocol.
pub fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::ffi::OsStrExt,
        process::{Command, Stdio},
    };

    use super::*;

    /// What of a secret is found in a process that has `value` in its environment.
    fn found(secret: &[u8; 32], value: &[u8]) -> BTreeSet<String> {
        let mut secrets = Secrets::default();
        secrets.add("it", secret);
        let mut command = Command::new("cat");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("VALUE", OsStr::from_bytes(value));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // When it answers, its program is what runs.
        std::io::Write::write_all(&mut child.stdin.as_ref().unwrap(), b"?").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let found = secrets.found_in(child.id()).unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        found.into_iter().map(|found| found.split(" (").next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_secret_is_found_in_every_form_and_only_where_it_is() {
        let secret: [u8; 32] = std::array::from_fn(|n| (n * 7 + 101) as u8);
        let both = |form: &str| BTreeSet::from([format!("it{form}"), format!("it's second half{form}")]);
        assert_eq!(found(&secret, &secret), both(""));
        assert_eq!(found(&secret, hex(&secret).as_bytes()), both(" in hex"));
        assert_eq!(found(&secret, hex(&secret).to_uppercase().as_bytes()), both(" in hex"));
        assert_eq!(found(&secret, base64(&secret).as_bytes()), both(" in base64"));
        assert_eq!(found(&secret, &secret.map(|byte| byte ^ 0x36)), both(" in HMAC"));
        assert_eq!(found(&secret, &secret[..17]), BTreeSet::from(["it".to_owned()]));
        assert_eq!(found(&secret, b"nothing"), BTreeSet::new());
    }

    #[test]
    fn keys_are_written_as_people_write_them() {
        assert_eq!(base64(&[0xff; 32]), format!("{}8=", "/".repeat(42)));
        let counted = std::array::from_fn(|n| n as u8 + 1);
        assert_eq!(base64(&counted), "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=");
        assert_eq!(hex(&[0xa5; 32]), "a5".repeat(32));
    }
}
