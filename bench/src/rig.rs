//! The small network that measurements and tests are made in.

pub mod namespace;
pub mod sandbox;
