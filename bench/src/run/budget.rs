//! How many rounds of which length: what was asked for, or what two minutes allow.

use std::time::Duration;

use crate::options::Options;

/// A quick run is over by then, from its start to its table.
const QUICK: Duration = Duration::from_secs(108);
/// Of a sample where nobody says.
const SAMPLE: Duration = Duration::from_millis(500);
/// What a quick run chooses from.
const SAMPLES: [u64; 9] = [300, 200, 150, 120, 90, 70, 50, 35, 20];
/// Fewer tell nothing of their spread.
const LEAST: usize = 3;
/// Around each sample.
const OVERHEAD: Duration = Duration::from_millis(12);

/// How many rounds of which length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Budget {
    pub(super) rounds: usize,
    pub(super) sample: Duration,
    /// What it comes to, warming up included.
    pub(super) total: Duration,
    /// When a run must be over, and how long a round takes.
    limit: Option<(Duration, Duration)>,
}

impl Budget {
    /// There is no time for this round any more.
    pub(super) fn is_spent(&self, round: usize, elapsed: Duration) -> bool {
        round > LEAST && self.limit.is_some_and(|(end, one)| elapsed + one > end)
    }
}

/// `lasts` says how long one round takes with samples of a given length, without what is around them.
pub(super) fn plan(
    options: &Options,
    elapsed: Duration,
    samples: usize,
    lasts: impl Fn(Duration) -> Duration,
) -> Budget {
    let around = OVERHEAD * u32::try_from(samples).unwrap_or(u32::MAX);
    let round = |sample: Duration| lasts(sample) + around;
    let total = |rounds: usize, sample| round(sample) * rounds as u32 + round(sample / super::WARM);
    let left = QUICK.saturating_sub(elapsed);
    let (rounds, sample) = match (options.quick, options.seconds) {
        (false, seconds) => (options.rounds(), seconds.unwrap_or(SAMPLE)),
        (true, Some(seconds)) => (options.rounds(), seconds),
        (true, None) => {
            let mut offers = SAMPLES.map(Duration::from_millis).into_iter();
            let least = Duration::from_millis(SAMPLES[SAMPLES.len() - 1]);
            let sample = offers.find(|sample| total(options.rounds(), *sample) <= left).unwrap_or(least);
            let fitting = (LEAST..=options.rounds()).rev().find(|rounds| total(*rounds, sample) <= left);
            (fitting.unwrap_or(LEAST), sample)
        }
    };
    let limit = options.quick.then(|| (QUICK, round(sample)));
    Budget { rounds, sample, total: total(rounds, sample), limit }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::parse_from(std::iter::once("bench").chain(line.split_whitespace())).options
    }

    #[test]
    fn what_is_asked_for_is_done() {
        let budget = plan(&options("--rounds 7 --seconds 0.25"), Duration::ZERO, 100, |sample| sample * 100);
        assert_eq!((budget.rounds, budget.sample), (7, Duration::from_millis(250)));
        assert!(!budget.is_spent(7, Duration::from_secs(10_000)));
    }

    #[test]
    fn a_quick_run_takes_no_more_than_is_left() {
        for (samples, elapsed) in [(10, 1), (100, 10), (150, 20), (300, 30)] {
            let elapsed = Duration::from_secs(elapsed);
            let budget = plan(&options("--quick"), elapsed, samples as usize, |sample| sample * samples);
            assert!(budget.rounds >= LEAST && elapsed + budget.total <= QUICK, "{samples}: {budget:?}");
        }
    }

    #[test]
    fn a_quick_run_that_falls_behind_ends_early_with_enough_rounds() {
        let budget = plan(&options("--quick"), Duration::from_secs(10), 100, |sample| sample * 100);
        assert!(!budget.is_spent(LEAST, Duration::from_secs(200)));
        assert!(budget.is_spent(LEAST + 1, Duration::from_secs(107)));
    }
}
