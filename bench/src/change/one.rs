//! One endpoint of one service among many becomes another one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::ours::Ours;
use super::{cases, proxy, spec};
use crate::cost::on;
use crate::options::Options;
use crate::peers::Proxy;
use crate::peers::change::Rules;
use crate::results::{Better, Cell, Histogram, quantile};
use crate::rig::namespace::Namespace;
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

/// Changes of one sample: after as many, another second of them would tell nothing new.
const MOST: usize = 4000;
/// Between changes of ours. They come from outside, so that caches have other things in them.
const PAUSE: Duration = Duration::from_micros(100);

/// Somebody who has all services in force.
#[derive(Debug)]
enum Holder {
    Ours(Box<Ours>),
    Peer(Rules, Namespace),
}

/// One endpoint at a time.
#[derive(Debug, Default)]
pub(crate) struct ChangeOne {
    holders: BTreeMap<Cell, Holder>,
    turn: u32,
}

impl Workload for ChangeOne {
    fn name(&self) -> &'static str {
        "change-one"
    }

    fn title(&self) -> &'static str {
        "One endpoint changed, until the kernel holds it"
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 2] = [
            Figure { name: "p50", unit: "ns", better: Better::Lower },
            Figure { name: "p99", unit: "ns", better: Better::Lower },
        ];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        cases(options)
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let spec = spec(cell)?;
        let holder = match proxy(&stage.options, cell)? {
            Proxy::Ours => {
                let mut ours = Ours::new(stage, &format!("change-one-{}", spec.services), spec)?;
                ours.all()?;
                Holder::Ours(Box::new(ours))
            }
            other => {
                let rules = Rules::new(other, spec)?;
                let net = Namespace::new()?;
                rules.all(&net)?;
                Holder::Peer(rules, net)
            }
        };
        self.holders.insert(cell.clone(), holder);
        Ok(())
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let holder = self.holders.get_mut(cell).context("nothing was prepared")?;
        let turn = &mut self.turn;
        let mut times = on(stage.core, || changes(holder, turn, time))?;
        let mut histogram = Histogram::default();
        times.iter().for_each(|time| histogram.record(*time as u64));
        times.sort_by(f64::total_cmp);
        let figures = vec![quantile(&times, 0.5), quantile(&times, 0.99)];
        Ok(Sample { figures, histogram: Some(histogram), failures: 0 })
    }

    fn lasts(&self, cell: &Cell, time: Duration) -> Duration {
        if cell.peer == super::OURS { time } else { time.max(Duration::from_micros(80) * cell.services.unwrap_or(1)) }
    }
}

/// Nanoseconds of each change; at least one.
fn changes(holder: &mut Holder, turn: &mut u32, time: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || (start.elapsed() < time && times.len() < MOST) {
        *turn = turn.wrapping_add(1);
        let took = match holder {
            Holder::Ours(ours) => {
                std::thread::sleep(PAUSE);
                ours.one(*turn)?.0
            }
            Holder::Peer(rules, net) => {
                // Twice, since the first of two would be none if the last sample ended with it.
                let began = Instant::now();
                rules.part(net, 0)?;
                rules.part(net, 1)?;
                began.elapsed() / 2
            }
        };
        times.push(took.as_nanos() as f64);
    }
    Ok(times)
}
