//! The Volley daemon.
fn main() {}
