//! Wiping what no type can wipe by itself.
//!
//! A value that is zeroized when dropped wipes the place where it lies then. It does not wipe the places that it was
//! moved from, nor the working state of hash functions, ciphers and the curve's ladder, which lies on the stack
//! and stays there until other calls happen to overwrite it: on a thread that sleeps, for ever.

use zeroize::optimization_barrier;

/// Stack that a whole handshake message needs, bytes, with a wide margin: a build without optimisation takes some 12 KiB.
pub(crate) const HANDSHAKE: usize = 32 << 10;

/// Stack that sealing or opening a train needs, bytes, with a wide margin. Paid per train, so no wider than it must be; a
/// build without optimisation moves ring's 500-byte keys through many more frames.
pub(crate) const DATA: usize = if cfg!(debug_assertions) { 16 << 10 } else { 4 << 10 };

/// Runs `work`, then overwrites `DEPTH` bytes of the stack that it ran on.
///
/// What `work` captures by value and what it returns pass through the caller's frame, which is not wiped: let secrets
/// come and go by reference, or in boxes.
#[inline(never)]
pub(crate) fn with_clean_stack<const DEPTH: usize, R>(work: impl FnOnce() -> R) -> R {
    let result = run(work);
    overwrite::<DEPTH>();
    result
}

/// Not inlined, so that the frames of `work` begin below the caller's, where [`overwrite`]'s begins too.
#[inline(never)]
fn run<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[inline(never)]
fn overwrite<const DEPTH: usize>() {
    let frame = [0u8; DEPTH];
    optimization_barrier(&frame);
}
