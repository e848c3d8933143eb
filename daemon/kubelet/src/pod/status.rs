//! The pod's status as the API shows it, from desired object, observation and memory. Pure.
//!
//! What the runtime no longer knows (a removed container's exit, an address after the sandbox is gone) is carried over
//! from the status reported before.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::PodName;
use super::plan::{inits, is_sidecar, restart_at, restart_policy, restarts};
use super::state::{Container, ContainerMemory, Memory, Observed, Problem, Run};

mod condition;
mod qos;

pub(crate) use condition::is_ours;
pub(crate) use qos::{Qos, of as qos};

/// The runtime's name in `containerID`, such as `containerd`, and the node's own address.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) runtime: String,
    pub(crate) ip: String,
}

/// The status to report. `before` is the status reported last, or the API's own at the start.
pub(crate) fn status(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    before: &PodStatus,
    host: &Host,
    now: Timestamp,
) -> PodStatus {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let name = PodName::of(pod);
    let pod_text = format!("{}_{}({})", name.name, name.namespace, name.uid);
    let view = Look { spec, observed, memory, host, now, pod: pod_text };
    let old_inits = before.init_container_statuses.as_deref().unwrap_or_default();
    let old_mains = before.container_statuses.as_deref().unwrap_or_default();
    let mut init_statuses: Vec<ContainerStatus> =
        inits(spec).map(|init| view.container(init, old_inits, true)).collect();
    let initialized = inits(spec).zip(&init_statuses).all(|(init, status)| is_initialized(init, status));
    for (init, status) in inits(spec).zip(&mut init_statuses) {
        if !is_sidecar(init) {
            status.ready = exit_code(status) == Some(0);
        }
    }
    let statuses: Vec<ContainerStatus> =
        spec.containers.iter().map(|container| view.container(container, old_mains, initialized)).collect();
    let mut result = PodStatus {
        start_time: before.start_time.clone().or_else(|| Some(second(now))),
        host_ip: Some(host.ip.clone()),
        host_ips: Some(vec![HostIP { ip: host.ip.clone() }]),
        qos_class: Some(qos(spec).name().to_owned()),
        observed_generation: pod.metadata.generation,
        ..before.clone()
    };
    let failed = memory.ending.as_ref().and_then(|ending| ending.failed.clone());
    let over = matches!(before.phase.as_deref(), Some("Succeeded" | "Failed"));
    if let Some((reason, message)) = &failed {
        result.phase = Some("Failed".into());
        result.reason = Some(reason.clone());
        result.message = Some(message.clone());
    } else if !over {
        let phase = phase(spec, &init_statuses, &statuses, memory);
        result.phase = Some(phase.to_owned());
    }
    let ips: Vec<String> = if spec.host_network == Some(true) {
        if observed.sandboxes.is_empty() { Vec::new() } else { vec![host.ip.clone()] }
    } else {
        observed.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    if let Some(first) = ips.first() {
        result.pod_ip = Some(first.clone());
        result.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
    result.conditions = Some(condition::conditions(
        pod,
        spec,
        &condition::Facts {
            phase: result.phase.as_deref().unwrap_or("Pending"),
            initialized,
            sandbox: observed.sandbox().is_some_and(|s| spec.host_network == Some(true) || !s.ips.is_empty()),
            inits: &init_statuses,
            containers: &statuses,
        },
        before,
        now,
    ));
    result.init_container_statuses = (!init_statuses.is_empty()).then_some(init_statuses);
    result.container_statuses = (!statuses.is_empty()).then_some(statuses);
    result
}

/// Seconds are all that the API keeps.
pub(crate) fn second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// What the pod as a whole is doing, from its containers.
pub(crate) fn phase(
    spec: &PodSpec,
    inits_seen: &[ContainerStatus],
    statuses: &[ContainerStatus],
    memory: &Memory,
) -> &'static str {
    let policy = restart_policy(spec);
    let ending = memory.ending.is_some();
    for (init, seen) in inits(spec).zip(inits_seen) {
        if is_sidecar(init) {
            continue;
        }
        match exit_code(seen) {
            Some(0) => {}
            Some(_) if policy == "Never" => return "Failed",
            _ if statuses.iter().all(|status| is_waiting(status) && status.container_id.is_none()) => return "Pending",
            _ => {}
        }
    }
    let mut running = 0;
    let mut waiting = 0;
    let mut stopped = 0;
    let mut failed = 0;
    for status in statuses {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(end) = state.terminated {
            stopped += 1;
            failed += usize::from(end.exit_code != 0);
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    match () {
        () if waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        () if policy == "Always" && !ending => "Running",
        () if failed == 0 && statuses.iter().all(|status| exit_code(status).is_some()) => "Succeeded",
        () if ending || policy == "Never" => "Failed",
        () => "Running",
    }
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_none_or(|state| state.waiting.is_some())
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn is_initialized(init: &Spec, status: &ContainerStatus) -> bool {
    if is_sidecar(init) { status.started == Some(true) } else { exit_code(status) == Some(0) }
}

struct Look<'a> {
    spec: &'a PodSpec,
    observed: &'a Observed,
    memory: &'a Memory,
    host: &'a Host,
    now: Timestamp,
    /// What messages call the pod.
    pod: String,
}

impl Look<'_> {
    fn container(&self, spec: &Spec, before: &[ContainerStatus], initialized: bool) -> ContainerStatus {
        let before = before.iter().find(|status| status.name == spec.name);
        let memory = self.memory.containers.get(&spec.name);
        let image = spec.image.clone().unwrap_or_default();
        let Some(seen) = self.observed.latest(&spec.name) else {
            return self.unseen(spec, before, memory, image, initialized);
        };
        let mut status = ContainerStatus {
            name: spec.name.clone(),
            image: if seen.image.starts_with("sha256:") { image } else { seen.image.clone() },
            image_id: seen.image_id.clone(),
            container_id: Some(self.id(seen)),
            restart_count: i32::try_from(seen.attempt).unwrap_or(i32::MAX),
            resources: spec.resources.clone(),
            ..Default::default()
        };
        status.last_state = self.observed.previous(&spec.name).map(|previous| self.state(previous)).or_else(|| {
            let before = before?;
            let same = before.container_id == status.container_id;
            if same { before.last_state.clone() } else { before.state.clone().filter(|s| s.terminated.is_some()) }
        });
        let state = self.state(seen);
        match &seen.run {
            Run::Running { .. } => {
                let probed = memory.filter(|memory| memory.id == seen.id);
                status.started = Some(probed.is_some_and(|memory| memory.started));
                status.ready = probed.is_some_and(|memory| memory.started && memory.ready);
                status.state = Some(state);
            }
            Run::Created => {
                status.container_id = None;
                status.started = Some(false);
                status.state = Some(self.waits("ContainerCreating", ""));
            }
            _ => {
                status.started = Some(false);
                match self.waiting(spec, seen, memory) {
                    Some(waiting) => {
                        status.last_state = Some(state);
                        status.state = Some(waiting);
                    }
                    None => status.state = Some(state),
                }
            }
        }
        status
    }

    /// Why an ended container that is going to run again does not yet; `None` if it stays ended.
    fn waiting(&self, spec: &Spec, seen: &Container, memory: Option<&ContainerMemory>) -> Option<ContainerState> {
        if self.memory.ending.is_some() {
            return None;
        }
        if let Some(problem) = memory.and_then(|memory| memory.problem.as_ref()) {
            let (reason, message) = problem.shown(self.now);
            return Some(self.waits(reason, &message));
        }
        seen.run.exit_code().filter(|code| restarts_after(self.spec, spec, *code))?;
        let at = restart_at(memory, seen).filter(|at| *at > self.now)?;
        let delay = at.duration_since(finished(seen)?);
        let text = format!("back-off {} restarting failed container={} pod={}", human(delay), spec.name, self.pod);
        Some(self.waits("CrashLoopBackOff", &text))
    }

    fn unseen(
        &self,
        spec: &Spec,
        before: Option<&ContainerStatus>,
        memory: Option<&ContainerMemory>,
        image: String,
        initialized: bool,
    ) -> ContainerStatus {
        let mut status = before.cloned().unwrap_or_else(|| ContainerStatus {
            name: spec.name.clone(),
            image,
            started: Some(false),
            resources: spec.resources.clone(),
            ..Default::default()
        });
        status.ready = false;
        let old = status.state.clone().unwrap_or_default();
        if old.terminated.is_some() {
            // The runtime has forgotten it; its end stands.
        } else if old.running.is_some() {
            status.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some("The container could not be located when the pod was terminated".into()),
                    container_id: status.container_id.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            });
            status.started = Some(false);
        } else {
            let (reason, message) = match memory.and_then(|memory| memory.problem.as_ref()) {
                Some(problem) => problem.shown(self.now),
                None if initialized => ("ContainerCreating", String::new()),
                None => ("PodInitializing", String::new()),
            };
            status.state = Some(self.waits(reason, &message));
        }
        status
    }

    fn waits(&self, reason: &str, message: &str) -> ContainerState {
        ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: (!message.is_empty()).then(|| message.to_owned()),
            }),
            ..Default::default()
        }
    }

    fn state(&self, seen: &Container) -> ContainerState {
        match &seen.run {
            Run::Running { started } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(second(*started)) }),
                ..Default::default()
            },
            Run::Exited { started, finished, code, reason, message } => ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: *code,
                    reason: Some(if !reason.is_empty() {
                        reason.clone()
                    } else if *code == 0 {
                        "Completed".into()
                    } else {
                        "Error".into()
                    }),
                    message: (!message.is_empty()).then(|| message.clone()),
                    started_at: Some(second(*started)),
                    finished_at: Some(second(*finished)),
                    container_id: Some(self.id(seen)),
                    signal: None,
                }),
                ..Default::default()
            },
            Run::Created => self.waits("ContainerCreating", ""),
            Run::Unknown => self.waits("ContainerStatusUnknown", ""),
        }
    }

    fn id(&self, seen: &Container) -> String {
        format!("{}://{}", self.host.runtime, seen.id)
    }
}

fn finished(seen: &Container) -> Option<Timestamp> {
    match seen.run {
        Run::Exited { finished, .. } => Some(finished),
        _ => None,
    }
}

impl Problem {
    /// Reason and message to show: a failed pull turns into its back-off after a second.
    pub(crate) fn shown(&self, now: Timestamp) -> (&'static str, String) {
        match &self.image {
            Some(image) if now >= self.since + SignedDuration::from_secs(1) && self.reason == "ErrImagePull" => {
                ("ImagePullBackOff", format!("Back-off pulling image \"{image}\": ErrImagePull: {}", self.message))
            }
            _ => (self.reason, self.message.clone()),
        }
    }
}

/// A delay the way clients are used to read it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn human(delay: SignedDuration) -> String {
    match (delay.as_secs() / 60, delay.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// Whether a container that ended with `code` runs again. An init container that ended well does not.
fn restarts_after(spec: &PodSpec, container: &Spec, code: i32) -> bool {
    if is_sidecar(container) {
        return true;
    }
    let init = inits(spec).any(|init| init.name == container.name);
    restarts(restart_policy(spec), code) && !(init && code == 0)
}

#[cfg(test)]
mod tests;
