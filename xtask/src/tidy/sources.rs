//! Rules about the text of files.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Finding, graph::Package};

/// One tracked text file.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// From the workspace's root.
    pub(super) path: String,
    pub(super) text: String,
}

/// Past this many lines a file is a design question, and answered here or split.
const TOO_LONG: usize = 800;

/// The only places that may read a clock, outside tests. The daemon's shell tells people wall-clock times and bounds
/// its sockets' patience; there clippy asks for the reason each time.
const CLOCKS: [&str; 5] = [
    "crates/io-runtime/src/clock.rs",
    "crates/netlab/src/clock.rs",
    "crates/encrypt/src/boring",
    "crates/encrypt/src/native/system.rs",
    "crates/volley/src/",
];

/// The only files that may hold unsafe code: the system-call edges, the allocator that counts for tests, and the
/// namespaces that `tun-device`'s tests make. A test elsewhere has no need of it.
const UNSAFE: [&str; 6] = [
    "crates/tun-device/src/linux/sys.rs",
    "crates/tun-device/src/linux/inherit.rs",
    "crates/io-runtime/src/udp/sys.rs",
    "crates/io-runtime/src/scheduling/sys.rs",
    "crates/allocation-counter/src/lib.rs",
    "crates/tun-device/tests/common/namespace.rs",
];

/// Crates that hold one of those files in `src` say `deny` where all others say `forbid`.
const WITH_UNSAFE_CODE: [&str; 3] = ["tun-device", "io-runtime", "allocation-counter"];

/// Every tracked text file of the repository.
pub(super) fn read_all(root: &Path) -> Result<Vec<File>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout).context("paths are text")?;
    let read = |path: &str| {
        // Deleted but not committed, or not text: no source of ours.
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        Some(File { path: path.to_owned(), text })
    };
    Ok(paths.split_terminator('\0').filter_map(read).collect())
}

/// Sources by length, longest first, those past half the limit.
pub(super) fn longest(files: &[File]) -> impl Iterator<Item = (&str, usize)> {
    let mut sizes: Vec<_> = files
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file.path.as_str(), file.text.lines().count()))
        .filter(|(_, lines)| *lines > TOO_LONG / 2)
        .collect();
    sizes.sort_unstable_by_key(|(_, lines)| std::cmp::Reverse(*lines));
    sizes.into_iter()
}

pub(super) fn check(files: &[File], packages: &[Package]) -> Vec<Finding> {
    let rules = [long_files, clocks, unsafe_code, silenced, registry_hosts];
    let by_file = files.iter().flat_map(|file| rules.into_iter().flat_map(move |rule| rule(file)));
    by_file.chain(packages.iter().flat_map(|package| crate_front(package, files))).collect()
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Tests, benches, and examples: they may read clocks.
    fn is_test(&self) -> bool {
        let in_folder = |folder: &str| {
            self.path.contains(&format!("/{folder}/")) || self.path.starts_with(&format!("{folder}/"))
        };
        let test_module = self.path.ends_with("/tests.rs");
        in_folder("tests") || in_folder("benches") || in_folder("examples") || test_module
    }

    /// Lines of code with their numbers, without comments and without the test module at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }

    pub(super) fn finding(&self, line: usize, what: &str) -> Finding {
        format!("{}:{line}: {what}", self.path)
    }
}

fn long_files(file: &File) -> Vec<Finding> {
    let lines = file.text.lines().count();
    let long = file.is_rust() && lines > TOO_LONG;
    long.then(|| file.finding(lines, "is this one room or three? (past 800 lines)")).into_iter().collect()
}

fn clocks(file: &File) -> Vec<Finding> {
    let may_read =
        !file.is_rust() || file.is_test() || CLOCKS.iter().any(|clock| file.path.starts_with(clock));
    // In two pieces, or this file would break its own rule.
    let readings = [concat!("Instant", "::now("), concat!("SystemTime", "::now(")];
    find(file, !may_read, &readings, "only the clock modules read a clock; take `now` as an argument")
}

fn unsafe_code(file: &File) -> Vec<Finding> {
    let may = !file.is_rust() || UNSAFE.contains(&file.path.as_str());
    let forms = [
        concat!("unsafe", " {"),
        concat!("unsafe", " fn"),
        concat!("unsafe", " impl"),
        concat!("unsafe", " extern"),
    ];
    find(
        file,
        !may,
        &forms,
        "unsafe code has its few places (xtask/src/tidy/sources.rs); a test that counts allocations uses allocation-counter",
    )
}

fn silenced(file: &File) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    // Tests too: an ignored test is the very thing looked for.
    let forms = [
        concat!("#[ign", "ore"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
    ];
    // What several test binaries share is dead code in some of them.
    let dead_code = (!file.is_test()).then_some(concat!("allow(dead", "_code"));
    let holds = |line: &str| forms.iter().chain(&dead_code).any(|form| line.contains(form));
    let lines = file.text.lines().enumerate().filter(|(_, line)| holds(line));
    lines.map(|(index, _)| file.finding(index + 1, "a stub, a silenced test or dead code")).collect()
}

/// The project builds where its registries are mirrors: names of their hosts have no place in it.
fn registry_hosts(file: &File) -> Vec<Finding> {
    let generated = file.path.ends_with("Cargo.lock");
    let hosts = [
        concat!("crates", ".io/"),
        concat!("crates", ".io-index"),
        concat!("static.crates", ".io"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
    ];
    let lines =
        file.text.lines().enumerate().filter(|(_, line)| hosts.iter().any(|host| line.contains(host)));
    let lines = lines.map(|(index, _)| file.finding(index + 1, "names a registry's host"));
    if generated { Vec::new() } else { lines.collect() }
}

/// The root file of a library or binary, and its README.
fn crate_front(package: &Package, files: &[File]) -> Vec<Finding> {
    let name = package.name.as_str();
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let folder = if find(&format!("crates/{name}/Cargo.toml")).is_some() {
        format!("crates/{name}")
    } else {
        name.to_owned()
    };
    let fronts: Vec<_> =
        ["lib.rs", "main.rs"].iter().filter_map(|file| find(&format!("{folder}/src/{file}"))).collect();
    let mut findings = Vec::new();
    for front in &fronts {
        let lint = if WITH_UNSAFE_CODE.contains(&name) {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        if !front.text.contains(lint) {
            findings.push(front.finding(1, &format!("{lint} is missing")));
        }
    }
    let is_library = fronts.iter().any(|front| front.path.ends_with("lib.rs"));
    if !folder.starts_with("crates/") {
        return findings;
    }
    let Some(readme) = find(&format!("{folder}/README.md")) else {
        findings.push(format!("{folder}: no README.md"));
        return findings;
    };
    let included = fronts.iter().any(|front| front.text.contains("#![doc = include_str!(\"../README.md\")]"));
    if is_library && !included {
        findings.push(format!("{folder}: the README is not the crate's documentation"));
    }
    if is_library && package.is_published() && !has_tested_example(&readme.text) {
        findings.push(format!("{folder}/README.md: no example that doc tests run (a block of Rust)"));
    }
    if find(&format!("{folder}/src/API.md")).is_some() {
        findings.push(format!("{folder}/src/API.md: a contract that should be code by now"));
    }
    findings
}

/// A fence opens at every second one; rustdoc tests those that name Rust or nothing.
fn has_tested_example(readme: &str) -> bool {
    let mut fences = readme.lines().filter_map(|line| line.strip_prefix("```")).step_by(2);
    fences.any(|language| matches!(language.trim_end(), "" | "rust" | "no_run" | "rust,no_run"))
}

fn find(file: &File, forbidden: bool, forms: &[&str], what: &str) -> Vec<Finding> {
    if !forbidden {
        return Vec::new();
    }
    let holds = |line: &str| forms.iter().any(|form| line.contains(form));
    file.code().filter(|(_, line)| holds(line)).map(|(number, _)| file.finding(number, what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_clock_read_is_found_outside_comments_and_tests() {
        let reading = concat!("let t = Instant", "::now();");
        let text = format!("// {reading}\n{reading}\n#[cfg(test)]\nmod tests {{ {reading} }}");
        let found = clocks(&file("crates/gso-queue/src/queue.rs", &text));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/gso-queue/src/queue.rs:2:"), "{found:?}");
        assert!(clocks(&file("crates/io-runtime/src/clock.rs", &text)).is_empty());
        assert!(clocks(&file("crates/gso-queue/tests/model.rs", &text)).is_empty());
    }

    #[test]
    fn unsafe_code_has_its_places() {
        let text = concat!("unsafe", " { x() }");
        assert_eq!(unsafe_code(&file("crates/tunnel-core/src/lib.rs", text)).len(), 1);
        assert_eq!(unsafe_code(&file("crates/gso-queue/tests/allocations.rs", text)).len(), 1, "tests too");
        assert!(unsafe_code(&file("crates/tun-device/src/linux/sys.rs", text)).is_empty());
        assert!(unsafe_code(&file("crates/allocation-counter/src/lib.rs", text)).is_empty());
    }

    #[test]
    fn a_silenced_test_is_found_even_in_tests() {
        let text = concat!("#[cfg(test)]\nmod tests {\n#[ign", "ore]\nfn a() {}\n}");
        assert_eq!(silenced(&file("crates/x/tests/a.rs", text)).len(), 1);
    }

    #[test]
    fn long_files_are_a_question() {
        assert_eq!(long_files(&file("a.rs", &"\n".repeat(TOO_LONG + 1))).len(), 1);
        assert!(long_files(&file("a.rs", &"\n".repeat(TOO_LONG))).is_empty());
        assert!(long_files(&file("table.md", &"\n".repeat(TOO_LONG + 1))).is_empty());
    }

    #[test]
    fn a_library_shows_its_readme_and_forbids_unsafe_code() {
        let package: Package =
            serde_json::from_str(r#"{"name":"encrypt","publish":null,"dependencies":[]}"#).unwrap();
        let manifest = file("crates/encrypt/Cargo.toml", "");
        let bare =
            [manifest.clone(), file("crates/encrypt/src/lib.rs", ""), file("crates/encrypt/README.md", "")];
        assert_eq!(crate_front(&package, &bare).len(), 3);
        let front = "#![doc = include_str!(\"../README.md\")]\n#![forbid(unsafe_code)]\n";
        let readme = "```rust\nassert!(true);\n```\n";
        let whole =
            [manifest, file("crates/encrypt/src/lib.rs", front), file("crates/encrypt/README.md", readme)];
        assert_eq!(crate_front(&package, &whole), Vec::<Finding>::new());
    }

    #[test]
    fn only_an_opening_fence_without_another_language_is_an_example() {
        assert!(has_tested_example("```text\nx\n```\n```\nassert!(true);\n```\n"));
        assert!(!has_tested_example("```text\nx\n```\n```ignore\nx\n```\n"));
    }

    #[test]
    fn registry_hosts_are_found_but_not_in_the_lock_file() {
        let text = concat!("see https://crates", ".io/x");
        assert_eq!(registry_hosts(&file("docs/a.md", text)).len(), 1);
        assert!(registry_hosts(&file("Cargo.lock", text)).is_empty());
    }
}
