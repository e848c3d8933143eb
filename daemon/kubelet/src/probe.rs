//! Probes: one task per probe of a running container, which checks at its period and speaks up when the verdict changes.
//!
//! Counting is pure ([`Streak`]); how a check is made is in [`check`]. What a verdict means for the pod is the worker's
//! business.

pub(crate) mod check;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::outbox::Kind as EventKind;
use crate::pod::PodName;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// A verdict that is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) success: bool,
}

/// Counts results until they make a verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streak {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Streak {
    pub(crate) fn new(probe: &Probe, verdict: Option<bool>) -> Self {
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            last: None,
            run: 0,
            verdict,
        }
    }

    /// Takes a result in; the verdict if it is reached, be it the same as before or not.
    pub(crate) fn push(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let needed = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < needed {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

fn seconds(value: Option<i32>, default: u32) -> Duration {
    Duration::from_secs(u64::from(at_least_one(value, default)))
}

/// Everything a probe's task needs.
pub(crate) struct Probing {
    pub(crate) context: Arc<Context>,
    pub(crate) pod: PodName,
    pub(crate) container: Container,
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// The pod's address.
    pub(crate) ip: String,
    /// How long the container runs already.
    pub(crate) age: Duration,
    /// The verdict in force, for a container taken over from before.
    pub(crate) verdict: Option<bool>,
    pub(crate) verdicts: mpsc::Sender<Verdict>,
}

impl Probing {
    /// Probes until aborted, or until a startup probe has succeeded.
    pub(crate) async fn run(self) {
        let Some(probe) = self.kind.of(&self.container).cloned() else { return };
        let period = seconds(probe.period_seconds, 10);
        let timeout = seconds(probe.timeout_seconds, 1);
        let initial = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        tokio::time::sleep(initial.saturating_sub(self.age)).await;
        if self.kind != Kind::Liveness && self.verdict != Some(true) && self.age < period {
            self.hurry(&probe, timeout, period).await;
        }
        let mut streak = Streak::new(&probe, self.verdict);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = check::check(&self.context.cri, &probe, &self.container, &self.id, &self.ip, timeout).await;
            if let Err(output) = &result {
                let message = format!("{} probe failed: {output}", self.kind.name());
                self.context.container_event(EventKind::Warning, &self.pod, &self.path, "Unhealthy", &message);
            }
            let before = streak.verdict;
            let Some(success) = streak.push(result.is_ok()) else { continue };
            let tell = before != Some(success) || (!success && self.kind != Kind::Readiness);
            if tell {
                let verdict =
                    Verdict { container: self.container.name.clone(), id: self.id.clone(), kind: self.kind, success };
                if self.verdicts.send(verdict).await.is_err() {
                    return;
                }
            }
            if success && self.kind == Kind::Startup {
                return;
            }
        }
    }
}

/// First pause between the checks of a container that has just started.
const HURRY: Duration = Duration::from_millis(20);

impl Probing {
    /// Most programs listen within milliseconds of their start: until the first success, or for one period at most, the
    /// check is made again with growing pauses. Failures do not count here, they are what a start looks like.
    async fn hurry(&self, probe: &Probe, timeout: Duration, period: Duration) {
        let begun = tokio::time::Instant::now();
        let mut pause = HURRY;
        while begun.elapsed() + pause < period {
            let result = check::check(&self.context.cri, probe, &self.container, &self.id, &self.ip, timeout).await;
            if result.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_their_thresholds() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Default::default() };
        let mut streak = Streak::new(&probe, None);
        let seen: Vec<Option<bool>> =
            [true, true, false, false, true, false, false, false].map(|result| streak.push(result)).into();
        let want = [None, Some(true), None, None, None, None, None, Some(false)];
        assert_eq!(seen, want);
    }
}
