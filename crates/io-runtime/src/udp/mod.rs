//! The UDP side.

pub(crate) mod socket;
