//! What comes in to a worker from its own steps and probes, and what it remembers of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Done, Worker};
use crate::context::Context;
use crate::outbox::Kind;
use crate::pod::PodName;
use crate::pod::act;
use crate::pod::start::Failure;
use crate::pod::state::{Container, Memory, Observed, Problem, Run, Slot};
use crate::probe::{self, Probing, Verdict};

/// A container that cannot be configured is tried again after this long, or when an object it uses changes.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// A volume that cannot be made, or a sandbox: first delay.
const SETUP_RETRY: SignedDuration = SignedDuration::from_secs(1);
/// Largest termination message.
const MESSAGE: usize = 4_096;
/// Of the log, so many lines stand in for a missing message.
const LINES: usize = 80;

impl Worker {
    /// Takes in what a step came to.
    pub(super) fn done(&mut self, result: Result<(Slot, Done), tokio::task::JoinError>) {
        let now = Timestamp::now();
        let (slot, done) = match result {
            Ok(done) => done,
            Err(error) => {
                // Aborted, by the pod's end; which one does not matter, the next look at the runtime tells.
                debug!(pod = %self.name, error = %error, "a step was given up");
                self.memory.busy.retain(|slot| !matches!(slot, Slot::Container(_)));
                return;
            }
        };
        self.memory.busy.remove(&slot);
        match done {
            Done::Volumes(Ok(())) => {
                self.memory.volumes_ready = true;
                self.memory.volumes_retry.reset();
            }
            Done::Volumes(Err(error)) => {
                self.memory.volumes_retry.fail_from(SETUP_RETRY, now);
                self.context.pod_event(Kind::Warning, &self.name, "FailedMount", &error);
            }
            Done::Sandbox(Ok(_)) => self.memory.sandbox_retry.reset(),
            Done::Sandbox(Err(error)) => {
                self.memory.sandbox_retry.fail_from(SETUP_RETRY, now);
                warn!(pod = %self.name, error, "cannot create the sandbox");
            }
            Done::Started(name, result) => self.started(name, result, now),
            Done::Stopped(slot, result) => {
                if let Err(error) = result {
                    warn!(pod = %self.name, ?slot, error = %error, "cannot stop");
                    if slot == Slot::Sandbox {
                        self.memory.sandbox_retry.fail_from(SETUP_RETRY, now);
                    }
                }
            }
            Done::Cleaned(Ok(())) => self.memory.cleaned = true,
            Done::Cleaned(Err(error)) => {
                self.memory.cleanup_retry.fail_from(SETUP_RETRY, now);
                warn!(pod = %self.name, error, "cannot remove everything of the pod");
            }
            Done::Refreshed => {}
        }
    }

    fn started(&mut self, name: String, result: Result<String, Failure>, now: Timestamp) {
        self.starting.remove(&name);
        let image = act::find(&self.pod.spec.clone().unwrap_or_default(), &name).0.and_then(|spec| spec.image.clone());
        let memory = self.memory.containers.entry(name).or_default();
        memory.problem = None;
        match result {
            Ok(_) => memory.pull.reset(),
            Err(Failure::Pull { reason, message }) => {
                let until = memory.pull.fail(now);
                memory.problem = Some(Problem { reason, message, since: now, until, image });
            }
            Err(Failure::Create { reason, message }) => {
                memory.problem = Some(Problem { reason, message, since: now, until: now + CONFIG_RETRY, image: None });
            }
            Err(Failure::Start { message }) => {
                debug!(pod = %self.name, error = message, "a container did not start");
            }
            Err(Failure::PostStart { id, message }) => {
                memory.id = id;
                memory.kill = Some(message);
            }
        }
    }

    /// Takes in a probe's verdict.
    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        let Some(memory) = self.memory.containers.get_mut(&verdict.container) else { return };
        if memory.id != verdict.id {
            return;
        }
        match (verdict.kind, verdict.success) {
            (probe::Kind::Startup, true) => memory.started = true,
            (probe::Kind::Readiness, success) => memory.ready = success,
            (probe::Kind::Startup, false) => memory.kill = Some("failed startup probe".into()),
            (probe::Kind::Liveness, false) => memory.kill = Some("failed liveness probe".into()),
            (probe::Kind::Liveness, true) => {}
        }
    }

    /// A ConfigMap or Secret may have changed: bring volumes up to date, and try again what lacked one.
    pub(super) fn refresh(&mut self) {
        for memory in self.memory.containers.values_mut() {
            if let Some(problem) = memory.problem.as_mut().filter(|problem| problem.image.is_none()) {
                problem.until = Timestamp::now();
            }
        }
        self.memory.volumes_retry.reset();
        if !self.memory.volumes_ready || self.memory.ending.is_some() || self.memory.busy.contains(&Slot::Volumes) {
            return;
        }
        let (context, pod, ips, name) = (self.context.clone(), self.pod.clone(), self.ips(), self.name.clone());
        self.spawn(Slot::Volumes, async move {
            if let Err(error) = act::prepare(context.clone(), pod, ips).await {
                context.pod_event(Kind::Warning, &name, "FailedMount", &error);
            }
            Done::Refreshed
        });
    }
}

/// The probes of a pod's running containers.
#[derive(Debug, Default)]
pub(super) struct Probes {
    tasks: JoinSet<()>,
    running: BTreeMap<(String, probe::Kind), tokio::task::AbortHandle>,
}

impl Probes {
    /// Starts the probes that should run and stops the others.
    pub(super) fn update(
        &mut self,
        context: &Arc<Context>,
        pod: &Arc<Pod>,
        observed: &Observed,
        memory: &mut Memory,
        before: &PodStatus,
        verdicts: &mpsc::Sender<Verdict>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let spec = pod.spec.clone().unwrap_or_default();
        let inits = spec.init_containers.iter().flatten().map(|container| (container, true));
        let mains = spec.containers.iter().map(|container| (container, false));
        let mut wanted = Vec::new();
        for (container, init) in inits.chain(mains) {
            let Some(seen) = observed.latest(&container.name).filter(|seen| seen.run.is_running()) else { continue };
            let state = memory.containers.entry(container.name.clone()).or_default();
            if state.id != seen.id {
                // New, or taken over from before a restart of the daemon: then it is as ready as it was reported.
                let old = reported(before, &container.name, &seen.id);
                state.id.clone_from(&seen.id);
                state.kill = None;
                state.started = container.startup_probe.is_none() || old.is_some_and(|old| old.started == Some(true));
                state.ready = container.readiness_probe.is_none() || old.is_some_and(|old| old.ready);
            }
            let kinds: &[probe::Kind] = match (memory.ending.is_some(), state.started) {
                (true, _) if container.readiness_probe.is_none() => &[],
                (true, _) => &[probe::Kind::Readiness],
                (false, false) => &[probe::Kind::Startup],
                (false, true) if state.kill.is_some() => &[probe::Kind::Readiness],
                (false, true) => &[probe::Kind::Readiness, probe::Kind::Liveness],
            };
            for kind in kinds.iter().copied().filter(|kind| kind.of(container).is_some()) {
                wanted.push((seen.id.clone(), kind));
                if self.running.contains_key(&(seen.id.clone(), kind)) {
                    continue;
                }
                let Run::Running { started } = seen.run else { continue };
                let age = Timestamp::now().duration_since(started);
                let ip = if spec.host_network == Some(true) {
                    context.host.ip.clone()
                } else {
                    observed.sandbox().and_then(|sandbox| sandbox.ips.first()).cloned().unwrap_or_default()
                };
                let probing = Probing {
                    context: context.clone(),
                    pod: PodName::of(pod),
                    container: container.clone(),
                    path: crate::context::field_path(container, init),
                    id: seen.id.clone(),
                    kind,
                    ip,
                    age: Duration::try_from(age).unwrap_or(Duration::ZERO),
                    verdict: (kind == probe::Kind::Readiness).then_some(state.ready),
                    verdicts: verdicts.clone(),
                };
                self.running.insert((seen.id.clone(), kind), self.tasks.spawn(probing.run()));
            }
        }
        self.running.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
    }
}

/// The containers that wait for a restart since the new status, be it for the first time or after another end.
pub(super) fn new_back_offs(before: &PodStatus, now: &PodStatus) -> Vec<String> {
    let waits = |status: &ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("CrashLoopBackOff")
    };
    let all = |status: &PodStatus| -> Vec<ContainerStatus> {
        status.init_container_statuses.iter().chain(&status.container_statuses).flatten().cloned().collect()
    };
    let old = all(before);
    let known = |status: &ContainerStatus| {
        old.iter().any(|old| old.name == status.name && waits(old) && old.restart_count == status.restart_count)
    };
    all(now).into_iter().filter(|status| waits(status) && !known(status)).map(|status| status.name).collect()
}

fn reported<'a>(status: &'a PodStatus, name: &str, id: &str) -> Option<&'a ContainerStatus> {
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|status| {
        status.name == name && status.container_id.as_deref().is_some_and(|full| full.ends_with(&format!("://{id}")))
    })
}

/// Puts what the container left at its termination path into its end; by policy, the end of its log instead.
pub(super) fn termination_message(context: &Context, pod: &PodName, container: &mut Container, policy: Option<&str>) {
    let Run::Exited { message, code, .. } = &mut container.run else { return };
    let places = crate::pod::container::Places { dir: context.config.pod_dir(&pod.uid), volumes: Vec::new() };
    let file = places.termination_log(&container.name, container.attempt);
    let mut text = std::fs::read(&file).unwrap_or_default();
    if text.is_empty() && policy == Some("FallbackToLogsOnError") && *code != 0 {
        let dir = context.config.pod_log_dir(&pod.namespace, &pod.name, &pod.uid);
        let log = dir.join(&container.name).join(format!("{}.log", container.attempt));
        text = crate::logs::tail_text(&log, LINES, MESSAGE);
    }
    if !text.is_empty() {
        text.truncate(MESSAGE);
        *message = String::from_utf8_lossy(&text).into_owned();
    }
}
