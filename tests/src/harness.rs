//! The machinery behind the tests, one file per kind of subject.

pub mod client;
pub mod cluster;
pub mod dialogue;
pub mod kubectl;
pub mod lab;
pub mod manifest;
pub mod packet;
pub mod suite;

// The benchmarks make theirs in the same way.
pub use fairlead_bench::rig::{guard, namespace, sandbox};
