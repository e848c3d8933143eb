//! `fairlead bench compare`: what moved between two runs, beyond their noise.
//!
//! Ratios to the reference are compared where both runs have them, because these cancel out how fast the machine was;
//! else the figures themselves. A figure has moved when its median shifted further than the rounds of both runs spread,
//! and when so many rounds of one run lie beyond those of the other that chance would hardly (one in a hundred) do that:
//! the test of Mann and Whitney, which assumes nothing about how noise is distributed. With fewer than five rounds chance
//! always may, and nothing is said to have moved.

mod table;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::results::{Better, Cell, Measurement, Results, Spread};

/// In deviations of what chance does: see the module.
const UNLIKELY: f64 = 2.5;
/// Shifts below this part are of no interest, however sure.
const LEAST_SHIFT: f64 = 0.01;

/// Two runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The largest shift first.
    pub moved: Vec<Move>,
    /// Figures that are in both runs and did not move.
    pub unmoved: usize,
    /// Of these, figures with too few rounds to tell.
    pub undecided: usize,
    /// Figures of the first run that the second has not.
    pub only_before: Vec<Name>,
    /// Figures of the second run that the first has not.
    pub only_after: Vec<Name>,
    /// What was not the same about the runs: name to the first's and the second's.
    pub circumstances: BTreeMap<String, [String; 2]>,
}

/// Which figure it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Name {
    /// Name of the workload.
    pub workload: String,
    /// Which of its figures; empty if it has one only.
    pub figure: String,
    /// What was measured.
    pub cell: Cell,
}

/// A figure that moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// Which one.
    #[serde(flatten)]
    pub name: Name,
    /// `ratio` to the reference, or the unit of the figure itself.
    pub unit: String,
    /// Median of the first run.
    pub before: f64,
    /// Median of the second.
    pub after: f64,
    /// By which part it moved: 0.1 is a tenth more.
    pub shift: f64,
    /// Which part the rounds of both runs spread together.
    pub spread: f64,
    /// It moved to where it should.
    pub is_better: bool,
}

impl Comparison {
    /// Of an earlier and a later run.
    pub fn new(before: &Results, after: &Results) -> Self {
        let mut comparison = Self {
            moved: Vec::new(),
            unmoved: 0,
            undecided: 0,
            only_before: missing(before, after),
            only_after: missing(after, before),
            circumstances: circumstances(before, after),
        };
        for old in &before.measurements {
            let Some(new) = find(after, old) else { continue };
            let (unit, [old_rounds, new_rounds]) = match (ratios(before, old), ratios(after, new)) {
                (Some(old), Some(new)) => ("ratio", [old, new]),
                _ => (old.unit.as_str(), [net(before, old), net(after, new)]),
            };
            match shift(&old_rounds, &new_rounds) {
                Verdict::Moved { before, after, shift, spread } => comparison.moved.push(Move {
                    name: name(old),
                    unit: unit.to_owned(),
                    before,
                    after,
                    shift,
                    spread,
                    is_better: (shift > 0.0) == (old.better == Better::Higher),
                }),
                Verdict::Unmoved => comparison.unmoved += 1,
                Verdict::Undecided => {
                    comparison.unmoved += 1;
                    comparison.undecided += 1;
                }
            }
        }
        comparison.moved.sort_by(|a, b| b.shift.abs().total_cmp(&a.shift.abs()));
        comparison
    }
}

enum Verdict {
    Moved { before: f64, after: f64, shift: f64, spread: f64 },
    Unmoved,
    Undecided,
}

fn shift(before: &[f64], after: &[f64]) -> Verdict {
    let (Some(old), Some(new)) = (Spread::new(before), Spread::new(after)) else { return Verdict::Undecided };
    // Even with every round beyond every other.
    if 0.5 / deviation(before.len(), after.len()) < UNLIKELY || old.median == 0.0 {
        return Verdict::Undecided;
    }
    let shift = new.median / old.median - 1.0;
    let spread = old.relative().hypot(new.relative());
    let beyond = (superiority(before, after) - 0.5).abs() / deviation(before.len(), after.len());
    if shift.abs() > spread.max(LEAST_SHIFT) && beyond >= UNLIKELY {
        Verdict::Moved { before: old.median, after: new.median, shift, spread }
    } else {
        Verdict::Unmoved
    }
}

/// How likely a round of the second run is above one of the first.
fn superiority(before: &[f64], after: &[f64]) -> f64 {
    let pairs = before.iter().flat_map(|old| after.iter().map(move |new| (old, new)));
    let above: f64 = pairs
        .map(|(old, new)| match new.total_cmp(old) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        })
        .sum();
    above / (before.len() * after.len()) as f64
}

/// How far that lies from a half by chance.
fn deviation(before: usize, after: usize) -> f64 {
    let (before, after) = (before as f64, after as f64);
    ((before + after + 1.0) / (12.0 * before * after)).sqrt()
}

/// The rounds of a measurement less those of its baseline.
fn net(results: &Results, measurement: &Measurement) -> Vec<f64> {
    less(&measurement.rounds, baseline(results, measurement))
}

fn baseline<'a>(results: &'a Results, measurement: &Measurement) -> &'a [f64] {
    let baseline = measurement.baseline.as_ref().and_then(|cell| results.of(measurement, cell));
    baseline.map(|baseline| baseline.rounds.as_slice()).unwrap_or_default()
}

fn less(rounds: &[f64], baseline: &[f64]) -> Vec<f64> {
    rounds.iter().enumerate().map(|(round, figure)| figure - baseline.get(round).unwrap_or(&0.0)).collect()
}

/// The rounds of a measurement divided by those of its reference, if it has one.
fn ratios(results: &Results, measurement: &Measurement) -> Option<Vec<f64>> {
    let reference =
        results.of(measurement, measurement.reference.as_ref().filter(|cell| **cell != measurement.cell)?)?;
    let by = less(&reference.rounds, baseline(results, measurement));
    let pairs = net(results, measurement).into_iter().zip(by).filter(|(_, by)| *by > 0.0);
    Some(pairs.map(|(figure, by)| figure / by).collect())
}

fn find<'a>(results: &'a Results, like: &Measurement) -> Option<&'a Measurement> {
    results.of(like, &like.cell)
}

fn name(measurement: &Measurement) -> Name {
    Name { workload: measurement.workload.clone(), figure: measurement.figure.clone(), cell: measurement.cell.clone() }
}

/// Figures of a run that the other has not.
fn missing(from: &Results, other: &Results) -> Vec<Name> {
    from.measurements.iter().filter(|measurement| find(other, measurement).is_none()).map(name).collect()
}

/// What a reader should know before believing that it was the program that moved.
fn circumstances(before: &Results, after: &Results) -> BTreeMap<String, [String; 2]> {
    let all = |results: &Results| -> BTreeMap<String, String> {
        let meta = &results.meta;
        let own = [
            ("kernel", meta.kernel.clone()),
            ("processor", meta.cpu.clone()),
            ("cores", meta.cores.to_string()),
            ("rounds", meta.rounds.to_string()),
            ("length of a sample", format!("{} s", meta.sample_seconds)),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let maps = [&meta.versions, &meta.settings, &meta.mitigations].into_iter().flatten();
        own.into_iter().chain(maps.map(|(name, value)| (name.clone(), value.clone()))).collect()
    };
    let (before, after) = (all(before), all(after));
    let names = before.keys().chain(after.keys());
    let value =
        |of: &BTreeMap<String, String>, name: &String| of.get(name).cloned().unwrap_or_else(|| "none".to_owned());
    names
        .map(|name| (name.clone(), [value(&before, name), value(&after, name)]))
        .filter(|(_, [before, after])| before != after)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{FORMAT, Meta};

    fn results(rounds: &[(&str, &[f64])]) -> Results {
        let measurement = |(peer, rounds): &(&str, &[f64])| Measurement {
            workload: "connect".into(),
            figure: "p50".into(),
            title: "connect latency".into(),
            unit: "ns".into(),
            better: Better::Lower,
            cell: Cell::bare(*peer),
            reference: Some(Cell::bare("direct")),
            baseline: None,
            rounds: rounds.to_vec(),
            histogram: None,
            failures: 0,
        };
        let measurements = rounds.iter().map(measurement).collect();
        Results { format: FORMAT, meta: Meta::default(), measurements, skipped: Vec::new() }
    }

    #[test]
    fn a_slower_machine_moves_no_ratio() {
        let before = results(&[
            ("direct", &[100.0; 9]),
            ("ours", &[110.0, 111.0, 109.0, 110.0, 112.0, 108.0, 110.0, 111.0, 109.0]),
        ]);
        let mut after = before.clone();
        for measurement in &mut after.measurements {
            measurement.rounds.iter_mut().for_each(|round| *round *= 2.0);
        }
        let comparison = Comparison::new(&before, &after);
        let moved: Vec<&str> = comparison.moved.iter().map(|moved| moved.name.cell.peer.as_str()).collect();
        // The reference itself has no ratio, and did become slower.
        assert_eq!(moved, ["direct"]);
        assert!(!comparison.moved[0].is_better && (comparison.moved[0].shift - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_lies_within_the_noise_has_not_moved() {
        let wide = [90.0, 120.0, 100.0, 80.0, 130.0, 95.0, 105.0, 85.0, 115.0];
        let shifted = wide.map(|round| round * 1.1);
        let comparison = Comparison::new(&results(&[("ours", &wide)]), &results(&[("ours", &shifted)]));
        assert_eq!((comparison.moved.len(), comparison.unmoved, comparison.undecided), (0, 1, 0));
        let narrow = [100.0, 100.5, 99.5, 100.2, 99.8, 100.1, 99.9, 100.3, 99.7];
        let shifted = narrow.map(|round| round * 0.9);
        let comparison = Comparison::new(&results(&[("ours", &narrow)]), &results(&[("ours", &shifted)]));
        assert!(comparison.moved[0].is_better, "{comparison:?}");
    }

    #[test]
    fn three_rounds_say_nothing() {
        let comparison = Comparison::new(&results(&[("ours", &[1.0; 3])]), &results(&[("ours", &[2.0; 3])]));
        assert_eq!((comparison.moved.len(), comparison.undecided), (0, 1));
    }

    #[test]
    fn what_only_one_run_has_is_named() {
        let comparison = Comparison::new(&results(&[("a", &[1.0; 5])]), &results(&[("b", &[1.0; 5])]));
        let peers = |names: &[Name]| names.iter().map(|name| name.cell.peer.clone()).collect::<Vec<_>>();
        assert_eq!(
            (peers(&comparison.only_before), peers(&comparison.only_after)),
            (vec!["a".into()], vec!["b".into()])
        );
    }

    /// Of a hundred comparisons of the same noise with itself, about one may be told as a move.
    #[test]
    fn noise_alone_hardly_ever_moves() {
        let mut draw = crate::plan::Draw::new(5);
        let mut rounds = || -> Vec<f64> { (0..9).map(|_| 100.0 + draw.below(1000) as f64 / 50.0).collect() };
        let moved = (0..1000).filter(|_| matches!(shift(&rounds(), &rounds()), Verdict::Moved { .. })).count();
        assert!(moved <= 20, "{moved} of 1000");
    }
}
