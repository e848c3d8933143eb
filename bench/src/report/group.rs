//! Which measurements are shown together, and in which colours.

use crate::results::{Cell, Measurement, Results, Summary};

/// One figure of one workload, for all cells.
#[derive(Debug)]
pub(super) struct Figure<'a> {
    /// Any of its measurements: they agree in title and unit.
    pub(super) first: &'a Measurement,
    /// Its measurements and what they come to, in the order of the results.
    pub(super) cells: Vec<(&'a Measurement, Summary)>,
}

/// All figures of one workload.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) workload: &'a str,
    pub(super) title: &'a str,
    pub(super) figures: Vec<Figure<'a>>,
}

/// What the cells of a peer differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Services,
    Flows,
}

impl Scale {
    /// How much of it a cell has.
    pub(super) fn of(self, cell: &Cell) -> Option<u32> {
        match self {
            Self::Services => cell.services,
            Self::Flows => cell.flows,
        }
    }

    /// In words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Flows => "flows",
        }
    }
}

impl Figure<'_> {
    /// What to put on the horizontal axis: what at least one peer was measured with several of.
    pub(super) fn scale(&self) -> Option<Scale> {
        [Scale::Services, Scale::Flows].into_iter().find(|scale| {
            let several = |cell: &Cell| {
                let at = scale.of(cell);
                let other =
                    |other: &Cell| other.peer == cell.peer && scale.of(other).is_some() && scale.of(other) != at;
                at.is_some() && self.cells.iter().any(|(measurement, _)| other(&measurement.cell))
            };
            self.cells.iter().any(|(measurement, _)| several(&measurement.cell))
        })
    }

    /// Peers in the order of the results.
    pub(super) fn peers(&self) -> Vec<&str> {
        let mut peers: Vec<&str> = Vec::new();
        for (measurement, _) in &self.cells {
            if !peers.contains(&measurement.cell.peer.as_str()) {
                peers.push(&measurement.cell.peer);
            }
        }
        peers
    }

    /// Its name beside its workload's, such as `p50`; for one without, the unit.
    pub(super) fn label(&self) -> &str {
        if self.first.figure.is_empty() { &self.first.unit } else { &self.first.figure }
    }
}

/// Measurements by workload and figure, in the order in which they first occur.
pub(super) fn groups(results: &Results) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for measurement in &results.measurements {
        let place = groups.iter().position(|group| group.workload == measurement.workload).unwrap_or_else(|| {
            groups.push(Group { workload: &measurement.workload, title: &measurement.title, figures: Vec::new() });
            groups.len() - 1
        });
        let figures = &mut groups[place].figures;
        let place = figures.iter().position(|figure| figure.first.figure == measurement.figure).unwrap_or_else(|| {
            figures.push(Figure { first: measurement, cells: Vec::new() });
            figures.len() - 1
        });
        figures[place].cells.push((measurement, results.summary(measurement)));
    }
    groups
}

/// The class of a peer's colour: those that everybody knows have their own, others one of the rest.
pub(super) fn colour(peer: &str) -> String {
    const KNOWN: [&str; 9] = [
        "direct",
        "direct-ct",
        "iptables",
        "iptables-nft",
        "nftables",
        "ipvs",
        "fairlead-socket",
        "fairlead-packet",
        "fairlead-xdp",
    ];
    const REST: u32 = 8;
    match KNOWN.iter().position(|known| *known == peer) {
        Some(place) => format!("k{place}"),
        None if peer.starts_with("empty") || peer == "none" => "k0".to_owned(),
        None if peer.starts_with("minimal") => "k1".to_owned(),
        None => {
            format!("r{}", peer.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % REST)
        }
    }
}
