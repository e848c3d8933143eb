//! How long single events took, in buckets that are narrow where it matters: a sixteenth of a power of two wide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Buckets per power of two, as a power of two.
const SPLIT: u32 = 4;

/// Events by how many nanoseconds they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Histogram {
    /// Number of a bucket to events in it.
    buckets: BTreeMap<u64, u64>,
}

impl Histogram {
    /// Counts an event.
    pub fn record(&mut self, nanoseconds: u64) {
        *self.buckets.entry(bucket(nanoseconds)).or_default() += 1;
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, events) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += events;
        }
    }

    /// Events counted.
    pub fn events(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// Buckets that are not empty, in order: first nanosecond in it, first one after it, events.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.buckets.iter().map(|(bucket, events)| (first(*bucket), first(bucket + 1), *events))
    }

    /// The time within which this part of the events ended, to the width of a bucket. Nothing without events.
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let wanted = part * self.events() as f64;
        let mut seen = 0.0;
        for (from, to, events) in self.buckets() {
            let events = events as f64;
            if seen + events >= wanted {
                return Some(from as f64 + (to - from) as f64 * ((wanted - seen) / events).clamp(0.0, 1.0));
            }
            seen += events;
        }
        None
    }
}

/// The number of a time's bucket.
fn bucket(nanoseconds: u64) -> u64 {
    let power = nanoseconds.max(1 << SPLIT).ilog2() - SPLIT;
    (u64::from(power) << SPLIT) + (nanoseconds >> power)
}

/// The first time in a bucket.
fn first(bucket: u64) -> u64 {
    let power = (bucket >> SPLIT).saturating_sub(1);
    (bucket - (power << SPLIT)) << power
}

/// As it is stored: the first nanosecond of each bucket, and its events.
impl From<Vec<(u64, u64)>> for Histogram {
    fn from(stored: Vec<(u64, u64)>) -> Self {
        Self { buckets: stored.into_iter().map(|(from, events)| (bucket(from), events)).collect() }
    }
}

impl From<Histogram> for Vec<(u64, u64)> {
    fn from(histogram: Histogram) -> Self {
        histogram.buckets().map(|(from, _, events)| (from, events)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_that_starts_at_or_below_it() {
        for time in (0..5000).chain([1 << 20, (1 << 20) + 1, (1 << 40) - 1, u64::MAX >> 2]) {
            let bucket = bucket(time);
            assert!(first(bucket) <= time && time < first(bucket + 1), "{time} in {bucket}");
            // No wider than a sixteenth.
            assert!(first(bucket + 1) - first(bucket) <= (time >> SPLIT).max(1), "{time}");
        }
    }

    #[test]
    fn percentiles_come_out_to_a_bucket_and_survive_storing() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|time| histogram.record(time));
        let stored = serde_json::to_string(&histogram).unwrap();
        let read: Histogram = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, histogram);
        for (part, time) in [(0.5, 5000.0), (0.99, 9900.0), (0.01, 100.0)] {
            let found = read.percentile(part).unwrap();
            assert!((found - time).abs() <= time / 16.0, "{part}: {found}");
        }
        assert_eq!(Histogram::default().percentile(0.5), None);
    }
}
