//! What can be measured: a workload makes one sample of one cell at a time, whenever the plan says so.
//!
//! A new one is a type that implements [`Workload`] and a line in [`all`].

use std::time::Duration;

use anyhow::Result;

use crate::change::{ChangeAll, ChangeOne, ChangePatch, Memory};
use crate::cost::{ConnectHook, ProgramCost};
use crate::options::Options;
use crate::results::{Better, Cell, Histogram};
use crate::stage::Stage;
use crate::traffic::{Changing, Live, Traffic};

/// A figure that a workload comes to.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Which one it is, such as `p50`; empty if there is one only.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
}

/// A cell to measure, and what it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What to measure.
    pub cell: Cell,
    /// The cell whose rounds this one's are divided by; one of the workload's own.
    pub reference: Option<Cell>,
    /// The cell that costs nothing but the measuring, subtracted from both; one of the workload's own.
    pub baseline: Option<Cell>,
}

/// What one sample came to.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// One figure for each that the workload names.
    pub figures: Vec<f64>,
    /// How long single events took, where that is what the workload is about.
    pub histogram: Option<Histogram>,
    /// Events that failed.
    pub failures: u64,
}

impl From<f64> for Sample {
    fn from(figure: f64) -> Self {
        Self { figures: vec![figure], ..Self::default() }
    }
}

/// Something that can be measured.
pub trait Workload {
    /// As options and results name it.
    fn name(&self) -> &'static str;

    /// In words, as the table's heading has it.
    fn title(&self) -> &'static str;

    /// The figures of each sample.
    fn figures(&self) -> &'static [Figure];

    /// What to measure, given what was asked for.
    fn cases(&self, options: &Options) -> Vec<Case>;

    /// Brings a cell to where it can be measured. All cells are prepared before any is measured.
    ///
    /// # Errors
    /// It cannot be measured here. The message is shown beside its name; it says what is missing and what would help.
    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()>;

    /// Takes a sample that lasts about as long as `time`.
    ///
    /// # Errors
    /// The cell does not work. It is measured no more, and named with the reason.
    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample>;

    /// How long a sample lasts of which `time` is asked for: some do a number of things rather than things for a time.
    fn lasts(&self, _cell: &Cell, time: Duration) -> Duration {
        time
    }
}

/// Every workload, in the order in which the table shows them.
pub fn all() -> Vec<Box<dyn Workload>> {
    let mut all: Vec<Box<dyn Workload>> = Vec::new();
    for traffic in Traffic::all() {
        all.push(Box::new(traffic));
    }
    all.push(Box::new(Changing::default()));
    all.push(Box::new(Live::default()));
    for cost in ProgramCost::all() {
        all.push(Box::new(cost));
    }
    all.push(Box::new(ConnectHook::default()));
    all.push(Box::new(ChangeOne::default()));
    all.push(Box::new(ChangeAll::default()));
    all.push(Box::new(ChangePatch::default()));
    all.push(Box::new(Memory::default()));
    all
}
