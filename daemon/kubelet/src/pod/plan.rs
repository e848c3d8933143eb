//! The pod's state machine: from what should be and what is to what to do next. Pure.
//!
//! ```text
//! volumes ─► sandbox ─► init containers, one by one ─► containers ─► terminal phase ─► sandbox stopped
//!    any state ─(deleted, deadline)─► containers stopped ─► sidecars stopped ─► sandbox stopped ─► removed
//! ```
//!
//! The plan is empty when everything is as it should be, or under way, or has to wait; then it says until when.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodSpec};

use super::labels;
use super::state::{Container, ContainerMemory, Memory, Observed, Run, Slot};

/// One step for the worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make the volumes and the managed files.
    PrepareVolumes,
    /// Make sandbox number `attempt`.
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    /// A sandbox that nothing refers to any more.
    RemoveSandbox {
        id: String,
    },
    /// Pull if needed, create and start a container.
    Start {
        name: String,
        attempt: u32,
        sandbox: String,
    },
    /// Run the preStop hook, then stop within what is left of the grace period.
    Kill {
        id: String,
        name: String,
        grace: SignedDuration,
        why: Kill,
    },
    RemoveContainer {
        id: String,
    },
    /// Remove everything of the pod: containers, sandboxes, volumes, cgroup, logs.
    Cleanup,
}

/// Why a container is killed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kill {
    /// The pod ends.
    PodEnds,
    /// Its definition has changed.
    Changed,
    /// A probe or hook says so.
    Unhealthy(String),
    /// Its sandbox is gone.
    SandboxChanged,
}

/// What to do now, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
    /// Nothing is left to do, ever: the pod is gone.
    pub(crate) finished: bool,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn waits(&mut self, until: Option<Timestamp>, now: Timestamp) -> bool {
        match until {
            Some(until) if until > now => {
                self.wake(until);
                true
            }
            _ => false,
        }
    }
}

/// The steps that bring the pod closer to what it should be.
pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if memory.ending.is_some() {
        end(&mut plan, spec, observed, memory, now);
        return plan;
    }
    if is_over(pod, spec, observed, memory) {
        stop_sandboxes(&mut plan, observed, memory);
        return plan;
    }
    tidy(&mut plan, spec, observed, memory);
    let Some(sandbox) = observed.sandbox() else {
        new_sandbox(&mut plan, observed, memory, now);
        return plan;
    };
    let sandbox = sandbox.id.clone();
    for container in observed.running().filter(|container| container.sandbox != sandbox) {
        kill(&mut plan, memory, container, grace_of(spec, None), Kill::SandboxChanged);
    }
    if !memory.volumes_ready {
        prepare(&mut plan, memory, now);
        return plan;
    }
    if initialize(&mut plan, spec, observed, memory, &sandbox, now) {
        for container in &spec.containers {
            run(&mut plan, spec, container, observed, memory, &sandbox, now);
        }
    }
    plan
}

/// The pod has reached Succeeded or Failed and stays there.
pub(crate) fn is_over(pod: &Pod, spec: &PodSpec, observed: &Observed, memory: &Memory) -> bool {
    let reported = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(reported, Some("Succeeded" | "Failed")) {
        return true;
    }
    if memory.busy.iter().any(|slot| matches!(slot, Slot::Container(_))) {
        return false;
    }
    let init_failed = restart_policy(spec) == "Never"
        && inits(spec).any(|init| {
            !is_sidecar(init)
                && observed.latest(&init.name).and_then(|c| c.run.exit_code()).is_some_and(|code| code != 0)
        });
    init_failed
        || (!spec.containers.is_empty()
            && spec.containers.iter().all(|container| {
                observed
                    .latest(&container.name)
                    .and_then(|seen| seen.run.exit_code())
                    .is_some_and(|code| !restarts(restart_policy(spec), code))
            }))
}

/// Whether a container that ended with `code` is started again.
pub(crate) fn restarts(policy: &str, code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

pub(crate) fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

pub(crate) fn inits(spec: &PodSpec) -> impl DoubleEndedIterator<Item = &Spec> {
    spec.init_containers.iter().flatten()
}

/// An init container that runs as long as the pod does.
pub(crate) fn is_sidecar(container: &Spec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// When an ended container may run again; `None` if it may at once.
pub(crate) fn restart_at(memory: Option<&ContainerMemory>, seen: &Container) -> Option<Timestamp> {
    let Run::Exited { started, finished, .. } = seen.run else { return None };
    let delay = memory?.restart.after_run(finished.duration_since(started));
    (delay > SignedDuration::ZERO).then(|| finished + delay)
}

fn end(plan: &mut Plan, spec: &PodSpec, observed: &Observed, memory: &Memory, now: Timestamp) {
    let Some(ending) = &memory.ending else { return };
    let left = (ending.since + ending.grace).duration_since(now).max(SignedDuration::ZERO);
    let sidecars: Vec<&str> = inits(spec).filter(|init| is_sidecar(init)).map(|init| init.name.as_str()).collect();
    let (side, main): (Vec<&Container>, Vec<&Container>) =
        observed.running().partition(|container| sidecars.contains(&container.name.as_str()));
    if !main.is_empty() {
        for container in main {
            kill(plan, memory, container, left, Kill::PodEnds);
        }
        return;
    }
    // Sidecars end in the opposite order of their start.
    if let Some(last) = side.iter().max_by_key(|c| sidecars.iter().position(|name| *name == c.name)) {
        kill(plan, memory, last, left.max(SignedDuration::from_secs(1)), Kill::PodEnds);
        return;
    }
    if memory.busy.iter().any(|slot| matches!(slot, Slot::Sandbox | Slot::Container(_) | Slot::Volumes)) {
        return;
    }
    if observed.sandboxes.iter().any(|sandbox| sandbox.ready) {
        if !plan.waits(memory.sandbox_retry.until(), now) {
            stop_sandboxes(plan, observed, memory);
        }
        return;
    }
    if ending.failed.is_some() {
        return;
    }
    if memory.cleaned {
        plan.finished = true;
    } else if !memory.busy.contains(&Slot::Cleanup) && !plan.waits(memory.cleanup_retry.until(), now) {
        plan.actions.push(Action::Cleanup);
    }
}

fn stop_sandboxes(plan: &mut Plan, observed: &Observed, memory: &Memory) {
    if memory.busy.contains(&Slot::Sandbox) {
        return;
    }
    if let Some(sandbox) = observed.sandboxes.iter().find(|sandbox| sandbox.ready) {
        plan.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
    }
}

/// Containers that nobody will ask for again: of each name the last two stay, for their logs and exit codes.
fn tidy(plan: &mut Plan, spec: &PodSpec, observed: &Observed, memory: &Memory) {
    let names = inits(spec).chain(&spec.containers).map(|container| container.name.as_str());
    for name in names {
        if memory.busy.contains(&Slot::Container(name.to_owned())) {
            continue;
        }
        let mut ended = observed.containers.iter().filter(|c| c.name == name && !c.run.is_running());
        let newest_runs = observed.latest(name).is_some_and(|latest| latest.run.is_running());
        let keep = if newest_runs { 1 } else { 2 };
        for container in ended.by_ref().skip(keep) {
            if !memory.busy.contains(&Slot::Remove(container.id.clone())) {
                plan.actions.push(Action::RemoveContainer { id: container.id.clone() });
            }
        }
    }
    for sandbox in observed.sandboxes.iter().skip(1) {
        let used = observed.containers.iter().any(|container| container.sandbox == sandbox.id);
        if !used && !memory.busy.contains(&Slot::Remove(sandbox.id.clone())) {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

fn prepare(plan: &mut Plan, memory: &Memory, now: Timestamp) {
    if !memory.busy.contains(&Slot::Volumes) && !plan.waits(memory.volumes_retry.until(), now) {
        plan.actions.push(Action::PrepareVolumes);
    }
}

fn new_sandbox(plan: &mut Plan, observed: &Observed, memory: &Memory, now: Timestamp) {
    let mut running = false;
    for container in observed.running() {
        running = true;
        kill(plan, memory, container, SignedDuration::from_secs(30), Kill::SandboxChanged);
    }
    if running || memory.busy.contains(&Slot::Sandbox) {
        return;
    }
    if !memory.volumes_ready {
        prepare(plan, memory, now);
    } else if !plan.waits(memory.sandbox_retry.until(), now) {
        let attempt = observed.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        plan.actions.push(Action::CreateSandbox { attempt });
    }
}

/// Steps through the init containers. True once the ordinary containers may run.
fn initialize(
    plan: &mut Plan,
    spec: &PodSpec,
    observed: &Observed,
    memory: &Memory,
    sandbox: &str,
    now: Timestamp,
) -> bool {
    let begun = spec
        .containers
        .iter()
        .any(|container| observed.latest(&container.name).is_some_and(|seen| seen.sandbox == sandbox));
    for init in inits(spec) {
        let seen = observed.latest(&init.name).filter(|seen| seen.sandbox == sandbox);
        if is_sidecar(init) {
            run(plan, spec, init, observed, memory, sandbox, now);
            let up = seen.is_some_and(|seen| seen.run.is_running())
                && memory.containers.get(&init.name).is_some_and(|memory| memory.started);
            if !up && !begun {
                return false;
            }
            continue;
        }
        if begun {
            continue;
        }
        match seen.map(|seen| &seen.run) {
            Some(Run::Exited { code: 0, .. }) => {}
            Some(Run::Exited { .. }) if restart_policy(spec) == "Never" => return false,
            _ => {
                run(plan, spec, init, observed, memory, sandbox, now);
                return false;
            }
        }
    }
    true
}

/// Starts, restarts or kills one container.
fn run(
    plan: &mut Plan,
    spec: &PodSpec,
    container: &Spec,
    observed: &Observed,
    memory: &Memory,
    sandbox: &str,
    now: Timestamp,
) {
    if memory.busy.contains(&Slot::Container(container.name.clone())) {
        return;
    }
    let remembered = memory.containers.get(&container.name);
    let seen = observed.latest(&container.name);
    if let Some(seen) = seen.filter(|seen| seen.run.is_running()) {
        if seen.sandbox != sandbox {
            return;
        }
        let unhealthy = remembered.filter(|memory| memory.id == seen.id).and_then(|memory| memory.kill.clone());
        if let Some(why) = unhealthy {
            kill(plan, memory, seen, grace_of(spec, Some(container)), Kill::Unhealthy(why));
        } else if !seen.hash.is_empty() && seen.hash != labels::hash(container) {
            kill(plan, memory, seen, grace_of(spec, None), Kill::Changed);
        }
        return;
    }
    let policy = if is_sidecar(container) { "Always" } else { restart_policy(spec) };
    if let Some(seen) = seen.filter(|seen| seen.sandbox == sandbox) {
        let changed = !seen.hash.is_empty() && seen.hash != labels::hash(container);
        if seen.run.exit_code().is_some_and(|code| !restarts(policy, code)) && !changed {
            return;
        }
    }
    if plan.waits(remembered.and_then(|memory| memory.problem.as_ref()).map(|problem| problem.until), now) {
        return;
    }
    if plan.waits(seen.and_then(|seen| restart_at(remembered, seen)), now) {
        return;
    }
    let attempt = seen.map_or(0, |seen| seen.attempt + 1);
    plan.actions.push(Action::Start { name: container.name.clone(), attempt, sandbox: sandbox.to_owned() });
}

fn kill(plan: &mut Plan, memory: &Memory, container: &Container, grace: SignedDuration, why: Kill) {
    if !memory.busy.contains(&Slot::Container(container.name.clone())) {
        plan.actions.push(Action::Kill { id: container.id.clone(), name: container.name.clone(), grace, why });
    }
}

/// Grace period of a single container's end; a liveness probe may have its own.
fn grace_of(spec: &PodSpec, probed: Option<&Spec>) -> SignedDuration {
    let own = probed
        .and_then(|container| container.liveness_probe.as_ref())
        .and_then(|probe| probe.termination_grace_period_seconds);
    SignedDuration::from_secs(own.or(spec.termination_grace_period_seconds).unwrap_or(30))
}

#[cfg(test)]
mod tests;
