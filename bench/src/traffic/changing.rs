//! New connections while endpoints of other services change a thousand times a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use super::{AT_ONCE, Route, figure, prepare, sources};
use crate::options::{Options, Peer};
use crate::peers::Ours;
use crate::peers::services::{Measured, Spec};
use crate::results::{Better, Cell};
use crate::rig::node::Side;
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

/// Between changes.
const EVERY: Duration = Duration::from_millis(1);

/// New connections while endpoints change.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    turn: u32,
}

fn side(peer: Peer) -> Option<Side> {
    match peer {
        Peer::Direct | Peer::FairleadSocket => Some(Side::Pod),
        Peer::FairleadPacket => Some(Side::Stranger),
        _ => None,
    }
}

fn side_of(cell: &Cell) -> Result<Side> {
    Peer::from_str(&cell.peer, false).ok().and_then(side).context("this traffic does not concern it")
}

/// Changes one endpoint after another until told to stop; how many changes there were per second.
fn change(ours: &mut Ours, spec: Spec, turn: &mut u32, stop: &AtomicBool) -> Result<f64> {
    let start = Instant::now();
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        // All but the last, which is measured.
        let others = spec.services - 1;
        ours.change(spec, *turn % others, *turn / others)?;
        *turn = turn.wrapping_add(1);
        changes += 1;
        let due = start + EVERY * changes;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(f64::from(changes) / start.elapsed().as_secs_f64())
}

impl Workload for Changing {
    fn name(&self) -> &'static str {
        "connect-rate-changing"
    }

    fn title(&self) -> &'static str {
        "New TCP connections per second while 1,000 endpoints a second change"
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 2] =
            [figure("", "conn/s", Better::Higher), figure("changes", "changes/s", Better::Higher)];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        let mut cases = super::cases(options, |peer| side(peer).is_some());
        // With one service there is none to change.
        cases.retain(|case| case.cell.services != Some(1));
        if cases.iter().all(|case| case.cell.services.is_none()) {
            cases.clear();
        }
        cases
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        prepare(stage, cell, side_of(cell)?)
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let side = side_of(cell)?;
        let (route, from, core) = (Route::of(stage, cell, side)?, sources(stage, side), stage.core);
        let rig = route.rig(stage)?;
        let to = route.address(rig, Measured::Echo);
        rig.client(core, side)?;
        let stop = AtomicBool::new(false);
        let turn = &mut self.turn;
        let (client, ours) = rig.parts(side)?;
        let (rate, changes) = thread::scope(|scope| {
            let changing = ours.map(|ours| scope.spawn(|| change(ours, route.spec, turn, &stop)));
            let rate = client.rate(to, from, AT_ONCE, time);
            stop.store(true, Ordering::Relaxed);
            let changes = changing.map(|changing| changing.join().map_err(|_| anyhow!("the thread panicked")));
            (rate, changes)
        });
        // Where there are no services nothing changes.
        let changes = changes.transpose()?.transpose()?;
        let rate = rate?;
        if rate.done == 0 {
            bail!("all {} connections failed", rate.failed);
        }
        let figures = std::iter::once(rate.per_second()).chain(changes).collect();
        Ok(Sample { figures, failures: rate.failed, histogram: None })
    }
}
