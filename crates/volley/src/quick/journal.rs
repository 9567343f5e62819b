//! The record of what an interface's `up` has made, `/run/wireguard/NAME.journal`: written down before it is made, so
//! that whatever ends us, the next one knows what to undo.
//!
//! Text, one line for each thing. What goes with the link by itself (addresses, routes) is not in it.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::{fcntl::OFlag, unistd::geteuid};

use super::{
    firewall::{Firewall, Tool},
    rules::Rule,
};
use crate::{
    Trouble, WithFix,
    uapi::{self, SOCKET_DIR},
};

/// The longest record that is read, bytes: each has a dozen lines.
const MAX_LEN: u64 = 64 << 10;

const SUFFIX: &str = ".journal";
/// The extension of one that is not yet to be read.
const UNFINISHED: &str = "journal-new";
const COMPLETE: &str = "complete";
const UNDONE: &str = "undone ";

/// Something that was made, or was about to be, and is to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// A daemon was started for the interface.
    Daemon,
    /// The daemon's interface.
    Link(Link),
    /// An entry of resolvconf's, by its name there.
    Dns(String),
    /// A routing rule.
    Rule(Rule),
    /// The firewall of one family.
    Firewall(Firewall),
    /// `src_valid_mark` is needed.
    ValidMark(ValidMark),
}

/// An interface, and the socket of its daemon: neither number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    /// Device and inode.
    pub(super) socket: (u64, u64),
}

/// What was found before any tunnel of ours needed the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ValidMark {
    /// Its value.
    pub(super) value: String,
    /// The tables to which others sent what has no mark of theirs: they were content with the value.
    pub(super) tables: BTreeSet<u32>,
}

/// A record that is being written.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    made: Vec<Made>,
}

impl Journal {
    /// A fresh one. There is none of this interface, and its lock is held.
    pub(super) fn create(name: &str) -> Result<Self, Trouble> {
        Self::try_create(name).map_err(|error| {
            Trouble::new(format!("cannot write down in {SOCKET_DIR} what is done: {error}"))
                .fix("run as root, or make the directory writable for this user")
        })
    }

    fn try_create(name: &str) -> io::Result<Self> {
        let journal = Self::begin(path(name))?;
        File::open(SOCKET_DIR)?.sync_all()?;
        Ok(journal)
    }

    fn begin(path: PathBuf) -> io::Result<Self> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(format!("{}\n", Origin::here()?).as_bytes())?;
        file.sync_all()?;
        Ok(Self { file, path, made: Vec::new() })
    }

    /// One that takes the place of the interface's, all at once, when it is whole: whoever ends us before that leaves the
    /// old one.
    fn replace(name: &str, made: Vec<Made>) -> Result<(), Trouble> {
        let fresh = path(name).with_extension(UNFINISHED);
        let _ = fs::remove_file(&fresh); // of one that did not come so far
        let mut journal = Self::begin(fresh).or_trouble(format!("cannot write in {SOCKET_DIR}"))?;
        made.into_iter().try_for_each(|made| journal.write_down(made))?;
        let placed = fs::rename(&journal.path, path(name)).and_then(|()| File::open(SOCKET_DIR)?.sync_all());
        placed.or_trouble(format!("cannot replace {}", path(name).display()))
    }

    /// Writes down what is made next.
    pub(super) fn write_down(&mut self, made: Made) -> Result<(), Trouble> {
        let written = self.line(&made.to_string());
        self.made.push(made);
        written
    }

    /// What was written down last was not made.
    pub(super) fn withdraw(&mut self) {
        self.made.pop();
    }

    /// Everything is made.
    pub(super) fn complete(&mut self) -> Result<(), Trouble> {
        self.line(COMPLETE)
    }

    fn line(&mut self, line: &str) -> Result<(), Trouble> {
        let written =
            self.file.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.file.sync_data());
        written.or_trouble(format!("cannot write to {}", self.path.display()))
    }

    /// What it says.
    pub(super) fn into_record(self) -> Record {
        Record { made: self.made, is_complete: false, is_here: true }
    }
}

/// A record that was found.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) made: Vec<Made>,
    /// `up` came to its end.
    pub(super) is_complete: bool,
    /// It is about this network namespace, since the machine was started: numbers mean what they say.
    is_here: bool,
}

impl Record {
    /// The record of an interface, if there is one.
    pub(super) fn read(name: &str) -> Result<Option<Self>, Trouble> {
        let path = path(name);
        match read(&path) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Trouble::new(format!("cannot read the record {}: {error}", path.display()))
                .fix("look at it, and remove it if it is not Volley's")),
        }
    }

    /// What all other interfaces of this network namespace have made, or promised to.
    pub(super) fn of_others(name: &str) -> Vec<Made> {
        let own = path(name);
        let entries = fs::read_dir(SOCKET_DIR).into_iter().flatten().flatten().map(|entry| entry.path());
        let records = entries.filter(|path| path.to_str().is_some_and(|path| path.ends_with(SUFFIX)));
        let others = records.filter(|path| *path != own).filter_map(|path| read(&path).ok());
        others.filter(|record| record.is_here).flat_map(|record| record.made).collect()
    }

    /// What can still be undone: of another start of the machine, or another namespace, only what has a name.
    pub(super) fn to_undo(&self) -> impl DoubleEndedIterator<Item = &Made> {
        self.made.iter().filter(|made| self.is_here || matches!(made, Made::Dns(_) | Made::Firewall(_)))
    }

    pub(super) fn link(&self) -> Option<Link> {
        let link = |made: &Made| match made {
            Made::Link(link) => Some(*link),
            _ => None,
        };
        self.is_here.then(|| self.made.iter().find_map(link)).flatten()
    }

    /// Notes that something is undone: others, who look for what is promised, need not wait until all of it is. Where
    /// that cannot be written, it is undone once more, which does no harm.
    pub(super) fn strike(name: &str, made: &Made) {
        let record = File::options().append(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path(name));
        let _ = record.and_then(|mut record| record.write_all(format!("{UNDONE}{made}\n").as_bytes()));
    }

    /// Nothing is left but `rest`; if that is nothing, the record goes.
    pub(super) fn leave(name: &str, rest: Vec<Made>) -> Result<(), Trouble> {
        if !rest.is_empty() {
            return Journal::replace(name, rest);
        }
        match fs::remove_file(path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).or_trouble(format!("cannot remove {}", path(name).display()))
            }
            _ => Ok(()),
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{name}{SUFFIX}"))
}

/// Where records and locks are: beside the sockets.
pub(super) fn directory() -> Result<PathBuf, Trouble> {
    let directory = Path::new(SOCKET_DIR);
    uapi::make_directory(directory).map_err(|error| {
        Trouble::new(format!("cannot make {SOCKET_DIR}: {error}")).fix(uapi::directory_fix(&error))
    })?;
    Ok(directory.to_owned())
}

fn read(path: &Path) -> io::Result<Record> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    let metadata = file.metadata()?;
    let trusted = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if !metadata.is_file() || !trusted || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may have written it"));
    }
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(parse(&text, &Origin::here()?.to_string()))
}

/// A line that was not written whole, or is another version's, was not carried out by us.
fn parse(text: &str, here: &str) -> Record {
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let is_here = lines.next() == Some(here);
    let mut record = Record { is_here, ..Record::default() };
    for line in lines {
        if line == COMPLETE {
            record.is_complete = true;
        } else if let Some(undone) = line.strip_prefix(UNDONE) {
            record.made.retain(|made| made.to_string() != undone);
        } else if let Ok(made) = line.parse() {
            record.made.push(made);
        }
    }
    record
}

/// Which machine, since when, and which of its networks.
struct Origin {
    boot: String,
    namespace: (u64, u64),
}

impl Origin {
    fn here() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let namespace = fs::metadata("/proc/self/ns/net")?;
        Ok(Self { boot, namespace: (namespace.dev(), namespace.ino()) })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot, namespace: (device, inode) } = self;
        write!(f, "volley 1 boot {boot} network {device}:{inode}")
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str("daemon"),
            Self::Link(Link { index, socket: (device, inode) }) => write!(f, "link {index} {device}:{inode}"),
            Self::Dns(entry) => write!(f, "dns {entry}"),
            Self::Rule(rule) => write!(f, "rule {rule}"),
            Self::Firewall(Firewall { family, tool }) => write!(f, "firewall {family} {tool}"),
            Self::ValidMark(ValidMark { value, tables }) => {
                write!(f, "src_valid_mark {value}")?;
                tables.iter().try_for_each(|table| write!(f, " {table}"))
            }
        }
    }
}

impl FromStr for Made {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match kind {
            "daemon" => Self::Daemon,
            "link" => {
                let (index, socket) = rest.split_once(' ').ok_or(())?;
                let (device, inode) = socket.split_once(':').ok_or(())?;
                let number = |text: &str| text.parse().map_err(drop);
                let index = index.parse().map_err(drop)?;
                Self::Link(Link { index, socket: (number(device)?, number(inode)?) })
            }
            "dns" => Self::Dns(rest.to_owned()),
            "rule" => Self::Rule(rest.parse()?),
            "firewall" => {
                let (family, tool) = rest.split_once(' ').ok_or(())?;
                let tool = Tool::ALL.into_iter().find(|known| known.to_string() == tool).ok_or(())?;
                Self::Firewall(Firewall { family: family.parse()?, tool })
            }
            "src_valid_mark" => {
                let mut words = rest.split(' ');
                let value = words.next().unwrap_or_default().to_owned();
                let tables = words.map(|word| word.parse().map_err(drop)).collect::<Result<_, _>>()?;
                Self::ValidMark(ValidMark { value, tables })
            }
            _ => return Err(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quick::{
        net::Family,
        rules::{PROTOCOL, RuleKind},
    };

    fn everything() -> Vec<Made> {
        let rule = |kind| Made::Rule(Rule { family: Family::V6, priority: 7, protocol: PROTOCOL, kind });
        vec![
            Made::Daemon,
            Made::Link(Link { index: 7, socket: (1, 2) }),
            Made::Dns("tun.wg0".to_owned()),
            rule(RuleKind::Unmarked(51_820)),
            rule(RuleKind::MainButDefault),
            Made::Firewall(Firewall { family: Family::V4, tool: Tool::Nft }),
            Made::Firewall(Firewall { family: Family::V6, tool: Tool::Iptables }),
            Made::ValidMark(ValidMark { value: "0".to_owned(), tables: [7, 8].into() }),
            Made::ValidMark(ValidMark { value: "2".to_owned(), tables: BTreeSet::new() }),
        ]
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let lines: String = everything().iter().map(|made| format!("{made}\n")).collect();
        let record = parse(&format!("here\n{lines}complete\n"), "here");
        assert_eq!(record.made, everything());
        assert!(record.is_complete);
        assert_eq!(record.to_undo().count(), everything().len());
        assert_eq!(record.link(), Some(Link { index: 7, socket: (1, 2) }));
    }

    #[test]
    fn a_line_that_was_cut_short_is_not_believed() {
        let record = parse("here\ndns wg0\nrule ip 32765 118 unmarked 51", "here");
        assert_eq!(record.made, [Made::Dns("wg0".to_owned())]);
        assert!(!record.is_complete);
    }

    #[test]
    fn what_is_undone_is_promised_to_nobody() {
        let record = parse("here\ndaemon\ndns wg0\nsrc_valid_mark 0\nundone src_valid_mark 0\n", "here");
        assert_eq!(record.made, [Made::Daemon, Made::Dns("wg0".to_owned())]);
    }

    #[test]
    fn of_an_earlier_start_of_the_machine_only_names_are_undone() {
        let lines: String = everything().iter().map(|made| format!("{made}\n")).collect();
        let record = parse(&format!("then\n{lines}"), "here");
        assert!(record.to_undo().all(|made| matches!(made, Made::Dns(_) | Made::Firewall(_))));
        assert_eq!(record.to_undo().count(), 3);
        assert_eq!(record.link(), None);
    }
}
