//! Routing tables by the names that iproute2 knows.

use std::{fs, path::Path};

use crate::Trouble;

/// Where iproute2 has its names. What is in the first that has it counts.
const DIRECTORIES: [&str; 3] = ["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/iproute2"];

/// Those that need no file (linux/rtnetlink.h).
const BUILT_IN: [(&str, u32); 3] = [("default", 253), ("main", 254), ("local", 255)];

/// A table's number, by name or itself, as `ip route … table` takes it.
pub(super) fn number(table: &str) -> Result<u32, Trouble> {
    number_by(&DIRECTORIES.map(Path::new), table).ok_or_else(|| {
        Trouble::new(format!("there is no routing table `{table}`"))
            .fix("use its number, or name it in /etc/iproute2/rt_tables")
    })
}

fn number_by(directories: &[&Path], table: &str) -> Option<u32> {
    let built_in = || BUILT_IN.iter().find(|(name, _)| *name == table).map(|(_, number)| *number);
    texts(directories).iter().find_map(|text| named(text, table)).or_else(built_in).or_else(|| parse(table))
}

/// The main file of names, and what others have put beside it.
fn texts(directories: &[&Path]) -> Vec<String> {
    let main = directories.iter().find_map(|directory| fs::read_to_string(directory.join("rt_tables")).ok());
    let beside = directories.iter().filter_map(|directory| fs::read_dir(directory.join("rt_tables.d")).ok());
    let mut files: Vec<_> = beside.flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    let beside = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    main.into_iter().chain(beside).collect()
}

fn named(text: &str, table: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let line = line.split_once('#').map_or(line, |(content, _)| content);
        let mut words = line.split_whitespace();
        let number = words.next()?;
        (words.next()? == table).then(|| parse(number)).flatten()
    })
}

/// As C's `strtoul` reads a number whose base it says itself.
fn parse(text: &str) -> Option<u32> {
    let (digits, base) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // Rust's own parser also takes a sign.
    digits.chars().all(|digit| digit.is_digit(base)).then(|| u32::from_str_radix(digits, base).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_the_base_that_they_say() {
        for (text, number) in [("0", 0), ("77", 77), ("0x4d", 77), ("0X4D", 77), ("0115", 77)] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "0x", "08", "7a", "-1", "+1", "4294967296", " 7"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_line_gives_a_number_its_name() {
        let text = "# 1 comment\n90 office # why\n\n 0x5b\thex\nnonsense\n92\n90 second";
        assert_eq!(named(text, "office"), Some(90));
        assert_eq!(named(text, "hex"), Some(91));
        assert_eq!(named(text, "second"), Some(90));
        for unknown in ["comment", "why", "nonsense", "92", ""] {
            assert_eq!(named(text, unknown), None, "{unknown}");
        }
    }

    #[test]
    fn without_any_file_the_kernels_own_tables_have_names() {
        let nowhere = [Path::new("/nowhere")];
        assert_eq!(number_by(&nowhere, "main"), Some(254));
        assert_eq!(number_by(&nowhere, "local"), Some(255));
        assert_eq!(number_by(&nowhere, "0xff"), Some(255));
        assert_eq!(number_by(&nowhere, "office"), None);
    }
}
