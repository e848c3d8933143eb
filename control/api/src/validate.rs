//! Validation that several kinds share; what one kind alone needs stands with the kind in [`crate::registry`].

pub mod metadata;
pub mod names;
