//! The rules a node must fulfil, in the order in which a refusal is reported.

mod affinity;
mod name;
mod ports;
mod resources;
mod taints;
mod unschedulable;

pub(crate) use affinity::term_matches;

use crate::framework::Filter;

/// A node is refused by the first rule it breaks.
pub(crate) const FILTERS: &[Filter] =
    &[unschedulable::filter, name::filter, taints::filter, affinity::filter, ports::filter, resources::filter];
