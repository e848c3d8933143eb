//! Pods that fit nowhere, or could not be bound: when they are tried again.

use std::time::Duration;

use fairlead_informer::{Key, Limits};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// Back-off of a pod between attempts.
const LIMITS: Limits = Limits { first: Duration::from_secs(1), most: Duration::from_secs(10) };
/// A pod that fitted nowhere is tried again after this long even if nothing seems to have changed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Pods with at least one attempt behind them.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pods: FxHashMap<Key, Attempts>,
}

#[derive(Debug)]
struct Attempts {
    uid: String,
    count: u32,
    last: Instant,
    /// Waits for a change of the cluster, not for a timer.
    parked: bool,
}

impl Waiting {
    /// Notes a failed attempt. Answers the pause before the next one.
    pub(crate) fn failed(&mut self, key: &Key, uid: &str, parked: bool, now: Instant) -> Duration {
        let fresh = || Attempts { uid: uid.to_owned(), count: 0, last: now, parked };
        let attempts = self.pods.entry(key.clone()).or_insert_with(fresh);
        if attempts.uid != uid {
            *attempts = fresh();
        }
        attempts.count = attempts.count.saturating_add(1);
        (attempts.last, attempts.parked) = (now, parked);
        if parked { PATIENCE } else { LIMITS.pause(attempts.count) }
    }

    /// The pod is bound, changed, or gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.pods.remove(key);
    }

    /// The cluster changed: all that were parked, with what is left of their back-off.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<(Key, Duration)> {
        let parked = self.pods.iter_mut().filter(|(_, attempts)| attempts.parked);
        parked
            .map(|(key, attempts)| {
                attempts.parked = false;
                (key.clone(), (attempts.last + LIMITS.pause(attempts.count)).saturating_duration_since(now))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_pods_come_back_with_what_is_left_of_their_pause() {
        let mut waiting = Waiting::default();
        let key = Key::new("ns", "a");
        let start = Instant::now();
        assert_eq!(waiting.failed(&key, "1", true, start), PATIENCE);
        let (soon, late) = (start + Duration::from_millis(400), start + Duration::from_secs(5));
        assert_eq!(waiting.release(soon), [(key.clone(), Duration::from_millis(600))]);
        assert_eq!(waiting.release(soon), [], "it is not parked any more");
        waiting.failed(&key, "1", true, soon);
        assert_eq!(waiting.release(late), [(key.clone(), Duration::ZERO)]);
        assert_eq!(waiting.failed(&key, "1", false, late), Duration::from_secs(4));
        assert_eq!(waiting.failed(&key, "2", false, late), Duration::from_secs(1), "another pod of that name");
    }
}
