//! `fairlead bench`: our data path beside every other one, measured on this machine.
//!
//! A run (`run`) builds nodes out of network namespaces (`rig`), has each peer program the same services into one of them
//! (`peers`), and lets every workload (`workload`, `traffic`) take samples of every peer, round by round in random order
//! (`plan`), in a session whose weight is raised (`session`). What comes out is a value (`results`), of which tables and
//! reports are views. Nothing outside of the run's own namespaces, mounts and cgroup is touched, and these go with its
//! process.
//!
//! In `benches/` are criterion benchmarks of single functions, one file per hot path.

#![forbid(unsafe_code)]

mod change;
mod command;
pub mod compare;
mod cost;
mod machine;
pub mod options;
mod peers;
pub mod plan;
pub mod programs;
mod progress;
pub mod report;
pub mod results;
pub mod rig;
mod run;
mod services;
mod session;
pub mod stage;
pub mod table;
pub mod targets;
mod traffic;
pub mod wait;
pub mod workload;

pub use command::{Arguments, bench, is_aside};
pub use options::Options;
pub use services::{CAPACITY, filled, service};
