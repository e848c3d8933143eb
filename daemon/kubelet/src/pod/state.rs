//! What a worker knows of its pod besides the desired object: what the runtime was seen to hold, and what it must
//! remember from one step to the next because no runtime tells it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as wire;

use super::labels;

/// The pod's sandboxes and containers, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

/// A pod sandbox.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) created: Timestamp,
    pub(crate) ready: bool,
    /// Addresses of the pod; empty in the host's network.
    pub(crate) ips: Vec<String>,
}

/// A container, running or not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    /// How often it was restarted before this one.
    pub(crate) attempt: u32,
    pub(crate) sandbox: String,
    pub(crate) created: Timestamp,
    pub(crate) run: Run,
    pub(crate) image: String,
    pub(crate) image_id: String,
    /// Fingerprint of the definition it was made from.
    pub(crate) hash: String,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Run {
    Created,
    Running { started: Timestamp },
    Exited { started: Timestamp, finished: Timestamp, code: i32, reason: String, message: String },
    Unknown,
}

impl Run {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl Observed {
    /// The sandbox the pod lives in, if it has one that works.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The container of this name that was made last.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The one before it.
    pub(crate) fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.run.is_running())
    }
}

impl Container {
    pub(crate) fn from_wire(sandbox: &str, status: wire::ContainerStatus) -> Self {
        let metadata = status.metadata.unwrap_or_default();
        let started = time(status.started_at);
        let run = match status.state {
            s if s == wire::ContainerState::ContainerCreated as i32 => Run::Created,
            s if s == wire::ContainerState::ContainerRunning as i32 => Run::Running { started },
            s if s == wire::ContainerState::ContainerExited as i32 => Run::Exited {
                started,
                finished: time(status.finished_at),
                code: status.exit_code,
                reason: status.reason,
                message: status.message,
            },
            _ => Run::Unknown,
        };
        Self {
            id: status.id,
            name: metadata.name,
            attempt: metadata.attempt,
            sandbox: sandbox.to_owned(),
            created: time(status.created_at),
            run,
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_id: status.image_ref,
            hash: status.annotations.get(labels::HASH).cloned().unwrap_or_default(),
        }
    }
}

impl Sandbox {
    pub(crate) fn from_wire(status: wire::PodSandboxStatus) -> Self {
        let mut ips = Vec::new();
        if let Some(network) = status.network {
            ips.extend(Some(network.ip).filter(|ip| !ip.is_empty()));
            ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
        }
        Self {
            id: status.id,
            attempt: status.metadata.unwrap_or_default().attempt,
            created: time(status.created_at),
            ready: status.state == wire::PodSandboxState::SandboxReady as i32,
            ips,
        }
    }
}

/// CRI's nanoseconds. Zero, which means "never", becomes the epoch.
pub(crate) fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Something under way for a pod; one of a kind at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    Volumes,
    Sandbox,
    Container(String),
    Remove(String),
    Cleanup,
}

/// What no runtime remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) busy: BTreeSet<Slot>,
    pub(crate) volumes_ready: bool,
    pub(crate) volumes_retry: Delay,
    pub(crate) sandbox_retry: Delay,
    pub(crate) cleanup_retry: Delay,
    pub(crate) containers: BTreeMap<String, ContainerMemory>,
    pub(crate) ending: Option<Ending>,
    /// Everything of the pod has been removed.
    pub(crate) cleaned: bool,
}

/// Why and how fast a pod is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// From here the grace period counts.
    pub(crate) since: Timestamp,
    pub(crate) grace: SignedDuration,
    /// The pod stays as a Failed object (deadline exceeded), with this reason and message, instead of going away.
    pub(crate) failed: Option<(String, String)>,
}

/// What is remembered of one container name.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerMemory {
    /// Delay before the next restart.
    pub(crate) restart: Delay,
    /// Delay before the next pull.
    pub(crate) pull: Delay,
    /// Why it could not be started.
    pub(crate) problem: Option<Problem>,
    /// The container that the probe results below belong to.
    pub(crate) id: String,
    /// Its startup probe has succeeded, or it has none.
    pub(crate) started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub(crate) ready: bool,
    /// It must be killed: a liveness or startup probe, or its postStart hook, has failed.
    pub(crate) kill: Option<String>,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) since: Timestamp,
    /// Not to be tried again before.
    pub(crate) until: Timestamp,
    /// The image's name, for pulls.
    pub(crate) image: Option<String>,
}

/// A delay that doubles from one failure to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delay {
    current: Option<SignedDuration>,
    until: Option<Timestamp>,
}

/// First delay.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay.
const LONGEST: SignedDuration = SignedDuration::from_secs(300);

impl Delay {
    /// Another failure at `now`, starting from `first`: when to try again.
    pub(crate) fn fail_from(&mut self, first: SignedDuration, now: Timestamp) -> Timestamp {
        let delay = self.current.map_or(first, |delay| (delay * 2).min(LONGEST));
        self.current = Some(delay);
        let until = now + delay;
        self.until = Some(until);
        until
    }

    /// Another failure at `now`: when to try again.
    pub(crate) fn fail(&mut self, now: Timestamp) -> Timestamp {
        self.fail_from(FIRST, now)
    }

    /// May be tried again from here on.
    pub(crate) fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// A restart at `now`: the next one, should it be needed, has to wait longer.
    pub(crate) fn restarted(&mut self) {
        self.current = Some(self.current.map_or(FIRST, |delay| (delay * 2).min(LONGEST)));
    }

    /// How long a restart has to wait after the end of a container that ran this long. A run of ten minutes forgives
    /// everything before it.
    pub(crate) fn after_run(&self, ran: SignedDuration) -> SignedDuration {
        if ran > LONGEST * 2 { SignedDuration::ZERO } else { self.current.unwrap_or(SignedDuration::ZERO) }
    }

    /// For a container found by a new daemon, restarted so often: the delay it had come to.
    pub(crate) fn resume(&mut self, restarts: u32) {
        if self.current.is_none() {
            (0..restarts.min(8)).for_each(|_| self.restarted());
        }
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_nothing_then_ten_seconds_doubling_to_five_minutes() {
        let mut delay = Delay::default();
        let ran = SignedDuration::from_secs(1);
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.push(delay.after_run(ran).as_secs());
            delay.restarted();
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(delay.after_run(SignedDuration::from_secs(601)), SignedDuration::ZERO);
    }

    #[test]
    fn a_new_daemon_goes_on_with_the_delay_of_the_old_one() {
        let mut delay = Delay::default();
        delay.resume(3);
        assert_eq!(delay.after_run(SignedDuration::from_secs(1)).as_secs(), 40);
        delay.resume(7);
        assert_eq!(delay.after_run(SignedDuration::from_secs(1)).as_secs(), 40, "only once");
    }

    #[test]
    fn a_failure_waits_from_its_first_delay_on() {
        let mut delay = Delay::default();
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(delay.fail(now), now + SignedDuration::from_secs(10));
        assert_eq!(delay.fail(now), now + SignedDuration::from_secs(20));
        delay.reset();
        assert_eq!(delay.fail(now), now + SignedDuration::from_secs(10));
    }
}
