//! What the runtime is told about a container. Volumes are made and files written before; only a subPath that is not there
//! yet is made here.

use std::path::{Path, PathBuf};

use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};

use super::env::{expand, expand_all};
use super::{PodName, labels, sandbox, security};
use crate::config::Config;

/// Where the parts of a pod lie on the node.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The pod's directory.
    pub(crate) dir: PathBuf,
    /// By volume name: what to mount, and whether only for reading.
    pub(crate) volumes: Vec<(String, PathBuf, bool)>,
}

impl Places {
    pub(crate) fn hosts(&self) -> PathBuf {
        self.dir.join("etc-hosts")
    }

    /// The file that takes a container's termination message.
    pub(crate) fn termination_log(&self, container: &str, attempt: u32) -> PathBuf {
        self.dir.join("containers").join(container).join(attempt.to_string())
    }
}

/// Why a container cannot be configured; the text is what the waiting container shows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoVolume { volume: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    Root { pod: String, container: String },
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {why}")]
    SubPath { volume: String, container: String, why: String },
}

/// A container's configuration. `image` is what the runtime calls the image, `env` is complete.
#[allow(clippy::too_many_arguments, reason = "each is another source, and all are needed")]
pub(crate) fn config(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &wire::Image,
    env: &[(String, String)],
    places: &Places,
    node: &Config,
    node_memory: i128,
) -> Result<wire::ContainerConfig, ConfigError> {
    let name = PodName::of(pod);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut context = security::container(spec, container);
    not_root(spec, container, image, &name)?;
    if context.run_as_user.is_none() {
        // The image's own user.
        if let Some(uid) = &image.uid {
            context.run_as_user = Some(*uid);
        } else {
            context.run_as_username.clone_from(&image.username);
        }
    }
    let mut labels = sandbox::labels_of(&name, node);
    labels.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    let annotations = [
        (labels::HASH, labels::hash(container)),
        (labels::RESTART_COUNT, attempt.to_string()),
        (labels::TERMINATION_PATH, termination_path(container).to_owned()),
        (labels::TERMINATION_POLICY, container.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
        (labels::GRACE, spec.termination_grace_period_seconds.unwrap_or(30).to_string()),
    ];
    Ok(wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(wire::ImageSpec {
            image: image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand_all(container.command.as_ref(), env),
        args: expand_all(container.args.as_ref(), env),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(key, value)| wire::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: mounts(container, attempt, env, places)?,
        devices: Vec::new(),
        labels,
        annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(wire::LinuxContainerConfig {
            resources: Some(security::resources(spec, container, node_memory)),
            security_context: Some(context),
        }),
        windows: None,
        cdi_devices: Vec::new(),
    })
}

/// Path inside the container at which it may leave a last message.
pub(crate) fn termination_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().unwrap_or("/dev/termination-log")
}

fn not_root(spec: &PodSpec, container: &Container, image: &wire::Image, pod: &PodName) -> Result<(), ConfigError> {
    let own = container.security_context.clone().unwrap_or_default();
    let shared = spec.security_context.clone().unwrap_or_default();
    if own.run_as_non_root.or(shared.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let uid = own.run_as_user.or(shared.run_as_user).or(image.uid.as_ref().map(|uid| uid.value));
    if uid.is_some_and(|uid| uid != 0) {
        return Ok(());
    }
    Err(ConfigError::Root {
        pod: format!("{}_{}({})", pod.name, pod.namespace, pod.uid),
        container: container.name.clone(),
    })
}

fn mounts(
    container: &Container,
    attempt: u32,
    env: &[(String, String)],
    places: &Places,
) -> Result<Vec<wire::Mount>, ConfigError> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let found = places.volumes.iter().find(|(name, ..)| *name == mount.name);
        let (_, root, readonly) = found
            .ok_or_else(|| ConfigError::NoVolume { volume: mount.name.clone(), container: container.name.clone() })?;
        let host = sub_path(container, mount, root, env)?;
        mounts.push(wire::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host.display().to_string(),
            readonly: *readonly || mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => wire::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => wire::MountPropagation::PropagationBidirectional,
                _ => wire::MountPropagation::PropagationPrivate,
            } as i32,
            ..Default::default()
        });
    }
    let mut file = |path: &str, host: PathBuf| {
        if !mounts.iter().any(|mount: &wire::Mount| mount.container_path == path) {
            mounts.push(wire::Mount {
                container_path: path.to_owned(),
                host_path: host.display().to_string(),
                ..Default::default()
            });
        }
    };
    file("/etc/hosts", places.hosts());
    file(termination_path(container), places.termination_log(&container.name, attempt));
    Ok(mounts)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The part of a volume that a mount asks for. It may not lead out of the volume.
fn sub_path(
    container: &Container,
    mount: &VolumeMount,
    root: &Path,
    env: &[(String, String)],
) -> Result<PathBuf, ConfigError> {
    let get = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) if !expression.is_empty() => expand(expression, get),
        _ => return Ok(root.to_path_buf()),
    };
    let wrong = |why: &str| ConfigError::SubPath {
        volume: mount.name.clone(),
        container: container.name.clone(),
        why: why.to_owned(),
    };
    if sub.starts_with('/') || Path::new(&sub).components().any(|part| matches!(part, std::path::Component::ParentDir))
    {
        return Err(wrong("the path must be relative and may not contain '..'"));
    }
    let path = root.join(&sub);
    if !path.exists() {
        std::fs::create_dir_all(&path).map_err(|error| wrong(&error.to_string()))?;
    }
    let real = path.canonicalize().map_err(|error| wrong(&error.to_string()))?;
    let base = root.canonicalize().map_err(|error| wrong(&error.to_string()))?;
    if real.starts_with(&base) { Ok(real) } else { Err(wrong("the path leads out of the volume")) }
}
