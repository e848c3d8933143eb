//! A run: prepare everything, then visit every cell in every round, and keep what comes out.

mod budget;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::machine;
use crate::options::Options;
use crate::plan::{self, Turn};
use crate::progress::{Progress, words};
use crate::results::{Cell, FORMAT, Measurement, Results, Skipped};
use crate::session::Interrupt;
use crate::stage::Stage;
use crate::workload::{self, Case, Sample, Workload};

/// The round that warms up takes this part of a sample's time.
const WARM: u32 = 3;

/// A workload, and what of it works here.
struct Running {
    workload: Box<dyn Workload>,
    cases: Vec<Case>,
    /// By cell: one per round.
    samples: Vec<Vec<Sample>>,
    /// Cells that failed on the way.
    failed: BTreeMap<usize, String>,
}

/// The workloads that are wanted.
///
/// # Errors
/// One of those named does not exist.
pub(crate) fn chosen(options: &Options) -> Result<Vec<Box<dyn Workload>>> {
    let all = workload::all();
    let names: Vec<&str> = all.iter().map(|workload| workload.name()).collect();
    if let Some(unknown) = options.workloads.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("no workload is called `{unknown}`; there are {}", names.join(", "));
    }
    Ok(all.into_iter().filter(|workload| options.wants(workload.name())).collect())
}

/// Makes the run.
///
/// # Errors
/// Nothing can be measured at all.
pub(crate) fn run(options: &Options, interrupt: &mut Interrupt) -> Result<Results> {
    let began = Instant::now();
    let seed =
        options.seed.unwrap_or_else(|| u64::from(std::time::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos()));
    let mut meta = machine::describe(options, seed);
    let core = core(options)?;
    let mut progress = Progress::new();
    // Made first, dropped last: what workloads hold is in it.
    let mut stage = Stage::new(options.clone(), core, seed)?;
    let mut skipped = Vec::new();
    let mut running = prepare(&mut stage, &mut progress, interrupt, &mut skipped)?;

    let samples = running.iter().map(|running| running.cases.len()).sum::<usize>();
    ensure!(
        samples > 0 || interrupt.is_set(),
        "nothing of what was asked for can be measured here{}",
        reasons(&skipped)
    );
    let lasts = |time: Duration| -> Duration {
        running.iter().flat_map(|one| one.cases.iter().map(|case| one.workload.lasts(&case.cell, time))).sum()
    };
    let budget = budget::plan(options, began.elapsed(), samples, lasts);
    progress.say(&format!(
        "{} rounds of {samples} samples, {:.2} s each, in random order (seed {seed}) on core {core}: about {}",
        budget.rounds,
        budget.sample.as_secs_f64(),
        words(budget.total)
    ));
    let cells: Vec<usize> = running.iter().map(|running| running.cases.len()).collect();
    let total = samples * (budget.rounds + 1);
    progress.begin(total);
    let mut done = 0;
    for round in 0..=budget.rounds {
        if interrupt.is_set() || budget.is_spent(round, began.elapsed()) {
            break;
        }
        for turn in plan::round(seed, round, &cells) {
            if interrupt.is_set() {
                break;
            }
            take(&mut running[turn.workload], turn, &mut stage, budget.sample, &progress, budget.rounds);
            done += 1;
            progress.step();
        }
        progress
            .mark(|| format!("round {round} of {} done, {} left", budget.rounds, words(progress.left(done, total))));
    }

    meta.interrupted = interrupt.is_set();
    meta.sample_seconds = budget.sample.as_secs_f64();
    meta.settings.append(&mut stage.notes);
    meta.load[1] = machine::load();
    let measurements = collect(running, &mut skipped, &mut meta.rounds);
    meta.took_seconds = began.elapsed().as_secs_f64();
    Ok(Results { format: FORMAT, meta, measurements, skipped })
}

/// The core that all load shares. What drives it keeps to the others, where there are any.
fn core(options: &Options) -> Result<usize> {
    let cores = machine::cores();
    let core = options.core.or(cores.last().copied()).unwrap_or(0);
    ensure!(cores.contains(&core), "core {core} is none of those this process may use: {cores:?}");
    let mut others = nix::sched::CpuSet::new();
    for other in cores.iter().filter(|other| **other != core || cores.len() == 1) {
        others.set(*other)?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &others)?;
    Ok(core)
}

/// Brings every cell to where it can be measured, and says which cannot be.
fn prepare(
    stage: &mut Stage,
    progress: &mut Progress,
    interrupt: &mut Interrupt,
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<Running>> {
    let workloads = chosen(&stage.options)?;
    let planned: Vec<_> = workloads
        .into_iter()
        .map(|workload| {
            let cases = workload.cases(&stage.options);
            (workload, cases)
        })
        .collect();
    progress.begin(planned.iter().map(|(_, cases)| cases.len()).sum());
    let mut running = Vec::new();
    let mut refused = Vec::new();
    for (mut workload, cases) in planned {
        let mut ready = Vec::new();
        for case in cases {
            if interrupt.is_set() {
                break;
            }
            progress.now(|| format!("preparing {}: {}", workload.name(), case.cell));
            match workload.prepare(stage, &case.cell) {
                Ok(()) => ready.push(case),
                Err(error) => refused.push((case.cell, format!("{error:#}"))),
            }
            progress.step();
        }
        // Held against what there is only.
        let cells: Vec<Cell> = ready.iter().map(|case| case.cell.clone()).collect();
        for case in &mut ready {
            case.reference = case.reference.take().filter(|cell| cells.contains(cell));
        }
        // Without what is to be subtracted a figure means something else.
        ready.retain(|case| case.baseline.as_ref().is_none_or(|cell| cells.contains(cell)));
        let samples = vec![Vec::new(); ready.len()];
        running.push(Running { workload, cases: ready, samples, failed: BTreeMap::new() });
    }
    let is_there = |peer: &str| running.iter().flat_map(|one| &one.cases).any(|case| case.cell.peer == peer);
    for (cell, reason) in refused {
        // A peer of which nothing is measured is named once.
        skip(skipped, if is_there(&cell.peer) { cell.to_string() } else { cell.peer }, reason);
    }
    for Skipped { what, reason } in skipped.iter() {
        progress.say(&format!("skipped {what}: {reason}"));
    }
    Ok(running)
}

/// Notes what is not measured; the same thing once.
fn skip(skipped: &mut Vec<Skipped>, what: String, reason: String) {
    let skip = Skipped { what, reason };
    if !skipped.contains(&skip) {
        skipped.push(skip);
    }
}

fn reasons(skipped: &[Skipped]) -> String {
    skipped.iter().map(|skip| format!("\n  {}: {}", skip.what, skip.reason)).collect()
}

/// Takes one sample.
fn take(running: &mut Running, turn: Turn, stage: &mut Stage, time: Duration, progress: &Progress, rounds: usize) {
    if running.failed.contains_key(&turn.cell) {
        return;
    }
    let cell = &running.cases[turn.cell].cell;
    progress.now(|| format!("round {} of {rounds}  {}: {cell}", turn.round, running.workload.title()));
    let time = if turn.round == 0 { time / WARM } else { time };
    match running.workload.run(stage, cell, time) {
        Ok(sample) if turn.round > 0 => running.samples[turn.cell].push(sample),
        Ok(_) => (),
        Err(error) => {
            let reason = format!("{error:#}");
            progress.say(&format!("{}: {cell} failed: {reason}", running.workload.name()));
            running.failed.insert(turn.cell, reason);
        }
    }
}

/// From samples to measurements. Only rounds that are complete for all cells of a workload count.
fn collect(running: Vec<Running>, skipped: &mut Vec<Skipped>, rounds: &mut usize) -> Vec<Measurement> {
    let mut measurements = Vec::new();
    for one in running {
        let Running { workload, cases, samples, failed } = one;
        let works = |place: &usize| !failed.contains_key(place);
        let complete = (0..cases.len()).filter(works).map(|place| samples[place].len()).min().unwrap_or(0);
        *rounds = (*rounds).max(complete);
        for (place, reason) in &failed {
            skip(skipped, format!("{}: {}", workload.name(), cases[*place].cell), reason.clone());
        }
        if complete == 0 {
            continue;
        }
        let gone = |cell: &Cell| cases.iter().position(|case| case.cell == *cell).is_none_or(|place| !works(&place));
        for (place, case) in cases.iter().enumerate().filter(|(place, _)| works(place)) {
            let samples = &samples[place][..complete];
            if case.baseline.as_ref().is_some_and(gone) {
                continue;
            }
            let mut histogram: Option<crate::results::Histogram> = None;
            for found in samples.iter().filter_map(|sample| sample.histogram.as_ref()) {
                histogram.get_or_insert_default().merge(found);
            }
            for (number, figure) in workload.figures().iter().enumerate() {
                let rounds: Vec<f64> =
                    samples.iter().filter_map(|sample| sample.figures.get(number).copied()).collect();
                // Not every cell has every figure.
                if rounds.is_empty() {
                    continue;
                }
                measurements.push(Measurement {
                    workload: workload.name().to_owned(),
                    figure: figure.name.to_owned(),
                    title: workload.title().to_owned(),
                    unit: figure.unit.to_owned(),
                    better: figure.better,
                    cell: case.cell.clone(),
                    reference: case.reference.clone().filter(|cell| !gone(cell)),
                    baseline: case.baseline.clone(),
                    rounds,
                    // Once, not with every figure.
                    histogram: histogram.take(),
                    failures: samples.iter().map(|sample| sample.failures).sum(),
                });
            }
        }
    }
    measurements
}
