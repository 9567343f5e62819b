//! `docs/protocol.md` names, for each promise of the protocol, the tests that show it: they exist.

use super::{Finding, sources::File};

const PAGE: &str = "docs/protocol.md";

/// Where the paths in the page begin.
const ROOT: &str = "crates/";

/// Every line of the page's tables names a test at least, and every test that it names is one.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        return vec![format!("{PAGE}: the page of promises is missing")];
    };
    let mut findings = Vec::new();
    for (number, line) in promises(&page.text) {
        let above = number.checked_sub(2).and_then(|above| page.text.lines().nth(above));
        if !above.is_some_and(|above| above.starts_with('|')) {
            findings.push(page.finding(number, "a line outside of its table"));
        }
        let mut tests = named_tests(line).peekable();
        if tests.peek().is_none() {
            findings.push(page.finding(number, "a promise without a test"));
        }
        for (path, name) in tests {
            let found = files.iter().find(|file| file.path.strip_prefix(ROOT) == Some(path));
            match found {
                None => findings.push(page.finding(number, &format!("there is no {ROOT}{path}"))),
                Some(file) if !has_test(&file.text, name) => {
                    findings.push(page.finding(number, &format!("{ROOT}{path} has no test {name}")));
                }
                Some(_) => {}
            }
        }
    }
    findings
}

/// The lines of tables, with their numbers, but for headings and the rules below them.
fn promises(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = page.lines().collect();
    let is_row = |line: &str| line.starts_with("| ");
    let is_rule = |line: &str| line.starts_with("|-");
    let numbers: Vec<_> = (0..lines.len())
        .filter(|at| is_row(lines[*at]) && !lines.get(at + 1).is_some_and(|next| is_rule(next)))
        .collect();
    numbers.into_iter().map(move |at| (at + 1, lines[at]))
}

/// Path and name of everything written as `` `path.rs::name` ``; `` `::name` `` is in the file named before it.
fn named_tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut file = "";
    line.split('`').skip(1).step_by(2).filter_map(move |quoted| {
        let (path, name) = quoted.split_once("::")?;
        if !path.is_empty() {
            file = path.ends_with(".rs").then_some(path)?;
        }
        Some((file, name))
    })
}

/// True if a file has a test of this name: marked as one, listed for a macro that makes tests of generic functions, or
/// printed by a test that is a program of its own.
fn has_test(text: &str, name: &str) -> bool {
    let is_definition = |line: &str| {
        let rest = line.trim_start().strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    let lines: Vec<&str> = text.lines().collect();
    let Some(at) = lines.iter().position(|line| is_definition(line)) else {
        return text.contains(&format!("(\"{name}\", "));
    };
    let attributes = lines[..at].iter().rev().take_while(|line| !line.trim().is_empty());
    let is_marked = attributes.into_iter().any(|line| line.trim() == "#[test]");
    let is_listed = |line: &&str| {
        let mut words = line.split(|character: char| !(character.is_alphanumeric() || character == '_'));
        let is_list = line.trim().trim_end_matches(',') == name || line.contains('[');
        is_list && words.any(|word| word == name)
    };
    is_marked || lines.iter().any(is_listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: &str = "\
for_backend!(native, X, [
    listed,
]);
for_backend!(native, X, [alone]);

#[test]
fn marked() {}

fn listed<I>() {}

fn alone<I>() {}

fn helper() {}
";

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn findings(rows: &str) -> Vec<Finding> {
        let page = format!("# Page\n\n| promise | test |\n|---|---|\n{rows}\n\nNot `a.rs::in` a table.\n");
        check(&[file(PAGE, &page), file("crates/x/tests/a.rs", TESTS)])
    }

    #[test]
    fn tests_that_exist_are_found_however_they_are_made() {
        assert!(findings("| a | `x/tests/a.rs::marked`, `::listed`, `::alone` |").is_empty());
        assert!(has_test("for (name, end) in [\n    (\"no_secret\", End::Removed),\n", "no_secret"));
    }

    #[test]
    fn what_is_no_test_is_told_with_its_line() {
        for (row, what) in [
            ("| a | `x/tests/a.rs::helper` |", "has no test helper"),
            ("| a | `x/tests/a.rs::mark` |", "has no test mark"),
            ("| a | `x/tests/b.rs::marked` |", "there is no crates/x/tests/b.rs"),
            ("| a | none, but `std::fmt` |", "a promise without a test"),
            ("\n| a | `x/tests/a.rs::marked` |", "a line outside of its table"),
        ] {
            let found = findings(row);
            assert_eq!(found.len(), 1, "{row}: {found:?}");
            let line = 5 + row.matches('\n').count();
            assert!(found[0].starts_with(&format!("docs/protocol.md:{line}: ")), "{found:?}");
            assert!(found[0].ends_with(what), "{found:?}");
        }
    }

    #[test]
    fn the_page_may_not_be_missing() {
        assert_eq!(check(&[]).len(), 1);
    }
}
