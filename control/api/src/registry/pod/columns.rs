//! What `kubectl get pods` shows. The status is a word made of the phase, the containers' states and the deletion.

use serde_json::Value;

use crate::kind::Column;
use crate::object::Object;
use crate::pod_template::{list, text};
use crate::table::cells;

pub(super) static COLUMNS: [Column; 9] = [
    cells::NAME,
    cells::text("Ready", "How many containers are ready, of how many.", |pod, _| {
        let summary = Summary::of(pod);
        format!("{}/{}", summary.ready, summary.total).into()
    }),
    cells::text("Status", "Phase, or what keeps the pod from it.", |pod, _| Summary::of(pod).status.into()),
    cells::text("Restarts", "How often containers were started again, and when last.", |pod, now| {
        Summary::of(pod).restarts(now).into()
    }),
    cells::AGE,
    cells::wide("IP", "Address of the pod.", |pod, _| ip(pod).into()),
    cells::wide("Node", "Where the pod runs.", |pod, _| cells::text_or(pod, &["spec", "nodeName"], "<none>")),
    cells::wide("Nominated Node", "Where room is made for the pod.", |pod, _| {
        cells::text_or(pod, &["status", "nominatedNodeName"], "<none>")
    }),
    cells::wide("Readiness Gates", "Conditions that readiness waits for.", |pod, _| gates(pod).into()),
];

/// A pod as one line.
struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    /// When a container ended last, seconds since the epoch.
    last_end: Option<i64>,
}

/// Restarts and the last end of some containers.
#[derive(Default)]
struct Restarts {
    count: i64,
    last_end: Option<i64>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        let ended = container.get("lastState").and_then(|state| state.get("terminated")?.get("finishedAt")?.as_str());
        self.last_end = self.last_end.max(ended.and_then(cells::seconds));
    }
}

impl Summary {
    fn of(pod: &Object) -> Self {
        let nothing = Value::Null;
        let (spec, status) = (pod.at(&["spec"]).unwrap_or(&nothing), pod.at(&["status"]).unwrap_or(&nothing));
        let mut word = match text(status, "reason") {
            "" => text(status, "phase").to_owned(),
            reason => reason.to_owned(),
        };
        let gated = |one: &Value| text(one, "type") == "PodScheduled" && text(one, "reason") == "SchedulingGated";
        if list(status, "conditions").any(gated) {
            word = "SchedulingGated".to_owned();
        }
        let sidecars: Vec<&str> = list(spec, "initContainers")
            .filter(|one| text(one, "restartPolicy") == "Always")
            .map(|one| text(one, "name"))
            .collect();
        let total = list(spec, "containers").count() + sidecars.len();
        let mut ready = 0;
        let (mut init, mut beside) = (Restarts::default(), Restarts::default());
        let mut waits_for = None;
        for (index, one) in list(status, "initContainerStatuses").enumerate() {
            let sidecar = sidecars.contains(&text(one, "name"));
            init.add(one);
            if sidecar {
                beside.add(one);
            }
            let is = |field: &str| one.get(field) == Some(&Value::Bool(true));
            if sidecar && is("started") && terminated(one).is_none() {
                ready += usize::from(is("ready"));
                continue;
            }
            if terminated(one).is_some_and(|end| exit_code(end) == 0) {
                continue;
            }
            waits_for = Some(init_status(one, index, list(spec, "initContainers").count()));
            break;
        }
        let initialized = is_true(status, "Initialized");
        let mut all = if let Some(status) = &waits_for {
            word.clone_from(status);
            init
        } else {
            Restarts::default()
        };
        if waits_for.is_none() || initialized {
            all = beside;
            let mut running = false;
            let containers: Vec<&Value> = list(status, "containerStatuses").collect();
            for one in containers.into_iter().rev() {
                all.add(one);
                let state = one.get("state").unwrap_or(&nothing);
                let waiting = state.get("waiting").map_or("", |waiting| text(waiting, "reason"));
                if !waiting.is_empty() {
                    word = waiting.to_owned();
                } else if let Some(end) = terminated(one) {
                    word = end_word(end, "");
                } else if one.get("ready") == Some(&Value::Bool(true)) && state.get("running").is_some() {
                    running = true;
                    ready += 1;
                }
            }
            // Some containers have completed, others go on.
            if word == "Completed" && running {
                word = if is_true(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
            }
        }
        if pod.is_terminating() {
            if text(status, "reason") == "NodeLost" {
                word = "Unknown".to_owned();
            } else if !matches!(text(status, "phase"), "Succeeded" | "Failed") {
                word = "Terminating".to_owned();
            }
        }
        Self { ready, total, status: word, restarts: all.count, last_end: all.last_end }
    }

    fn restarts(&self, now: i64) -> String {
        match self.last_end {
            Some(end) if self.restarts > 0 => format!("{} ({} ago)", self.restarts, cells::duration(now - end)),
            _ => self.restarts.to_string(),
        }
    }
}

fn init_status(container: &Value, index: usize, count: usize) -> String {
    let waiting = container.get("state").and_then(|state| state.get("waiting"));
    let reason = waiting.map_or("", |waiting| text(waiting, "reason"));
    match terminated(container) {
        Some(end) => end_word(end, "Init:"),
        None if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
        None => format!("Init:{index}/{count}"),
    }
}

fn terminated(container: &Value) -> Option<&Value> {
    container.get("state")?.get("terminated")
}

fn exit_code(end: &Value) -> i64 {
    end.get("exitCode").and_then(Value::as_i64).unwrap_or(0)
}

/// Why a container ended.
fn end_word(end: &Value, prefix: &str) -> String {
    let signal = end.get("signal").and_then(Value::as_i64).unwrap_or(0);
    match (text(end, "reason"), signal) {
        ("", 0) => format!("{prefix}ExitCode:{}", exit_code(end)),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

fn is_true(status: &Value, condition: &str) -> bool {
    list(status, "conditions").any(|one| text(one, "type") == condition && text(one, "status") == "True")
}

fn ip(pod: &Object) -> String {
    let first = pod.at(&["status", "podIPs"]).and_then(|ips| ips.get(0)?.get("ip")?.as_str());
    match first.unwrap_or_else(|| pod.str_at(&["status", "podIP"])) {
        "" => "<none>".to_owned(),
        ip => ip.to_owned(),
    }
}

fn gates(pod: &Object) -> String {
    let nothing = Value::Null;
    let (spec, status) = (pod.at(&["spec"]).unwrap_or(&nothing), pod.at(&["status"]).unwrap_or(&nothing));
    let all: Vec<&str> = list(spec, "readinessGates").map(|gate| text(gate, "conditionType")).collect();
    if all.is_empty() {
        return "<none>".to_owned();
    }
    format!("{}/{}", all.iter().filter(|condition| is_true(status, condition)).count(), all.len())
}
