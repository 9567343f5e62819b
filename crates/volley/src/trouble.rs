//! What a person is told when something goes wrong: one line of what it was, one of how to mend it.

use std::{
    error::Error,
    fmt::{self, Display},
};

/// An error on its way to a terminal.
#[derive(Debug)]
pub struct Trouble {
    what: String,
    fix: Option<String>,
}

impl Trouble {
    /// Something went wrong that needs no advice, or for which there is none.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: one_line(what.into()), fix: None }
    }

    /// Something went wrong that another process has told about already, or that nobody needs to be told.
    pub const fn told() -> Self {
        Self { what: String::new(), fix: None }
    }

    /// True when there is nothing left to say.
    pub const fn is_told(&self) -> bool {
        self.what.is_empty()
    }

    /// Adds what else went wrong after it.
    #[must_use]
    pub fn and(mut self, others: impl IntoIterator<Item = Self>) -> Self {
        for other in others.into_iter().filter(|other| !other.is_told()) {
            let before = if self.is_told() { String::new() } else { format!("{}; and ", self.what) };
            self.what = before + &other.what;
            self.fix = self.fix.or(other.fix);
        }
        self
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(one_line(fix.into()));
        self
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  to mend it: {fix}"),
            None => Ok(()),
        }
    }
}

impl Error for Trouble {}

impl From<tun_device::Error> for Trouble {
    fn from(error: tun_device::Error) -> Self {
        let trouble = Self::new(error.to_string());
        match error.fix() {
            Some(fix) => trouble.fix(fix),
            None => trouble,
        }
    }
}

impl From<io_runtime::Error> for Trouble {
    fn from(error: io_runtime::Error) -> Self {
        let trouble = Self::new(error.to_string());
        match error {
            io_runtime::Error::AddrInUse(port) => {
                trouble.fix(format!("choose another port, or see who has it: ss -ulpn 'sport = :{port}'"))
            }
            _ => trouble,
        }
    }
}

/// Turns any error into a [`Trouble`].
pub trait WithFix<T> {
    /// Says what was being done.
    ///
    /// # Errors
    /// The same, with `what` before it.
    fn or_trouble(self, what: impl Display) -> Result<T, Trouble>;
}

impl<T, E: Display> WithFix<T> for Result<T, E> {
    fn or_trouble(self, what: impl Display) -> Result<T, Trouble> {
        self.map_err(|error| Trouble::new(format!("{what}: {error}")))
    }
}

fn one_line(text: String) -> String {
    if text.contains('\n') { text.replace('\n', " ") } else { text }
}
