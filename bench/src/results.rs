//! What a run found, as `results.json` holds it: every figure of every round, and what is computed from them.
//!
//! A [`Measurement`] is one figure of one workload for one [`Cell`] (a peer and how much it was given). Round `i` of all
//! cells of a workload was taken in one interleaved pass, so figures of one round may be divided by each other: noise that
//! lasts longer than a pass cancels out. That is why a ratio is the median of the rounds' ratios, not a ratio of medians.

mod histogram;
mod statistics;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

pub use histogram::Histogram;
pub use statistics::{Spread, Summary, quantile};

/// The version of `results.json` this program writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Of the file; [`FORMAT`].
    pub format: u32,
    /// Where, when and how.
    pub meta: Meta,
    /// What was measured, in the order in which it is shown.
    pub measurements: Vec<Measurement>,
    /// What was asked for and not measured.
    pub skipped: Vec<Skipped>,
}

/// Where, when and how a run was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Of the random order of rounds; the same one gives the same order.
    pub seed: u64,
    /// When it began, as RFC 3339 in UTC.
    pub started: String,
    /// How long it took.
    pub took_seconds: f64,
    /// Rounds taken of each workload.
    pub rounds: usize,
    /// Length of a sample.
    pub sample_seconds: f64,
    /// It was ended before all rounds were taken.
    pub interrupted: bool,
    /// Release and version of the kernel.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// The machine is a virtual one, of this kind.
    pub hypervisor: Option<String>,
    /// Vulnerability to what the kernel does about it.
    pub mitigations: BTreeMap<String, String>,
    /// Program to version: `fairlead`, and those of the peers.
    pub versions: BTreeMap<String, String>,
    /// Settings of the kernel that figures depend on, by path below `/proc/sys`.
    pub settings: BTreeMap<String, String>,
    /// Load averages before and after.
    pub load: [[f64; 3]; 2],
    /// The options of the command, as given or by default.
    pub options: BTreeMap<String, String>,
}

/// A peer and how much it was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the peer, or of the program that is measured in its place.
    pub peer: String,
    /// Services in force, where their number matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<u32>,
    /// Endpoints of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u32>,
    /// Flows among which the traffic is spread, where that is not the workload's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
}

impl Cell {
    /// A peer for which services do not matter.
    pub fn bare(peer: impl Into<String>) -> Self {
        Self { peer: peer.into(), services: None, endpoints: None, flows: None }
    }

    /// A peer with services.
    pub fn with_services(peer: impl Into<String>, services: u32, endpoints: u32) -> Self {
        Self { services: Some(services), endpoints: Some(endpoints), ..Self::bare(peer) }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.peer)?;
        if let Some(services) = self.services {
            write!(formatter, " {services}")?;
        }
        if let Some(flows) = self.flows {
            write!(formatter, ", {flows} flows")?;
        }
        Ok(())
    }
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A rate.
    Higher,
    /// A time, a size.
    Lower,
}

/// One figure of one workload for one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Name of the workload.
    pub workload: String,
    /// Which of its figures, such as `p50`; empty if it has one only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub figure: String,
    /// In words, as the table's heading has it.
    pub title: String,
    /// Of the figure, such as `conn/s`.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// What was measured.
    pub cell: Cell,
    /// The cell of the same workload and figure whose rounds these are divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Cell>,
    /// The cell of the same workload and figure that costs nothing but the measuring: what it takes is subtracted, from
    /// this one and from the reference, before they are divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Cell>,
    /// One figure per round.
    pub rounds: Vec<f64>,
    /// Distribution of single events over all rounds, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
    /// Events that failed (connections refused, packets lost), over all rounds.
    #[serde(default)]
    pub failures: u64,
}

/// Something asked for and not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// A peer, a cell, a workload.
    pub what: String,
    /// Why, and what would help.
    pub reason: String,
}

impl Results {
    /// The same figure of the same workload for another cell.
    pub fn of(&self, like: &Measurement, cell: &Cell) -> Option<&Measurement> {
        let same = |other: &&Measurement| {
            other.workload == like.workload && other.figure == like.figure && other.cell == *cell
        };
        self.measurements.iter().find(same)
    }

    /// What the rounds of a measurement come to.
    pub fn summary(&self, measurement: &Measurement) -> Summary {
        let rounds = |cell: &Option<Cell>| Some(self.of(measurement, cell.as_ref()?)?.rounds.as_slice());
        Summary::new(&measurement.rounds, rounds(&measurement.reference), rounds(&measurement.baseline))
    }

    /// Reads a `results.json`, or the one in this folder.
    ///
    /// # Errors
    /// There is none, or it is of another version.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        let format = value["format"].as_u64();
        ensure!(
            format == Some(FORMAT.into()),
            "{} has format {}; this program reads {FORMAT}",
            path.display(),
            format.map_or_else(|| "none".to_owned(), |format| format.to_string())
        );
        serde_json::from_value(value).with_context(|| format!("{} is not what a run leaves", path.display()))
    }

    /// Writes `results.json` into a folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("results.json");
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
