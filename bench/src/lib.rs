//! `fairlead bench`: our data path beside every other one, measured on this machine.
//!
//! A run builds nodes out of network namespaces (`rig`), has the same services programmed by each peer, and lets every
//! workload (`workload`) take samples of every peer, round by round in random order (`plan`). What comes out is a value
//! (`results`), of which tables and reports are views. Nothing outside of the run's own namespaces, mounts and cgroup is
//! touched, and these go with its process.
//!
//! In `benches/` are criterion benchmarks of single functions, one file per hot path.

#![forbid(unsafe_code)]

pub mod options;
pub mod plan;
pub mod programs;
pub mod results;
pub mod rig;
mod services;
pub mod stage;
pub mod wait;
pub mod workload;

pub use options::Options;
pub use services::service;
