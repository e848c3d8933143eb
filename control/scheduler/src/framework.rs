//! One decision: the nodes that can take a pod, and the best of them.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::Cluster;
use crate::filter::FILTERS;
use crate::node::NodeInfo;
use crate::request::Request;
use crate::score::SCORES;

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// As clients know them: `Insufficient cpu`.
    pub(crate) reasons: Vec<String>,
    /// True if the node could take the pod once others have left it.
    pub(crate) may_pass: bool,
}

impl Refusal {
    /// A reason that lies in the pod and the node themselves.
    pub(crate) fn lasting(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], may_pass: false }
    }

    /// Reasons that lie in the pods already there.
    pub(crate) fn passing(reasons: Vec<String>) -> Self {
        Self { reasons, may_pass: true }
    }
}

/// A rule that a node must fulfil.
pub(crate) type Filter = fn(&Request, &NodeInfo) -> Result<(), Refusal>;

/// A preference: raw points of a node, larger is better; brought to 0..=100 over all nodes in question.
#[derive(Clone, Copy)]
pub(crate) struct Score {
    pub(crate) points: fn(&Request, &NodeInfo) -> i64,
    pub(crate) scale: Scale,
    pub(crate) weight: i64,
}

/// How raw points become 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// They are that already.
    Percent,
    /// The highest becomes 100.
    Highest,
    /// None becomes 100, the highest 0.
    Lowest,
}

/// Why no node can take a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unfit {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
    may_pass: usize,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let list = |reasons: Vec<String>| {
            let mut reasons = reasons;
            reasons.sort();
            reasons.join(", ")
        };
        let all = self.nodes;
        let counted = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let passing = [
            (self.may_pass, "No preemption victims found for incoming pod"),
            (all - self.may_pass, "Preemption is not helpful for scheduling"),
        ];
        let passing =
            passing.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}")).collect();
        write!(f, "0/{all} nodes are available: {}. ", list(counted))?;
        write!(f, "preemption: 0/{all} nodes are available: {}.", list(passing))
    }
}

/// The node for a pod. `turn` breaks ties, so that equal nodes are taken in turn.
pub(crate) fn decide(cluster: &Cluster, request: &Request, turn: usize) -> Result<String, Unfit> {
    let mut fit: Vec<&NodeInfo> = Vec::new();
    let mut unfit = Unfit::default();
    for node in cluster.nodes() {
        unfit.nodes += 1;
        match FILTERS.iter().try_for_each(|filter| filter(request, node)) {
            Ok(()) => fit.push(node),
            Err(refusal) => {
                unfit.may_pass += usize::from(refusal.may_pass);
                for reason in refusal.reasons {
                    *unfit.reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let mut totals = vec![0; fit.len()];
    if fit.len() > 1 {
        for score in SCORES {
            let points: Vec<i64> = fit.iter().map(|node| (score.points)(request, node)).collect();
            let most = points.iter().copied().max().unwrap_or(0);
            for (total, points) in totals.iter_mut().zip(points) {
                *total += score.weight * score.scale.apply(points, most);
            }
        }
    }
    let best = totals.iter().copied().max().unwrap_or(0);
    let equal: Vec<&NodeInfo> =
        fit.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(node, _)| *node).collect();
    match equal.len() {
        0 => Err(unfit),
        count => Ok(equal[turn % count].name.clone()),
    }
}

impl Scale {
    fn apply(self, points: i64, most: i64) -> i64 {
        match self {
            Self::Percent => points,
            Self::Highest if most == 0 => 0,
            Self::Highest => points * 100 / most,
            Self::Lowest if most == 0 => 100,
            Self::Lowest => 100 - points * 100 / most,
        }
    }
}
