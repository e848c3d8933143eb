use super::*;
use crate::pod::labels;
use crate::pod::state::{Delay, Ending, Sandbox};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

fn pod(spec: &str) -> Pod {
    serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{spec}}}"#))
        .expect("a pod in JSON")
}

fn container(name: &str, attempt: u32, run: Run) -> Container {
    Container {
        id: format!("{name}{attempt}"),
        name: name.into(),
        attempt,
        sandbox: "s0".into(),
        created: at(i64::from(attempt)),
        run,
        image: "i".into(),
        image_id: "sha256:1".into(),
        hash: labels::hash(&Spec { name: name.into(), ..Default::default() }),
    }
}

fn exited(code: i32) -> Run {
    Run::Exited { started: NOW, finished: at(1), code, reason: String::new(), message: String::new() }
}

fn look(pod: &Pod, containers: Vec<Container>, memory: &Memory, before: &PodStatus, now: Timestamp) -> PodStatus {
    let sandbox = Sandbox { id: "s0".into(), attempt: 0, created: NOW, ready: true, ips: vec!["10.244.0.2".into()] };
    let observed = Observed { sandboxes: vec![sandbox], containers };
    let host = Host { runtime: "containerd".into(), ip: "10.0.0.1".into() };
    status(pod, &observed, memory, before, &host, now)
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a k8s_openapi::api::core::v1::PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).expect("the condition")
}

fn waiting(status: &PodStatus) -> (String, String) {
    let state = status.container_statuses.as_ref().expect("statuses")[0].state.clone().expect("a state");
    let waiting = state.waiting.expect("a waiting container");
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

#[test]
fn a_running_pod_is_ready_once_its_probes_say_so_and_keeps_its_times() {
    let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
    let seen = vec![container("a", 0, Run::Running { started: NOW })];
    let mut memory = Memory::default();
    let state = memory.containers.entry("a".into()).or_default();
    state.id = "a0".into();
    state.started = true;
    let first = look(&pod, seen.clone(), &memory, &PodStatus::default(), at(10));
    assert_eq!(first.phase.as_deref(), Some("Running"));
    assert_eq!(first.pod_ip.as_deref(), Some("10.244.0.2"));
    assert_eq!(condition(&first, "Ready").status, "False");
    assert_eq!(condition(&first, "Ready").reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(condition(&first, "Ready").message.as_deref(), Some("containers with unready status: [a]"));
    memory.containers.entry("a".into()).or_default().ready = true;
    let second = look(&pod, seen.clone(), &memory, &first, at(20));
    assert_eq!(condition(&second, "Ready").status, "True");
    assert_eq!(condition(&second, "Ready").last_transition_time, Some(second_of(20)));
    assert_eq!(condition(&second, "Initialized").last_transition_time, Some(second_of(10)));
    let container_id = second.container_statuses.as_ref().expect("statuses")[0].container_id.clone();
    assert_eq!(container_id.as_deref(), Some("containerd://a0"));
    assert_eq!(look(&pod, seen, &memory, &second, at(30)), second, "nothing changes by itself");
}

fn second_of(seconds: i64) -> Time {
    second(at(seconds))
}

#[test]
fn a_crashing_container_waits_and_shows_its_last_end() {
    let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
    let mut memory = Memory::default();
    let mut delay = Delay::default();
    delay.restarted();
    memory.containers.entry("a".into()).or_default().restart = delay;
    let status = look(&pod, vec![container("a", 1, exited(3))], &memory, &PodStatus::default(), at(2));
    let (reason, message) = waiting(&status);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_n(u)")
    );
    let seen = &status.container_statuses.as_ref().expect("statuses")[0];
    let last = seen.last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("an end");
    assert_eq!((last.exit_code, last.reason.as_deref(), seen.restart_count), (3, Some("Error"), 1));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn phases_follow_containers_and_policy() {
    let check = |policy: &str, runs: Vec<Run>, want: &str| {
        let names = ["a", "b"];
        let list: Vec<String> = names.iter().take(runs.len()).map(|name| format!(r#"{{"name":"{name}"}}"#)).collect();
        let pod = pod(&format!(r#"{{"restartPolicy":"{policy}","containers":[{}]}}"#, list.join(",")));
        let seen = runs.iter().zip(names).map(|(run, name)| container(name, 0, run.clone())).collect();
        let status = look(&pod, seen, &Memory::default(), &PodStatus::default(), at(5));
        assert_eq!(status.phase.as_deref(), Some(want), "{policy} {runs:?}");
    };
    let up = Run::Running { started: NOW };
    check("Always", vec![up.clone(), exited(1)], "Running");
    check("Always", vec![exited(0)], "Running");
    check("Never", vec![exited(0), exited(0)], "Succeeded");
    check("Never", vec![exited(0), exited(1)], "Failed");
    check("OnFailure", vec![exited(1)], "Running");
    check("OnFailure", vec![exited(0)], "Succeeded");
    check("Always", vec![Run::Created], "Pending");
}

#[test]
fn a_pull_that_failed_turns_into_its_back_off() {
    let pod = pod(r#"{"containers":[{"name":"a","image":"x:1"}]}"#);
    let mut memory = Memory::default();
    memory.containers.entry("a".into()).or_default().problem = Some(Problem {
        reason: "ErrImagePull",
        message: "no such host".into(),
        since: NOW,
        until: at(10),
        image: Some("x:1".into()),
    });
    let first = look(&pod, Vec::new(), &memory, &PodStatus::default(), NOW);
    assert_eq!(waiting(&first).0, "ErrImagePull");
    let second = look(&pod, Vec::new(), &memory, &first, at(2));
    assert_eq!(
        waiting(&second),
        ("ImagePullBackOff".into(), "Back-off pulling image \"x:1\": ErrImagePull: no such host".into())
    );
    assert_eq!(second.phase.as_deref(), Some("Pending"));
}

#[test]
fn init_containers_hold_the_pod_back() {
    let pod = pod(r#"{"restartPolicy":"Never","initContainers":[{"name":"i"}],"containers":[{"name":"a"}]}"#);
    let status = look(&pod, Vec::new(), &Memory::default(), &PodStatus::default(), NOW);
    assert_eq!(waiting(&status).0, "PodInitializing");
    assert_eq!(condition(&status, "Initialized").message.as_deref(), Some("containers with incomplete status: [i]"));
    let failed = look(&pod, vec![container("i", 0, exited(1))], &Memory::default(), &status, at(1));
    assert_eq!(failed.phase.as_deref(), Some("Failed"));
}

#[test]
fn an_ending_pod_shows_how_its_containers_ended() {
    let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
    let ending = Ending { since: NOW, grace: SignedDuration::from_secs(1), failed: None };
    let memory = Memory { ending: Some(ending), ..Default::default() };
    let status = look(&pod, vec![container("a", 0, exited(0))], &memory, &PodStatus::default(), at(2));
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    let conditions = condition(&status, "Ready");
    assert_eq!((conditions.status.as_str(), conditions.reason.as_deref()), ("False", Some("PodCompleted")));
}
