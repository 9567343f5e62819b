//! What is known about particular kernels.

use std::ops::RangeInclusive;

/// Linux releases that corrupt UDP GSO trains of equal segments.
const GSO_CORRUPTED: RangeInclusive<Release> = Release(7, 0, 0)..=Release(7, 1, 4);

/// A kernel release: the three leading numbers of `uname -r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(u32, u32, u32);

impl Release {
    /// The running kernel's; `None` if it does not say, or says it in a way we do not understand.
    pub fn running() -> Option<Self> {
        let name = nix::sys::utsname::uname().ok()?;
        Self::parse(name.release().to_str()?)
    }

    /// Parses what `uname -r` prints: `6.18.44-fc-v669`, `7.1-rc3`, `6.8.0+`.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.splitn(3, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse::<u32>()
        });
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self(major, minor, patch))
    }

    /// True when it is one of Linux 7.0 to 7.1.4, which corrupt UDP GSO trains: GSO must be off by default.
    pub fn corrupts_gso(self) -> bool {
        GSO_CORRUPTED.contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse_as_distributions_write_them() {
        assert_eq!(Release::parse("6.18.44-fc-v669"), Some(Release(6, 18, 44)));
        assert_eq!(Release::parse("7.1-rc3"), Some(Release(7, 1, 0)));
        assert_eq!(Release::parse("5.15.0+"), Some(Release(5, 15, 0)));
        assert_eq!(Release::parse("7.0.3.el11"), Some(Release(7, 0, 3)));
        assert_eq!(Release::parse("six"), None);
        assert_eq!(Release::parse(""), None);
        assert!(Release::running().is_some());
    }

    #[test]
    fn gso_is_distrusted_from_7_0_to_7_1_4() {
        let distrusted = |text| Release::parse(text).is_some_and(Release::corrupts_gso);
        assert!(!distrusted("6.19.9"));
        assert!(distrusted("7.0-rc1"));
        assert!(distrusted("7.0.99"));
        assert!(distrusted("7.1.4-generic"));
        assert!(!distrusted("7.1.5"));
        assert!(!distrusted("7.2"));
        assert!(!distrusted("6.18.44"));
    }
}
