use super::*;
use crate::pod::state::{Delay, Ending, Sandbox};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

fn pod(spec: &str) -> Pod {
    serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{spec}}}"#))
        .expect("a pod in JSON")
}

fn sandbox(ready: bool) -> Sandbox {
    Sandbox { id: "s0".into(), attempt: 0, created: NOW, ready, ips: vec!["10.244.0.2".into()] }
}

fn container(pod: &Pod, name: &str, attempt: u32, run: Run) -> Container {
    let spec = pod.spec.as_ref().expect("a spec");
    let definition = spec.containers.iter().chain(inits(spec)).find(|c| c.name == name).expect("such a container");
    Container {
        id: format!("{name}{attempt}"),
        name: name.into(),
        attempt,
        sandbox: "s0".into(),
        created: at(i64::from(attempt)),
        run,
        image: String::new(),
        image_id: String::new(),
        hash: labels::hash(definition),
    }
}

fn exited(code: i32) -> Run {
    Run::Exited { started: NOW, finished: at(1), code, reason: String::new(), message: String::new() }
}

fn running() -> Run {
    Run::Running { started: NOW }
}

fn ready_memory() -> Memory {
    Memory { volumes_ready: true, ..Default::default() }
}

fn start(name: &str, attempt: u32) -> Action {
    Action::Start { name: name.into(), attempt, sandbox: "s0".into() }
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_containers() {
    let pod = pod(r#"{"containers":[{"name":"a"},{"name":"b"}]}"#);
    let mut observed = Observed::default();
    assert_eq!(plan(&pod, &observed, &Memory::default(), NOW).actions, [Action::PrepareVolumes]);
    assert_eq!(plan(&pod, &observed, &ready_memory(), NOW).actions, [Action::CreateSandbox { attempt: 0 }]);
    observed.sandboxes.push(sandbox(true));
    assert_eq!(plan(&pod, &observed, &ready_memory(), NOW).actions, [start("a", 0), start("b", 0)]);
    let mut busy = ready_memory();
    busy.busy.insert(Slot::Container("a".into()));
    assert_eq!(plan(&pod, &observed, &busy, NOW).actions, [start("b", 0)]);
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_first() {
    let pod = pod(
        r#"{"initContainers":[{"name":"side","restartPolicy":"Always"},{"name":"init"}],"containers":[{"name":"a"}]}"#,
    );
    let mut observed = Observed { sandboxes: vec![sandbox(true)], ..Default::default() };
    let mut memory = ready_memory();
    assert_eq!(plan(&pod, &observed, &memory, NOW).actions, [start("side", 0)]);
    observed.containers.push(container(&pod, "side", 0, running()));
    assert_eq!(plan(&pod, &observed, &memory, NOW).actions, [], "the sidecar has not passed its startup probe");
    memory.containers.entry("side".into()).or_default().started = true;
    assert_eq!(plan(&pod, &observed, &memory, NOW).actions, [start("init", 0)]);
    observed.containers.push(container(&pod, "init", 0, exited(1)));
    assert_eq!(plan(&pod, &observed, &memory, at(5)).actions, [start("init", 1)], "a failed init container runs again");
    observed.containers.retain(|seen| seen.name != "init");
    observed.containers.push(container(&pod, "init", 1, exited(0)));
    assert_eq!(plan(&pod, &observed, &memory, at(5)).actions, [start("a", 0)]);
}

#[test]
fn restarts_follow_policy_and_wait_for_their_delay() {
    let check = |policy: &str, code: i32, want: &[Action]| {
        let pod = pod(&format!(r#"{{"restartPolicy":"{policy}","containers":[{{"name":"a"}},{{"name":"b"}}]}}"#));
        let observed = Observed {
            sandboxes: vec![sandbox(true)],
            containers: vec![container(&pod, "a", 0, exited(code)), container(&pod, "b", 0, running())],
        };
        assert_eq!(plan(&pod, &observed, &ready_memory(), at(1)).actions, want, "{policy} {code}");
        let mut memory = ready_memory();
        let mut delay = Delay::default();
        delay.restarted();
        memory.containers.entry("a".into()).or_default().restart = delay;
        let waiting = plan(&pod, &observed, &memory, at(2));
        assert_eq!(waiting.actions, []);
        assert_eq!(waiting.wake, (!want.is_empty()).then(|| at(11)), "{policy} {code}");
        assert_eq!(plan(&pod, &observed, &memory, at(11)).actions, want, "{policy} {code}");
    };
    check("Always", 0, &[start("a", 1)]);
    check("Always", 1, &[start("a", 1)]);
    check("OnFailure", 1, &[start("a", 1)]);
    check("OnFailure", 0, &[]);
    check("Never", 1, &[]);
}

#[test]
fn a_finished_pod_loses_its_sandbox_and_stays() {
    let pod = pod(r#"{"restartPolicy":"Never","containers":[{"name":"a"}]}"#);
    let mut observed =
        Observed { sandboxes: vec![sandbox(true)], containers: vec![container(&pod, "a", 0, exited(1))] };
    assert_eq!(plan(&pod, &observed, &ready_memory(), at(1)).actions, [Action::StopSandbox { id: "s0".into() }]);
    observed.sandboxes[0].ready = false;
    assert_eq!(plan(&pod, &observed, &ready_memory(), at(1)), Plan::default());
}

#[test]
fn a_lost_sandbox_is_made_again() {
    let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
    let observed = Observed { sandboxes: vec![sandbox(false)], containers: vec![container(&pod, "a", 0, exited(137))] };
    assert_eq!(plan(&pod, &observed, &ready_memory(), at(5)).actions, [Action::CreateSandbox { attempt: 1 }]);
}

#[test]
fn an_ending_pod_stops_containers_then_sidecars_then_its_sandbox_and_is_removed() {
    let pod = pod(
        r#"{"initContainers":[{"name":"s1","restartPolicy":"Always"},{"name":"s2","restartPolicy":"Always"}],"containers":[{"name":"a"}]}"#,
    );
    let mut memory = ready_memory();
    memory.ending = Some(Ending { since: NOW, grace: SignedDuration::from_secs(30), failed: None });
    let kill = |name: &str, grace: i64| Action::Kill {
        id: format!("{name}0"),
        name: name.into(),
        grace: SignedDuration::from_secs(grace),
        why: Kill::PodEnds,
    };
    let mut observed = Observed {
        sandboxes: vec![sandbox(true)],
        containers: ["a", "s1", "s2"].map(|name| container(&pod, name, 0, running())).into(),
    };
    assert_eq!(plan(&pod, &observed, &memory, at(10)).actions, [kill("a", 20)]);
    observed.containers[0].run = exited(0);
    assert_eq!(plan(&pod, &observed, &memory, at(10)).actions, [kill("s2", 20)]);
    observed.containers[2].run = exited(0);
    assert_eq!(plan(&pod, &observed, &memory, at(40)).actions, [kill("s1", 1)]);
    observed.containers[1].run = exited(0);
    assert_eq!(plan(&pod, &observed, &memory, at(41)).actions, [Action::StopSandbox { id: "s0".into() }]);
    observed.sandboxes[0].ready = false;
    assert_eq!(plan(&pod, &observed, &memory, at(41)).actions, [Action::Cleanup]);
    memory.cleaned = true;
    assert!(plan(&pod, &Observed::default(), &memory, at(41)).finished);
}

#[test]
fn a_changed_or_unhealthy_container_is_killed() {
    let pod = pod(r#"{"terminationGracePeriodSeconds":7,"containers":[{"name":"a","image":"new"}]}"#);
    let mut seen = container(&pod, "a", 0, running());
    let mut memory = ready_memory();
    let state = memory.containers.entry("a".into()).or_default();
    state.id = "a0".into();
    state.kill = Some("failed liveness probe".into());
    let kill = |why: Kill| Action::Kill { id: "a0".into(), name: "a".into(), grace: SignedDuration::from_secs(7), why };
    let with = |seen: &Container| Observed { sandboxes: vec![sandbox(true)], containers: vec![seen.clone()] };
    let unhealthy = Kill::Unhealthy("failed liveness probe".into());
    assert_eq!(plan(&pod, &with(&seen), &memory, NOW).actions, [kill(unhealthy)]);
    memory.containers.clear();
    assert_eq!(plan(&pod, &with(&seen), &memory, NOW).actions, []);
    seen.hash = "other".into();
    assert_eq!(plan(&pod, &with(&seen), &memory, NOW).actions, [kill(Kill::Changed)]);
}

#[test]
fn only_the_last_two_containers_of_a_name_are_kept() {
    let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
    let mut containers = vec![container(&pod, "a", 3, running())];
    containers.extend([2, 1, 0].map(|attempt| container(&pod, "a", attempt, exited(1))));
    let observed = Observed { sandboxes: vec![sandbox(true)], containers };
    let want = ["a1", "a0"].map(|id| Action::RemoveContainer { id: id.into() });
    assert_eq!(plan(&pod, &observed, &ready_memory(), NOW).actions, want);
}
