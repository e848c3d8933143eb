//! Keys that wait for work.
//!
//! ```text
//!             add                    next                 done
//!   (absent) ─────► ready ─────────────────► working ────────────► (absent)
//!                     ▲                         │ add while working
//!      add_after ─► delayed                     ▼
//!                     └──────── time ──     again ready after done
//! ```
//!
//! A key is handed to one worker at a time and stands in the queue at most once, however many changes touch it. The
//! queue is bounded by the number of keys that exist.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Back-off of a key that keeps failing: doubles from `first` up to `most`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), most: Duration::from_secs(60) }
    }
}

impl Limits {
    /// The pause after `failures` failures in a row, the present one included.
    pub fn pause(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(factor).min(self.most)
    }
}

/// A queue of keys.
#[derive(Debug)]
pub struct Queue<K> {
    limits: Limits,
    inner: Mutex<Inner<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, or to be put there once their worker is done.
    dirty: FxHashSet<K>,
    working: FxHashSet<K>,
    /// The order of `delayed`; the number keeps keys of one instant apart.
    timers: BTreeSet<(Instant, u64)>,
    delayed: FxHashMap<K, (Instant, u64)>,
    by_number: FxHashMap<u64, K>,
    number: u64,
    failures: FxHashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        let inner = Inner {
            ready: VecDeque::new(),
            dirty: FxHashSet::default(),
            working: FxHashSet::default(),
            timers: BTreeSet::new(),
            delayed: FxHashMap::default(),
            by_number: FxHashMap::default(),
            number: 0,
            failures: FxHashMap::default(),
        };
        Self { limits, inner: Mutex::new(inner), wake: Notify::new() }
    }

    /// Puts a key to the end, unless it waits already.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// Puts a key in after a pause; the earliest of several pauses counts.
    pub fn add_after(&self, key: K, pause: Duration) {
        if pause.is_zero() {
            return self.add(key);
        }
        self.lock().delay(key, Instant::now() + pause);
        self.wake.notify_one();
    }

    /// Puts a key in after its back-off, which grows with every call until [`Queue::forget`].
    pub fn add_limited(&self, key: K) {
        let pause = {
            let mut inner = self.lock();
            let failures = inner.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            self.limits.pause(*failures)
        };
        self.add_after(key, pause);
    }

    /// Ends the back-off of a key.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// The next key, once there is one. The caller owes a [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut inner = self.lock();
                inner.ripen(Instant::now());
                if let Some(key) = inner.take() {
                    if !inner.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                inner.timers.first().map(|(at, _)| *at)
            };
            match due {
                None => woken.await,
                Some(at) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// The key if it is ready now, without waiting. The caller owes a [`Queue::done`].
    pub fn try_next(&self) -> Option<K> {
        let mut inner = self.lock();
        inner.ripen(Instant::now());
        inner.take()
    }

    /// Ends the work on a key; if it was added meanwhile it is ready again.
    pub fn done(&self, key: &K) {
        let mut inner = self.lock();
        inner.working.remove(key);
        if inner.dirty.contains(key) {
            inner.ready.push_back(key.clone());
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Keys that are ready or being worked on.
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.ready.len() + inner.working.len()
    }

    /// True if no key is ready or being worked on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn delay(&mut self, key: K, at: Instant) {
        if let Some(timer) = self.delayed.get(&key).copied() {
            if timer.0 <= at {
                return;
            }
            self.timers.remove(&timer);
            self.by_number.remove(&timer.1);
        }
        self.number += 1;
        let timer = (at, self.number);
        self.timers.insert(timer);
        self.by_number.insert(self.number, key.clone());
        self.delayed.insert(key, timer);
    }

    /// Moves keys whose pause is over to the ready ones.
    fn ripen(&mut self, now: Instant) {
        while let Some(timer) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&timer);
            if let Some(key) = self.by_number.remove(&timer.1) {
                self.delayed.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_is_worked_on_by_one() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.try_next(), Some("a"));
        queue.add("a");
        assert_eq!(queue.try_next(), Some("b"));
        assert_eq!(queue.try_next(), None, "`a` is in work");
        queue.done(&"a");
        assert_eq!(queue.try_next(), Some("a"), "`a` was added while it was in work");
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_empty());
    }

    #[test]
    fn the_earliest_pause_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut inner = queue.lock();
        for seconds in [10, 2, 5] {
            inner.delay("a", after(seconds));
        }
        inner.ripen(after(1));
        assert_eq!(inner.take(), None);
        inner.ripen(after(2));
        assert_eq!(inner.take(), Some("a"));
        inner.working.clear();
        inner.ripen(after(60));
        assert_eq!(inner.take(), None, "the later pauses are gone");
    }

    #[test]
    fn failures_back_off_until_forgotten() {
        let queue = Queue::default();
        let failures = |queue: &Queue<&str>| queue.lock().failures.get("a").copied();
        for _ in 0..16 {
            queue.add_limited("a");
        }
        assert_eq!(failures(&queue), Some(16));
        queue.forget(&"a");
        assert_eq!(failures(&queue), None);
        let pauses = [1, 2, 3, 4, 16, u32::MAX].map(|failures| Limits::default().pause(failures).as_millis());
        assert_eq!(pauses, [5, 10, 20, 40, 60_000, 60_000]);
    }

    #[tokio::test]
    async fn a_worker_that_waits_is_woken() {
        let queue = Queue::default();
        let (key, ()) = tokio::join!(queue.next(), async {
            tokio::task::yield_now().await;
            queue.add_after("a", Duration::from_millis(1));
        });
        assert_eq!(key, "a");
    }
}
