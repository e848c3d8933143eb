//! From rounds to figures that can be compared.

/// Half the width of the middle half, as a part of the median, above which a ratio says little.
const NOISY_RATIO: f64 = 0.05;
/// The same for a figure that is not divided by another one of its round.
const NOISY_VALUE: f64 = 0.10;
/// With fewer rounds there is no telling how far they are spread.
const ROUNDS_FOR_SPREAD: usize = 3;

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lower quartile.
    pub low: f64,
    /// The upper quartile.
    pub high: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn new(figures: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.iter().copied().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let at = |part| quantile(&sorted, part);
        Some(Self { median: at(0.5), low: at(0.25), high: at(0.75), min, max })
    }

    /// Half the width of the middle half, as a part of the median.
    pub fn relative(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.median.abs() }
    }
}

/// The figure below which this part of them lies, between neighbours where it falls between two. They are sorted, and at
/// least one.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// What the rounds of one measurement come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The figure itself, less the baseline where there is one.
    pub value: Option<Spread>,
    /// Round by round, divided by the reference's.
    pub ratio: Option<Spread>,
    /// Too far apart, or too few, to rely on.
    pub is_noisy: bool,
}

impl Summary {
    pub(super) fn new(rounds: &[f64], reference: Option<&[f64]>, baseline: Option<&[f64]>) -> Self {
        let net = |rounds: &[f64]| -> Vec<f64> {
            let less = |(round, figure)| figure - baseline.and_then(|base| base.get(round)).unwrap_or(&0.0);
            rounds.iter().enumerate().map(less).collect()
        };
        let figures = net(rounds);
        let value = Spread::new(&figures);
        let ratio = reference.and_then(|reference| {
            let pairs = figures.iter().zip(net(reference)).filter(|(_, by)| *by > 0.0);
            Spread::new(&pairs.map(|(figure, by)| figure / by).collect::<Vec<_>>())
        });
        let is_wide = match (ratio, value) {
            (Some(ratio), _) => ratio.relative() > NOISY_RATIO,
            (None, Some(value)) => value.relative() > NOISY_VALUE,
            (None, None) => true,
        };
        Self { value, ratio, is_noisy: is_wide || rounds.len() < ROUNDS_FOR_SPREAD }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_each_round() {
        // The machine slows down to a third; the ratio does not care.
        let summary = Summary::new(&[90.0, 60.0, 30.0], Some(&[100.0, 200.0 / 3.0, 100.0 / 3.0]), None);
        let ratio = summary.ratio.unwrap();
        assert!((ratio.median - 0.9).abs() < 1e-9 && ratio.relative() < 1e-9, "{ratio:?}");
        assert!(!summary.is_noisy);
        assert!((summary.value.unwrap().relative() - 0.25).abs() < 1e-9);
    }

    #[test]
    fn a_baseline_is_taken_off_both_sides() {
        let summary = Summary::new(&[60.0; 3], Some(&[50.0; 3]), Some(&[40.0; 3]));
        assert_eq!(summary.value.unwrap().median, 20.0);
        assert_eq!(summary.ratio.unwrap().median, 2.0);
    }

    #[test]
    fn wide_or_few_rounds_are_noisy() {
        assert!(Summary::new(&[80.0, 100.0, 120.0], Some(&[100.0; 3]), None).is_noisy);
        assert!(Summary::new(&[100.0; 2], Some(&[100.0; 2]), None).is_noisy);
        assert!(!Summary::new(&[95.0, 100.0, 105.0], None, None).is_noisy);
        assert!(Summary::new(&[], None, None).is_noisy);
    }

    #[test]
    fn quartiles_fall_between_neighbours() {
        let spread = Spread::new(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
        assert_eq!((spread.min, spread.max), (1.0, 4.0));
    }
}
