//! The pod's conditions. Each keeps the time of its last change of status; conditions of others stay as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};

use super::{is_initialized, second};
use crate::pod::plan::{inits, is_sidecar};

/// The conditions a kubelet reports; the rest belong to others.
const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether a condition is the kubelet's.
pub(crate) fn is_ours(kind: &str) -> bool {
    OURS.contains(&kind)
}

/// What the conditions follow from.
pub(super) struct Facts<'a> {
    pub(super) phase: &'a str,
    pub(super) initialized: bool,
    pub(super) sandbox: bool,
    pub(super) inits: &'a [ContainerStatus],
    pub(super) containers: &'a [ContainerStatus],
}

/// Status, reason and message of a condition.
type Verdict = (bool, Option<&'static str>, Option<String>);

/// All conditions, ours first in the order every kubelet reports them, then those of others.
pub(super) fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    facts: &Facts<'_>,
    before: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let over = matches!(facts.phase, "Succeeded" | "Failed");
    let containers = containers_ready(spec, facts);
    let verdicts: [Verdict; 5] = [
        (facts.sandbox && !over, None, None),
        initialized(spec, facts),
        ready(spec, before, &containers),
        containers,
        (true, None, None),
    ];
    let old = before.conditions.as_deref().unwrap_or_default();
    let mut result: Vec<PodCondition> = OURS
        .into_iter()
        .zip(verdicts)
        .map(|(kind, (holds, reason, message))| {
            let status = if holds { "True" } else { "False" };
            let since = old
                .iter()
                .find(|condition| condition.type_ == kind && condition.status == status)
                .and_then(|condition| condition.last_transition_time.clone());
            PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.map(str::to_owned),
                message,
                last_transition_time: since.or_else(|| Some(second(now))),
                last_probe_time: None,
                observed_generation: pod.metadata.generation,
            }
        })
        .collect();
    result.extend(old.iter().filter(|condition| !is_ours(&condition.type_)).cloned());
    result
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    statuses.map(|status| status.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn initialized(spec: &PodSpec, facts: &Facts<'_>) -> Verdict {
    if facts.phase == "Succeeded" {
        return (true, Some("PodCompleted"), None);
    }
    if facts.initialized {
        return (true, None, None);
    }
    let missing = inits(spec).zip(facts.inits).filter(|(init, status)| !is_initialized(init, status));
    let text = format!("containers with incomplete status: [{}]", names(missing.map(|(_, status)| status)));
    (false, Some("ContainersNotInitialized"), Some(text))
}

fn containers_ready(spec: &PodSpec, facts: &Facts<'_>) -> Verdict {
    match facts.phase {
        "Succeeded" => return (false, Some("PodCompleted"), None),
        "Failed" => return (false, Some("PodFailed"), None),
        _ => {}
    }
    let sidecars = inits(spec).zip(facts.inits).filter(|(init, _)| is_sidecar(init)).map(|(_, status)| status);
    let unready: Vec<&ContainerStatus> = sidecars.chain(facts.containers).filter(|status| !status.ready).collect();
    if unready.is_empty() {
        return (true, None, None);
    }
    let text = format!("containers with unready status: [{}]", names(unready.into_iter()));
    (false, Some("ContainersNotReady"), Some(text))
}

fn ready(spec: &PodSpec, before: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.0 {
        return containers.clone();
    }
    let conditions = before.conditions.as_deref().unwrap_or_default();
    let closed: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let condition = conditions.iter().find(|condition| condition.type_ == gate.condition_type);
            match condition {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{}\" does not exist.",
                    gate.condition_type
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                    gate.condition_type, condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        (true, None, None)
    } else {
        (false, Some("ReadinessGatesNotReady"), Some(closed.join(", ")))
    }
}
