//! What the privileged tests share: the question whether they may run at all, names that nobody else uses, waiting with
//! a deadline, and a whole cluster that is gone again when the test ends.
//!
//! The tests themselves are in `tests/`: `packet` and `netns` ask the data path, the others ask a running cluster. Plain
//! `cargo test` leaves them alone (they need root); `cargo xtask test` runs them.

#![forbid(unsafe_code)]

pub mod harness;
pub mod model;
mod privilege;

pub use privilege::{Root, require_root, skip};
// The benchmarks wait and name in the same way.
pub use fairlead_bench::wait::{unique_name, wait_for};
