//! All services at once, into a kernel that has none: what a node does when it starts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::ours::Ours;
use super::{cases, proxy, spec};
use crate::cost::on;
use crate::options::Options;
use crate::peers::Proxy;
use crate::peers::change::Rules;
use crate::results::{Better, Cell};
use crate::rig::namespace::Namespace;
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

/// Everything at once.
#[derive(Debug, Default)]
pub(crate) struct ChangeAll {
    rules: BTreeMap<Cell, Rules>,
    samples: u32,
}

impl Workload for ChangeAll {
    fn name(&self) -> &'static str {
        "change-all"
    }

    fn title(&self) -> &'static str {
        "All services put in force, until the kernel holds them"
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 2] = [
            Figure { name: "time", unit: "ns", better: Better::Lower },
            Figure { name: "in the kernel", unit: "ns", better: Better::Lower },
        ];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        cases(options)
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        match proxy(&stage.options, cell)? {
            Proxy::Ours => Ok(()),
            other => {
                let rules = Rules::new(other, spec(cell)?)?;
                // What cannot be done is said now.
                rules.all(&Namespace::new()?)?;
                self.rules.insert(cell.clone(), rules);
                Ok(())
            }
        }
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, _time: Duration) -> Result<Sample> {
        let (took, kernel) = match self.rules.get(cell) {
            None => {
                self.samples += 1;
                let mut ours = Ours::new(stage, &format!("change-all-{}", self.samples), spec(cell)?)?;
                on(stage.core, || {
                    let before = kernel(UsageWho::RUSAGE_THREAD)?;
                    let (took, _) = ours.all()?;
                    Ok((took, kernel(UsageWho::RUSAGE_THREAD)? - before))
                })?
            }
            Some(rules) => {
                let net = Namespace::new()?;
                on(stage.core, || {
                    let before = kernel(UsageWho::RUSAGE_CHILDREN)?;
                    let start = Instant::now();
                    rules.all(&net)?;
                    Ok((start.elapsed(), kernel(UsageWho::RUSAGE_CHILDREN)? - before))
                })?
            }
        };
        let figures = vec![took.as_nanos() as f64, kernel.as_nanos() as f64];
        Ok(Sample { figures, ..Sample::default() })
    }

    fn lasts(&self, cell: &Cell, _time: Duration) -> Duration {
        let services = cell.services.unwrap_or(1);
        match cell.peer.as_str() {
            // Loading the programs takes longer than filling their tables.
            super::OURS => Duration::from_millis(1500) + Duration::from_micros(10) * services,
            "nftables" => Duration::from_micros(400) * services * services.div_ceil(1000),
            _ => Duration::from_micros(250) * services,
        }
    }
}

/// Time spent in the kernel so far.
fn kernel(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who).context("the kernel does not say how long it worked")?;
    Ok(Duration::from_micros(usage.system_time().num_microseconds().try_into()?))
}
