//! From figures to places, and which places are named.

/// An axis: what it spans, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Axis {
    /// From nothing to a bit more than the largest.
    pub(super) fn linear(high: f64, from: f64, to: f64) -> Self {
        Self { low: 0.0, high: if high > 0.0 { high * 1.04 } else { 1.0 }, from, to, is_log: false }
    }

    /// Decades, with some room at both ends.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = if low > 0.0 { low } else { 1e-3 };
        let high = high.max(low * 1.5);
        let room = (high / low).powf(0.04).max(1.05);
        Self { low: low / room, high: high * room, from, to, is_log: true }
    }

    /// Decades if the figures are that far apart, else from nothing on.
    pub(super) fn suited(low: f64, high: f64, from: f64, to: f64) -> Self {
        const FAR: f64 = 15.0;
        if low > 0.0 && high / low > FAR { Self::log(low, high, from, to) } else { Self::linear(high, from, to) }
    }

    /// Where a figure lies; one beyond the axis at its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let part = if self.is_log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    /// Figures to name, round ones, about as many as `most`.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        if !self.is_log {
            let raw = (self.high - self.low) / most as f64;
            let power = 10f64.powf(raw.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| *step >= raw);
            let step = step.unwrap_or(power * 10.0);
            return (0..).map(|number| self.low + f64::from(number) * step).take_while(|at| *at <= self.high).collect();
        }
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let within = |at: &f64| (self.low..=self.high).contains(at);
        let all = |parts: &[f64]| -> Vec<f64> {
            decades
                .clone()
                .flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power)))
                .filter(within)
                .collect()
        };
        // The finest division that is not too many.
        let divisions: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let fitting = divisions.into_iter().map(all).find(|ticks| ticks.len() <= most);
        fitting.unwrap_or_else(|| {
            let ticks = all(&[1.0]);
            let every = ticks.len().div_ceil(most.max(1));
            ticks.into_iter().step_by(every).collect()
        })
    }
}

/// Moves places apart that would cover each other, keeping their order and staying within the bounds.
pub(super) fn spread(places: &mut [f64], least: f64, low: f64, high: f64) {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|a, b| places[*a].total_cmp(&places[*b]));
    let mut before = low - least;
    for place in &order {
        places[*place] = places[*place].max(before + least);
        before = places[*place];
    }
    let mut after = high + least;
    for place in order.iter().rev() {
        places[*place] = places[*place].min(after - least);
        after = places[*place];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_middles_lie_where_they_should() {
        let axis = Axis::linear(100.0, 10.0, 114.0);
        assert!((axis.place(0.0) - 10.0).abs() < 1e-9 && (axis.place(50.0) - 60.0).abs() < 1e-9);
        let axis = Axis::log(1.0, 10_000.0, 0.0, 100.0);
        let middle = (axis.place(1.0) + axis.place(10_000.0)) / 2.0;
        assert!((axis.place(100.0) - middle).abs() < 1e-9);
        assert_eq!((axis.place(0.0), axis.place(1e9)), (0.0, 100.0));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Axis::linear(1.2, 0.0, 1.0).ticks(6), [0.0, 0.5, 1.0]);
        assert_eq!(Axis::log(1.0, 10_000.0, 0.0, 1.0).ticks(6), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        for high in [0.3, 1.0, 17.0, 15_140.0, 2.3e6] {
            let ticks = Axis::linear(high, 0.0, 1.0).ticks(5);
            assert!((2..=7).contains(&ticks.len()), "{high}: {ticks:?}");
        }
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let mut places = [50.0, 51.0, 10.0, 99.0, 98.0];
        spread(&mut places, 12.0, 0.0, 100.0);
        let mut sorted = places;
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 12.0 - 1e-9), "{places:?}");
        assert!(places.iter().all(|place| (0.0..=100.0).contains(place)), "{places:?}");
        assert!(places[0] < places[1] && places[4] < places[3]);
    }
}
