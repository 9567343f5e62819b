//! Finding and reading the configuration file.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tun_device::{Error, check_interface_name};

use crate::{
    Trouble, WithFix,
    config::Config,
    output,
    secrets::{SecretText, read_to_end},
};

/// Where a bare name is looked for.
const DIRECTORY: &str = "/etc/wireguard";

/// The largest file that is read, bytes: 10,000 peers need 3 MB.
const MAX_LEN: usize = 64 << 20;

/// A file and the interface it is named after.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) interface: String,
    text: SecretText,
}

impl ConfigFile {
    /// The path of the file that `argument` means, a path that ends in `NAME.conf` or a NAME; and the name.
    pub(super) fn locate(argument: &str) -> Result<(PathBuf, String), Trouble> {
        if !argument.contains('/') && !argument.ends_with(".conf") {
            check_interface_name(argument)?;
        }
        let path = if is_name(argument) {
            Path::new(DIRECTORY).join(format!("{argument}.conf"))
        } else {
            PathBuf::from(argument)
        };
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".conf"));
        let interface = name.filter(|name| is_name(name)).ok_or_else(|| {
            let rule = match name.map(check_interface_name) {
                Some(Err(Error::BadName { rule, .. })) => format!(": {rule}"),
                _ => String::new(),
            };
            Trouble::new(format!("`{}` is not named after an interface{rule}", path.display()))
                .fix("name it like the interface, with .conf after it: wg0.conf")
        })?;
        let interface = interface.to_owned();
        Ok((path, interface))
    }

    /// Reads the file that `argument` means.
    pub(super) fn read(argument: &str) -> Result<Self, Trouble> {
        let (path, interface) = Self::locate(argument)?;
        let text = read_text(&path).map_err(|error| {
            Trouble::new(format!("cannot read {}: {error}", path.display()))
                .fix("give the path of a configuration file, or the NAME of /etc/wireguard/NAME.conf")
        })?;
        // A later `cd` in a hook must not move it; and who may change it is told by the file, not by links to it.
        let path = path.canonicalize().unwrap_or(path);
        warn_if_open_to_all(&path);
        Ok(Self { path, interface, text })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Wipes it.
    pub(super) fn forget_text(&mut self) {
        self.text = SecretText::default();
    }

    pub(super) fn parse(&self) -> Result<Config, Trouble> {
        let config: Config = self.text.parse().or_trouble(self.path.display())?;
        Ok(config)
    }
}

/// The names that `wg-quick` takes.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_=+.-".contains(&byte);
    (1..=15).contains(&text.len()) && text.bytes().all(plain) && check_interface_name(text).is_ok()
}

fn read_text(path: &Path) -> io::Result<SecretText> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let bytes = read_to_end(file, length, MAX_LEN)?;
    let mut text = SecretText::with_capacity(bytes.len());
    // Comments may be in any encoding; what matters is ASCII.
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push_str("\u{fffd}");
        }
    }
    Ok(text)
}

/// Warns where `wg-quick` does, and of more: who may write the file, or put another in its place, may run hooks as we.
fn warn_if_open_to_all(path: &Path) {
    // The bits of everyone, and the one with which only its owner may replace a file in a directory (inode(7)).
    const EVERYONE: u32 = 0o007;
    const WRITE: u32 = 0o002;
    const SEARCH: u32 = 0o001;
    const STICKY: u32 = 0o1000;
    let mode = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    let (file, directory) = (mode(path), path.parent().map_or(0, mode));
    let as_wg_quick_sees_it = file & directory & EVERYONE != 0;
    let is_open = directory & SEARCH != 0 && file & EVERYONE & !SEARCH != 0;
    let path = path.display();
    let warning = if directory & WRITE != 0 && directory & STICKY == 0 {
        format!("everyone can replace {path}, whose hooks are run with all rights; chmod o-w its directory")
    } else if !is_open && !as_wg_quick_sees_it {
        return;
    } else if file & WRITE != 0 {
        format!("everyone can write {path}, whose hooks are run with all rights; chmod 600 it")
    } else {
        format!("everyone can read {path}; chmod 600 it")
    };
    output::notice(format_args!("volley: warning: {warning}"));
}
