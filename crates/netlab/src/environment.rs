//! In which environment the daemons of a test run. Unset, it is the one of a login; `cargo xtask test` runs the
//! daemon's tests once more in each of these.

/// Names the environment, by [`Environment::name`].
pub const ENVIRONMENT: &str = "VOLLEY_TEST_ENVIRONMENT";

/// Names the backend of every daemon that is not told one on its command line. With [`Environment::OtherBackend`] it is the
/// one that is not the default.
pub const BACKEND: &str = "VOLLEY_BACKEND";

/// Something less than a login as root, or something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// No variable but those that a test sets: no `PATH`, no `HOME`.
    EnvI,
    /// A session without a terminal, and nothing on descriptor 0.
    NoTerminal,
    /// As the first process of a PID namespace, with a `/proc` of its own, as in a container.
    Pid1,
    /// Nothing of root's power but `CAP_NET_ADMIN`, for good.
    NetAdmin,
    /// That of a login, with the backend that is not the default: [`BACKEND`] says which.
    OtherBackend,
}

impl Environment {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::EnvI, Self::NoTerminal, Self::Pid1, Self::NetAdmin, Self::OtherBackend];

    /// The one that this run is for.
    ///
    /// # Panics
    /// When there is none of that name: what then ran would be taken for something else.
    pub fn current() -> Option<Self> {
        let name = std::env::var_os(ENVIRONMENT)?;
        let known = Self::ALL.into_iter().find(|environment| *environment.name() == *name);
        Some(known.unwrap_or_else(|| panic!("{ENVIRONMENT}: there is no environment {name:?}")))
    }

    /// Its name in [`ENVIRONMENT`].
    pub fn name(self) -> &'static str {
        match self {
            Self::EnvI => "env-i",
            Self::NoTerminal => "no-terminal",
            Self::Pid1 => "pid-1",
            Self::NetAdmin => "net-admin",
            Self::OtherBackend => "other-backend",
        }
    }

    /// True when this run is for this environment, and the running test therefore has nothing to test: the
    /// environment changes the very contract. Records that and `why`.
    #[must_use]
    pub fn rules_out(self, why: &str) -> bool {
        let here = Self::current() == Some(self);
        if here {
            crate::require::does_not_apply(self.name(), why);
        }
        here
    }
}
