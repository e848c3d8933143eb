//! The kubelet against a real containerd of its own: pods in the host's network, no control plane but a reporter that
//! remembers. Needs root, containerd, runc and a static busybox (`FAIRLEAD_BUSYBOX`), and is therefore run by name.

#[path = "runtime/rig.rs"]
mod rig;

use std::time::Duration;

use rig::Rig;

const SHELL: &str = r#""image":"fairlead.local/busybox:1","imagePullPolicy":"Never""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_restarts_is_probed_and_ends() {
    let mut rig = Rig::start().await;
    rig.config_map("cm", r#"{"data":{"greeting":"hello"}}"#);
    rig.pod(
        "web",
        &format!(
            r#"{{"terminationGracePeriodSeconds":2,"volumes":[{{"name":"v","configMap":{{"name":"cm"}}}},{{"name":"e","emptyDir":{{}}}}],
            "initContainers":[{{"name":"init",{SHELL},"command":["sh","-c","echo from-init > /e/f"],"volumeMounts":[{{"name":"e","mountPath":"/e"}}]}}],
            "containers":[{{"name":"c",{SHELL},"command":["sh","-c","cat /v/greeting /e/f; echo name=$(NAME); echo err >&2; trap 'exit 0' TERM; while true; do sleep 0.1; done"],
              "env":[{{"name":"NAME","valueFrom":{{"fieldRef":{{"fieldPath":"metadata.name"}}}}}}],
              "readinessProbe":{{"exec":{{"command":["cat","/v/greeting"]}},"periodSeconds":1}},
              "volumeMounts":[{{"name":"v","mountPath":"/v"}},{{"name":"e","mountPath":"/e"}}]}}]}}"#
        ),
    );
    let status = rig.wait_pod("web", "Ready", rig::is_ready).await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.init_container_statuses.as_ref().expect("init")[0].ready);
    // Which of the two streams the runtime writes first is its own business.
    let (code, log) = rig.get("/containerLogs/default/web/c").await;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines), (200, vec!["err", "hellofrom-init", "name=web"]));
    rig.note("exec");
    assert_eq!(
        rig.exec("web", "c", &["sh", "-c", "cat; echo done; exit 3"], Some("input")).await,
        ("inputdone\n".into(), Some(3))
    );
    rig.note("exec");
    assert_eq!(rig.exec("web", "c", &["echo", "x"], None).await, ("x\n".into(), Some(0)));

    // A daemon that starts anew takes the pod over as it is.
    let id = status.container_statuses.as_ref().expect("statuses")[0].container_id.clone();
    rig.restart_kubelet(&status, "web").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(rig.statuses("web").iter().all(rig::is_ready), "readiness never flips: {:#?}", rig.statuses("web"));
    rig.config_map("cm", r#"{"data":{"greeting":"changed"}}"#);
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.note("exec");
    assert_eq!(rig.exec("web", "c", &["cat", "/v/greeting"], None).await, ("changed".into(), Some(0)));
    let now = rig.latest("web").unwrap_or(status);
    assert_eq!(now.container_statuses.as_ref().expect("statuses")[0].container_id, id, "the container is the same");

    rig.note("deleting");
    rig.delete("web", 5);
    rig.wait_gone("web").await;
    rig.note("gone");
    assert!(!rig.dir().join("pods/uid-web").exists());
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(rig.events().iter().any(|(event, _)| event == reason), "{reason} in {:?}", rig.events());
    }
    rig.note("stopping");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_in_the_words_clients_know() {
    let mut rig = Rig::start().await;
    rig.pod("crash", &format!(r#"{{"containers":[{{"name":"c",{SHELL},"command":["sh","-c","echo bye; echo why > /dev/termination-log; exit 7"]}}]}}"#));
    rig.pod("never", r#"{"containers":[{"name":"c","image":"fairlead.local/none:1","imagePullPolicy":"Never"}]}"#);
    rig.pod("pull", r#"{"containers":[{"name":"c","image":"127.0.0.1:1/none:1"}]}"#);
    rig.pod("config", &format!(r#"{{"containers":[{{"name":"c",{SHELL},"command":["sleep","100"],"env":[{{"name":"A","valueFrom":{{"configMapKeyRef":{{"name":"late","key":"k"}}}}}}]}}]}}"#));
    rig.pod(
        "once",
        &format!(r#"{{"restartPolicy":"Never","containers":[{{"name":"c",{SHELL},"command":["true"]}}]}}"#),
    );
    rig.pod("noexec", &format!(r#"{{"containers":[{{"name":"c",{SHELL},"command":["/nonexistent"]}}]}}"#));
    rig.pod(
        "live",
        &format!(
            r#"{{"terminationGracePeriodSeconds":1,"containers":[{{"name":"c",{SHELL},"command":["sleep","100"],
        "livenessProbe":{{"tcpSocket":{{"port":1}},"periodSeconds":1,"failureThreshold":1}}}}]}}"#
        ),
    );
    let waits = |reason: &'static str| move |status: &_| rig::waiting(status).as_deref() == Some(reason);
    rig.wait_pod("crash", "CrashLoopBackOff", waits("CrashLoopBackOff")).await;
    let crashed = rig.latest("crash").expect("a status").container_statuses.expect("statuses");
    let last = crashed[0].last_state.clone().and_then(|state| state.terminated).expect("an end");
    assert_eq!((last.exit_code, last.reason.as_deref(), last.message.as_deref()), (7, Some("Error"), Some("why\n")));
    let back_off = "Back-off restarting failed container c in pod crash_default(uid-crash)";
    assert!(rig.events().contains(&("BackOff".into(), back_off.into())), "{:?}", rig.events());
    rig.wait_pod("never", "ErrImageNeverPull", waits("ErrImageNeverPull")).await;
    rig.wait_pod("pull", "ImagePullBackOff", waits("ImagePullBackOff")).await;
    rig.wait_pod("config", "CreateContainerConfigError", waits("CreateContainerConfigError")).await;
    rig.config_map("late", r#"{"data":{"k":"v"}}"#);
    rig.wait_pod("config", "Ready", rig::is_ready).await;
    let once = rig.wait_pod("once", "Succeeded", |status| status.phase.as_deref() == Some("Succeeded")).await;
    let end = once.container_statuses.expect("statuses")[0].state.clone().and_then(|state| state.terminated);
    assert_eq!(end.and_then(|end| end.reason).as_deref(), Some("Completed"));
    rig.wait_pod("noexec", "StartError", |status| {
        let seen = &status.container_statuses.as_ref().expect("statuses")[0];
        [&seen.state, &seen.last_state].into_iter().flatten().any(|state| {
            state
                .terminated
                .as_ref()
                .is_some_and(|end| end.reason.as_deref() == Some("StartError") && end.exit_code == 128)
        })
    })
    .await;
    rig.wait_pod("live", "a restart", |status| {
        status.container_statuses.as_ref().expect("statuses")[0].restart_count > 0
    })
    .await;
    assert!(
        rig.events()
            .iter()
            .any(|(reason, text)| reason == "Unhealthy" && text.starts_with("Liveness probe failed: dial tcp")),
        "{:?}",
        rig.events()
    );
    assert!(rig.events().iter().any(|(reason, text)| reason == "Killing" && text == "Container c failed liveness probe, will be restarted"));
    rig.note("stopping");
    rig.stop().await;
}
