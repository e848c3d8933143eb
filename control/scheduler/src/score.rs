//! What makes one node better than another, with upstream's weights.

mod affinity;
mod resources;
mod spread;
mod taints;

use crate::framework::{Scale, Score};

/// Every preference.
pub(crate) const SCORES: &[Score] = &[
    Score { points: taints::untolerated, scale: Scale::Lowest, weight: 3 },
    Score { points: affinity::preferred, scale: Scale::Highest, weight: 2 },
    Score { points: spread::siblings, scale: Scale::Lowest, weight: 2 },
    Score { points: resources::least_allocated, scale: Scale::Percent, weight: 1 },
    Score { points: resources::balanced, scale: Scale::Percent, weight: 1 },
];
