//! Criterion benches live beside this file in `benches/`; this library holds what they share.
