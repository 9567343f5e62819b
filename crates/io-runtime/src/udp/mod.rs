//! The UDP side.

mod gso_routes;
pub(crate) mod sender;
pub(crate) mod socket;
mod sys;
