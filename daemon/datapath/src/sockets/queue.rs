//! What is to be looked for, and when.
//!
//! Work that waits is gathered: with a thousand changes a second, its thread is woken a few times in that second, and
//! goes through the namespaces as often.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Announced, Gone};

/// A socket may have been given its endpoint just before that went, and be noted, or connect, just after we looked. So
/// there is a second look, at least this long after the first.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Second looks that fall due within this time are one.
const GATHER: Duration = Duration::from_millis(250);

/// Endpoints that are gone, and where their clients may live.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) gone: Vec<Gone>,
    pub(super) pods: Vec<(String, u32)>,
    pub(super) announced: Option<Announced>,
}

impl Work {
    fn add(&mut self, more: Work) {
        self.gone.extend(more.gone);
        self.pods = more.pods;
        // One word that sockets are being closed is enough.
        self.announced = self.announced.take().or(more.announced);
    }
}

/// Between those who end endpoints and the thread that closes sockets.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    now: Option<Work>,
    /// In order of time.
    later: VecDeque<(Instant, Work)>,
    closed: bool,
}

impl Queue {
    /// To be done as soon as the thread is free.
    pub(super) fn now(&self, work: Work) {
        let mut state = self.lock();
        match &mut state.now {
            Some(before) => before.add(work),
            None => state.now = Some(work),
        }
        self.changed.notify_one();
    }

    /// To be looked at after a while. Nobody is woken, unless he would sleep past it.
    pub(super) fn later(&self, work: Work, now: Instant) {
        let mut state = self.lock();
        match state.later.back_mut() {
            Some((due, before)) if *due >= now + SECOND_LOOK => before.add(work),
            _ => {
                state.later.push_back((now + SECOND_LOOK + GATHER, work));
                if state.later.len() == 1 {
                    self.changed.notify_one();
                }
            }
        }
    }

    /// Waits for work; true if it is a first look. `None` once there is nobody to give any.
    pub(super) fn take(&self) -> Option<(Work, bool)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            // Due before new, or a storm of changes would put it off for ever.
            let wait = state.later.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            if wait == Some(Duration::ZERO)
                && let Some((_, work)) = state.later.pop_front()
            {
                return Some((work, false));
            }
            if let Some(work) = state.now.take() {
                return Some((work, true));
            }
            state = match wait {
                Some(wait) => self
                    .changed
                    .wait_timeout(state, wait)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |woken| woken.0),
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Nobody will give any more work.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(backend: u32) -> Work {
        let gone = Gone { address: ([10, 0, 0, 1], 53).into(), proto: 17, backend, generation: 1 };
        Work { gone: vec![gone], ..Work::default() }
    }

    fn ids(work: &Work) -> Vec<u32> {
        work.gone.iter().map(|gone| gone.backend).collect()
    }

    #[test]
    fn second_looks_are_gathered_and_none_comes_early() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.later(work(1), start);
        queue.later(work(2), start + GATHER);
        queue.later(work(3), start + GATHER + Duration::from_millis(1));
        queue.now(work(4));
        queue.now(work(5));
        let (first, is_first) = queue.take().unwrap();
        assert_eq!((ids(&first), is_first), (vec![4, 5], true));
        let (second, is_first) = queue.take().unwrap();
        assert_eq!((ids(&second), is_first), (vec![1, 2], false));
        assert!(start.elapsed() >= SECOND_LOOK + GATHER);
        let (third, _) = queue.take().unwrap();
        assert_eq!(ids(&third), [3]);
        queue.close();
        assert!(queue.take().is_none());
    }
}
