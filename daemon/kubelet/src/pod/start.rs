//! Starting one container: its image, its environment, its files, then create, start and the postStart hook.

use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::container::{self, Places};
use super::{PodName, env, hook};
use crate::context::Context;
use crate::outbox::Kind;
use crate::volume;

/// How a start ended, when not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The image is not to be had.
    Pull { reason: &'static str, message: String },
    /// The container cannot be configured or created.
    Create { reason: &'static str, message: String },
    /// It was created, but did not start; the runtime shows it as ended.
    Start { message: String },
    /// It runs, but its postStart hook failed: it must be killed.
    PostStart { id: String, message: String },
}

/// One container to start.
pub(crate) struct Start {
    pub(crate) context: Arc<Context>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: Container,
    /// What events call it.
    pub(crate) path: String,
    pub(crate) attempt: u32,
    pub(crate) sandbox: String,
    pub(crate) sandbox_config: wire::PodSandboxConfig,
    pub(crate) ips: Vec<String>,
}

impl Start {
    /// Does it all. Returns the container's id.
    pub(crate) async fn run(self) -> Result<String, Failure> {
        let name = PodName::of(&self.pod);
        let image = self.image(&name).await?;
        let config = match self.config(&image).await {
            Ok(config) => config,
            Err(failure) => {
                if let Failure::Create { message, .. } = &failure {
                    self.warn(&name, "Failed", &format!("Error: {message}"));
                }
                return Err(failure);
            }
        };
        let cri = &self.context.cri;
        let creating = Box::pin(cri.create(&self.sandbox, config, self.sandbox_config.clone()));
        let id = creating.await.map_err(|error| {
            self.warn(&name, "Failed", &format!("Error: {error}"));
            Failure::Create { reason: "CreateContainerError", message: error.to_string() }
        })?;
        self.note(&name, "Created", "Container created");
        cri.start(&id).await.map_err(|error| {
            self.warn(&name, "Failed", &format!("Error: {error}"));
            Failure::Start { message: error.to_string() }
        })?;
        self.note(&name, "Started", "Container started");
        if let Some(handler) = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
            let ip = self.ips.first().map_or("", String::as_str);
            let limit = Duration::from_secs(3_600);
            let ended = hook::run(cri, &name, &self.container, &id, ip, handler, limit).await;
            if let Err(error) = ended {
                self.warn(&name, "FailedPostStartHook", &format!("PostStartHook failed: {error}"));
                return Err(Failure::PostStart { id, message: "FailedPostStartHook".into() });
            }
        }
        Ok(id)
    }

    fn note(&self, pod: &PodName, reason: &str, message: &str) {
        self.context.container_event(Kind::Normal, pod, &self.path, reason, message);
    }

    fn warn(&self, pod: &PodName, reason: &str, message: &str) {
        self.context.container_event(Kind::Warning, pod, &self.path, reason, message);
    }

    /// The image, pulled if the policy wants it.
    async fn image(&self, pod: &PodName) -> Result<wire::Image, Failure> {
        let image = self.container.image.clone().unwrap_or_default();
        let cri = &self.context.cri;
        let failed = |message: String| Failure::Pull { reason: "ErrImagePull", message };
        let present = cri.image(&image).await.map_err(|error| Failure::Pull {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image \"{image}\": {error}"),
        })?;
        let policy = policy(&self.container, &image);
        if let Some(present) = present.filter(|_| policy != "Always") {
            let text = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
            self.note(pod, "Pulled", &text);
            return Ok(present);
        }
        if policy == "Never" {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            self.warn(pod, "ErrImageNeverPull", &message);
            self.warn(pod, "Failed", "Error: ErrImageNeverPull");
            return Err(Failure::Pull { reason: "ErrImageNeverPull", message });
        }
        self.note(pod, "Pulling", &format!("Pulling image \"{image}\""));
        let begun = std::time::Instant::now();
        if let Err(error) = self.pull(&image).await {
            let message = error.to_string();
            self.warn(pod, "Failed", &format!("Failed to pull image \"{image}\": {message}"));
            self.warn(pod, "Failed", "Error: ErrImagePull");
            self.note(pod, "BackOff", &format!("Back-off pulling image \"{image}\""));
            self.warn(pod, "Failed", "Error: ImagePullBackOff");
            return Err(failed(message));
        }
        let pulled = cri.image(&image).await.map_err(|error| failed(error.to_string()))?;
        let pulled = pulled.ok_or_else(|| failed(format!("the runtime has no image \"{image}\" after pulling it")))?;
        let took = begun.elapsed().as_secs_f64();
        self.note(
            pod,
            "Pulled",
            &format!(
                "Successfully pulled image \"{image}\" in {took:.3}s ({took:.3}s including waiting). Image size: {} bytes.",
                pulled.size
            ),
        );
        Ok(pulled)
    }

    /// Pulls with each of the pod's credentials that fits, then without.
    async fn pull(&self, image: &str) -> Result<(), crate::cri::CriError> {
        let credentials = crate::image::credentials(&self.pod, image, self.context.as_ref());
        for auth in credentials {
            match self.context.cri.pull(image, Some(auth)).await {
                Ok(_) => return Ok(()),
                Err(error) => tracing::debug!(image, error = %error, "a pull secret did not help"),
            }
        }
        self.context.cri.pull(image, None).await.map(drop)
    }

    /// Everything the runtime is told about the container; its files are there afterwards.
    async fn config(&self, image: &wire::Image) -> Result<wire::ContainerConfig, Failure> {
        let wrong = |message: String| Failure::Create { reason: "CreateContainerConfigError", message };
        let context = self.context.clone();
        let (pod, container, attempt) = (self.pod.clone(), self.container.clone(), self.attempt);
        let (ips, image) = (self.ips.clone(), image.clone());
        let work = move || -> Result<wire::ContainerConfig, String> {
            let name = PodName::of(&pod);
            let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
            let services = context.view().service_env(&name.namespace, links);
            let env = env::environment(&pod, &container, services, context.as_ref(), &ips, &context.facts)
                .map_err(|error| error.to_string())?;
            let dir = context.config.pod_dir(&name.uid);
            let source =
                volume::Source { pod: &pod, lookup: context.as_ref(), ips: &ips, node: &context.facts, dir: &dir };
            let volumes = volume::prepare(&source).map_err(|error| error.to_string())?;
            let places = Places { dir, volumes };
            let log = places.termination_log(&container.name, attempt);
            make_file(&log, 0o666).map_err(|error| format!("cannot create {}: {error}", log.display()))?;
            let log_dir = context.config.pod_log_dir(&name.namespace, &name.name, &name.uid).join(&container.name);
            std::fs::create_dir_all(&log_dir)
                .map_err(|error| format!("cannot create {}: {error}", log_dir.display()))?;
            let memory = context.facts.memory;
            container::config(&pod, &container, attempt, &image, &env, &places, &context.config, memory)
                .map_err(|error| error.to_string())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(wrong),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

/// The policy, or its default: Always for `:latest` and images without a tag.
fn policy<'a>(container: &'a Container, image: &str) -> &'a str {
    container.image_pull_policy.as_deref().unwrap_or_else(|| {
        let name = image.rsplit('/').next().unwrap_or_default();
        let tagged = image.contains('@') || name.split_once(':').is_some_and(|(_, tag)| tag != "latest");
        if tagged { "IfNotPresent" } else { "Always" }
    })
}

fn make_file(path: &std::path::Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, [])?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_defaults_by_tag() {
        let check = |image: &str, want: &str| assert_eq!(policy(&Container::default(), image), want, "{image}");
        check("a", "Always");
        check("a:latest", "Always");
        check("host:5000/a", "Always");
        check("host:5000/a:1", "IfNotPresent");
        check("a@sha256:00", "IfNotPresent");
    }
}
