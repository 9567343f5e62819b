//! `volley up` and `volley down`: what `wg-quick` does, without it and its helpers.

mod file;

use crate::{Trouble, config, tools};

use self::file::ConfigFile;

/// `volley strip`.
pub(crate) fn strip(argument: &str) -> Result<(), Trouble> {
    let file = ConfigFile::read(argument)?;
    tools::write(config::strip(file.text()).as_bytes())
}
