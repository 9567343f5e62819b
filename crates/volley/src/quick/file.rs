//! Finding and reading the configuration file.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{Trouble, WithFix, config::Config, output};

/// Where a bare name is looked for.
const DIRECTORY: &str = "/etc/wireguard";

/// The largest file that is read, bytes: 10,000 peers need 3 MB.
const MAX_LEN: u64 = 64 << 20;

/// A file and the interface it is named after.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) interface: String,
    text: Zeroizing<String>,
}

impl ConfigFile {
    /// The path of the file that `argument` means, a path that ends in `NAME.conf` or a NAME; and the name.
    pub(super) fn locate(argument: &str) -> Result<(PathBuf, String), Trouble> {
        let path = if is_name(argument) {
            Path::new(DIRECTORY).join(format!("{argument}.conf"))
        } else {
            PathBuf::from(argument)
        };
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".conf"));
        let interface = name.filter(|name| is_name(name)).ok_or_else(|| {
            Trouble::new(format!("`{}` is not named after an interface", path.display()))
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
        warn_if_open_to_all(&path);
        // A later `cd` in a hook must not move it.
        let path = path.canonicalize().unwrap_or(path);
        Ok(Self { path, interface, text })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn parse(&self) -> Result<Config, Trouble> {
        let config: Config = self.text.parse().or_trouble(self.path.display())?;
        Ok(config)
    }
}

/// The names that `wg-quick` takes.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_=+.-".contains(&byte);
    (1..=15).contains(&text.len())
        && text.bytes().all(plain)
        && tun_device::check_interface_name(text).is_ok()
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let length = fs::metadata(path)?.len();
    if length > MAX_LEN {
        return Err(io::Error::other("it is too large"));
    }
    let bytes = Zeroizing::new(fs::read(path)?);
    // Comments may be in any encoding; what matters is ASCII.
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

fn warn_if_open_to_all(path: &Path) {
    const OTHERS: u32 = 0o007;
    let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0);
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if mode(path) & mode(directory) & OTHERS != 0 {
        let path = path.display();
        output::notice(format_args!("volley: warning: everyone can read {path}; chmod 600 it"));
    }
}
