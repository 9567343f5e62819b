//! Every developer command of Volley.
fn main() {}
