//! Carries out one step of the plan. Nothing here decides; each function ends when its step has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::plan::Kill;
use super::state::Observed;
use super::{PodName, hook, sandbox};
use crate::context::{Context, field_path};
use crate::cri::CriError;
use crate::outbox::Kind;
use crate::{resolv, volume};

/// After a preStop hook a container gets at least this long.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// Makes the volumes and the pod's own directories.
pub(crate) async fn prepare(context: Arc<Context>, pod: Arc<Pod>, ips: Vec<String>) -> Result<(), String> {
    let work = move || -> Result<(), String> {
        let name = PodName::of(&pod);
        let dir = context.config.pod_dir(&name.uid);
        let logs = context.config.pod_log_dir(&name.namespace, &name.name, &name.uid);
        for dir in [&dir, &logs] {
            std::fs::create_dir_all(dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
        }
        let source = volume::Source { pod: &pod, lookup: context.as_ref(), ips: &ips, node: &context.facts, dir: &dir };
        volume::prepare(&source).map(drop).map_err(|error| error.to_string())
    };
    blocking(work).await
}

/// Makes the pod's cgroup and its sandbox. Returns the sandbox's id.
pub(crate) async fn create_sandbox(context: Arc<Context>, pod: Arc<Pod>, attempt: u32) -> Result<String, String> {
    let name = PodName::of(&pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let (cgroups, uid) = (context.cgroups.clone(), name.uid.clone());
    blocking(move || cgroups.create(&spec, &uid).map_err(|error| format!("cannot create the pod's cgroup: {error}")))
        .await?;
    let (config, gave_up) = sandbox_config(&context, &pod, attempt);
    if gave_up {
        let text = format!(
            "pod: \"{name}({})\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \
             \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
            name.uid
        );
        context.pod_event(Kind::Warning, &name, "MissingClusterDNS", &text);
    }
    context.cri.run_sandbox(config).await.map_err(|error| {
        let text = format!("Failed to create pod sandbox: {}", error.as_rpc());
        context.pod_event(Kind::Warning, &name, "FailedCreatePodSandBox", &text);
        error.to_string()
    })
}

/// The sandbox's configuration, and whether the pod wanted a cluster DNS that is not there.
pub(crate) fn sandbox_config(context: &Context, pod: &Pod, attempt: u32) -> (wire::PodSandboxConfig, bool) {
    let node = resolv::parse(&std::fs::read_to_string(&context.resolv_conf).unwrap_or_default());
    let (dns, gave_up) = resolv::of(pod, &node, &context.config.cluster_dns, &context.config.cluster_domain);
    let parent = context.cgroups.parent(&pod.spec.clone().unwrap_or_default(), &PodName::of(pod).uid);
    (sandbox::config(pod, attempt, &context.config, dns, parent), gave_up)
}

/// Writes the hosts file once the pod's addresses are known.
pub(crate) fn write_hosts(context: &Context, pod: &Pod, ips: &[String]) -> std::io::Result<()> {
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let host = host_network.then(|| std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    let text = resolv::hosts(pod, ips, &context.config.cluster_domain, host.as_deref());
    let path = context.config.pod_dir(&PodName::of(pod).uid).join("etc-hosts");
    if std::fs::read_to_string(&path).is_ok_and(|have| have == text) {
        return Ok(());
    }
    std::fs::write(path, text)
}

/// A container to be killed.
pub(crate) struct Killing {
    pub(crate) context: Arc<Context>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) grace: SignedDuration,
    pub(crate) why: Kill,
    pub(crate) ip: String,
}

impl Killing {
    /// Runs the preStop hook, then stops the container.
    pub(crate) async fn run(self) -> Result<(), CriError> {
        let pod = PodName::of(&self.pod);
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let (container, path) = find(spec, &self.name);
        let message = match &self.why {
            Kill::PodEnds => format!("Stopping container {}", self.name),
            Kill::Changed => format!("Container {} definition changed, will be restarted", self.name),
            Kill::Unhealthy(why) => format!("Container {} {why}, will be restarted", self.name),
            Kill::SandboxChanged => format!("Stopping container {}", self.name),
        };
        self.context.container_event(Kind::Normal, &pod, &path, "Killing", &message);
        let grace = Duration::from_secs(u64::try_from(self.grace.as_secs()).unwrap_or(0));
        let begun = Instant::now();
        let hook = container
            .and_then(|container| container.lifecycle.as_ref())
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
            .filter(|_| !grace.is_zero());
        let mut left = grace;
        if let (Some(handler), Some(container)) = (hook, container) {
            let ended = hook::run(&self.context.cri, &pod, container, &self.id, &self.ip, handler, grace).await;
            if let Err(error) = ended {
                let text = format!("PreStopHook failed: {error}");
                self.context.container_event(Kind::Warning, &pod, &path, "FailedPreStopHook", &text);
            }
            left = grace.saturating_sub(begun.elapsed()).max(AFTER_HOOK);
        }
        self.context.cri.stop(&self.id, left).await
    }
}

/// A container's definition by name, and what events call it.
pub(crate) fn find<'a>(spec: &'a PodSpec, name: &str) -> (Option<&'a Container>, String) {
    let main = spec.containers.iter().find(|container| container.name == name);
    let init = || spec.init_containers.iter().flatten().find(|container| container.name == name);
    match (main, main.is_none().then(init).flatten()) {
        (Some(container), _) => (Some(container), field_path(container, false)),
        (None, Some(container)) => (Some(container), field_path(container, true)),
        (None, None) => (None, format!("spec.containers{{{name}}}")),
    }
}

/// Removes everything of a pod: containers, sandboxes, volumes, cgroup, logs.
pub(crate) async fn clean_up(context: Arc<Context>, pod: Arc<Pod>, observed: Observed) -> Result<(), String> {
    for container in &observed.containers {
        context.cri.remove(&container.id).await.map_err(|error| error.to_string())?;
    }
    for sandbox in &observed.sandboxes {
        context.cri.stop_sandbox(&sandbox.id).await.map_err(|error| error.to_string())?;
        context.cri.remove_sandbox(&sandbox.id).await.map_err(|error| error.to_string())?;
    }
    let work = move || -> Result<(), String> {
        let name = PodName::of(&pod);
        let dir = context.config.pod_dir(&name.uid);
        volume::remove(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
        let logs = context.config.pod_log_dir(&name.namespace, &name.name, &name.uid);
        volume::remove(&logs).map_err(|error| format!("cannot remove {}: {error}", logs.display()))?;
        let spec = pod.spec.clone().unwrap_or_default();
        context.cgroups.remove(&spec, &name.uid).map_err(|error| format!("cannot remove the pod's cgroup: {error}"))
    };
    blocking(work).await
}

async fn blocking(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}
