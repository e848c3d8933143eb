//! The small network that measurements and tests are made in.

pub mod agent;
pub mod guard;
pub mod namespace;
pub mod node;
pub mod sandbox;
