//! The machinery behind the tests, one file per kind of subject.

pub mod client;
pub mod cluster;
pub mod dialogue;
mod guard;
pub mod kubectl;
pub mod lab;
pub mod manifest;
pub mod packet;
pub mod suite;

// The benchmarks make theirs in the same way.
pub use fairlead_bench::rig::{namespace, sandbox};
