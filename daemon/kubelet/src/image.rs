//! Images: import of an OCI archive into the runtime, what the runtime has, and the credentials for pulls.

mod archive;

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, Image, UpdateImageRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::Pod;
use tonic::Request;
use tonic::transport::Channel;

use crate::cri::{Cri, CriError, channel};
use crate::pod::PodName;
use crate::pod::env::Lookup;
use archive::{Archive, Blob};

/// containerd's namespace in which CRI looks for images.
const NAMESPACE: &str = "k8s.io";
/// Bytes of content per message.
const CHUNK: usize = 1 << 20;

/// Why an image could not be imported or listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The archive cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is none, or lacks something.
    #[error("not an OCI image archive: {0}")]
    Archive(String),
    /// The runtime refused a call of its own API.
    #[error("containerd refused to {what}: {}", .status.message())]
    Containerd {
        /// What was tried.
        what: String,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// The runtime cannot be asked.
    #[error(transparent)]
    Cri(#[from] CriError),
}

/// Imports every image of an OCI archive (a tar with `index.json`) into the runtime's `k8s.io` namespace and returns
/// their names. Content that is there already is not written again.
pub async fn load(runtime_endpoint: &Path, archive: &Path) -> Result<Vec<String>, ImageError> {
    let bytes =
        tokio::fs::read(archive).await.map_err(|source| ImageError::Read { path: archive.to_path_buf(), source })?;
    load_bytes(runtime_endpoint, &bytes).await
}

/// [`load`] for an archive held in memory.
pub async fn load_bytes(runtime_endpoint: &Path, archive: &[u8]) -> Result<Vec<String>, ImageError> {
    let archive = Archive::read(archive)?;
    let channel = channel(runtime_endpoint)?;
    // A lease keeps the content from the garbage collector until an image refers to it.
    let mut leases = LeasesClient::new(channel.clone());
    let lease = format!("fairlead-import-{}", uuid::Uuid::new_v4());
    let request = CreateRequest { id: lease.clone(), ..Default::default() };
    leases.create(in_namespace(request, None)).await.map_err(refused("create a lease"))?;
    let imported = import(&channel, &archive, &lease).await;
    let request = DeleteRequest { id: lease, sync: false };
    let released = leases.delete(in_namespace(request, None)).await.map_err(refused("delete its lease"));
    let names = imported?;
    released?;
    Ok(names)
}

/// An image the runtime has. Its text is one line: names, short id, size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Tags, or digests where there is no tag.
    pub names: Vec<String>,
    /// Digest of its configuration.
    pub id: String,
    /// Bytes.
    pub size: u64,
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.id.strip_prefix("sha256:").unwrap_or(&self.id);
        let kilobytes = self.size.div_ceil(1_000);
        write!(f, "{}  {}  {kilobytes} kB", self.names.join(","), id.get(..12).unwrap_or(id))
    }
}

/// All images the runtime has, by name.
pub async fn list(runtime_endpoint: &Path) -> Result<Vec<Listed>, ImageError> {
    let images = Cri::new(runtime_endpoint)?.image_list().await?;
    let mut listed: Vec<Listed> = images
        .into_iter()
        .map(|image| {
            let names = if image.repo_tags.is_empty() { image.repo_digests } else { image.repo_tags };
            Listed { names, id: image.id, size: image.size }
        })
        .collect();
    listed.sort();
    Ok(listed)
}

async fn import(channel: &Channel, archive: &Archive<'_>, lease: &str) -> Result<Vec<String>, ImageError> {
    let mut content = ContentClient::new(channel.clone());
    for blob in archive.blobs() {
        write(&mut content, blob, lease).await?;
    }
    let mut images = ImagesClient::new(channel.clone());
    let mut names = Vec::new();
    for image in archive.images() {
        let entry = Image {
            name: image.name.clone(),
            labels: [("io.cri-containerd.image".to_owned(), "managed".to_owned())].into(),
            target: Some(Descriptor {
                media_type: image.media_type.clone(),
                digest: image.digest.clone(),
                size: image.size,
                annotations: Default::default(),
            }),
            ..Default::default()
        };
        let request = CreateImageRequest { image: Some(entry.clone()), source_date_epoch: None };
        match images.create(in_namespace(request, Some(lease))).await {
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                let request = UpdateImageRequest { image: Some(entry), update_mask: None, source_date_epoch: None };
                let what = format!("update image {}", image.name);
                images.update(in_namespace(request, Some(lease))).await.map_err(refused(&what))?;
            }
            Err(status) => return Err(refused(&format!("create image {}", image.name))(status)),
        }
        names.push(image.name.clone());
    }
    Ok(names)
}

async fn write(content: &mut ContentClient<Channel>, blob: &Blob<'_>, lease: &str) -> Result<(), ImageError> {
    let total = i64::try_from(blob.data.len()).unwrap_or(i64::MAX);
    let reference = format!("fairlead-{}", blob.digest);
    let mut messages = Vec::new();
    let mut offset = 0;
    for chunk in blob.data.chunks(CHUNK) {
        messages.push(WriteContentRequest {
            action: WriteAction::Write as i32,
            r#ref: reference.clone(),
            total,
            expected: blob.digest.clone(),
            offset,
            data: chunk.to_vec(),
            labels: Default::default(),
        });
        offset += i64::try_from(chunk.len()).unwrap_or(0);
    }
    messages.push(WriteContentRequest {
        action: WriteAction::Commit as i32,
        r#ref: reference,
        total,
        expected: blob.digest.clone(),
        offset: total,
        data: Vec::new(),
        labels: blob.labels.clone(),
    });
    let what = format!("take {}", blob.digest);
    let outcome = match content.write(in_namespace(futures::stream::iter(messages), Some(lease))).await {
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                }
            }
        }
        Err(status) => Err(status),
    };
    match outcome {
        Err(status) if status.code() != tonic::Code::AlreadyExists => Err(refused(&what)(status)),
        _ => Ok(()),
    }
}

fn refused(what: &str) -> impl FnOnce(tonic::Status) -> ImageError {
    let what = what.to_owned();
    move |status| ImageError::Containerd { what, status: Box::new(status) }
}

fn in_namespace<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|lease| lease.parse().ok()) {
        metadata.insert("containerd-lease", lease);
    }
    request
}

/// The pod's pull secrets that have something for the image's registry.
pub(crate) fn credentials(pod: &Pod, image: &str, lookup: &dyn Lookup) -> Vec<wire::AuthConfig> {
    let namespace = PodName::of(pod).namespace;
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let mut found = Vec::new();
    for secret in secrets.filter_map(|reference| lookup.secret(&namespace, &reference.name)) {
        let data = secret.data.as_ref();
        let json = data.and_then(|data| data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg")));
        let Some(json) = json.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json.0).ok()) else {
            continue;
        };
        let auths = json.get("auths").unwrap_or(&json);
        for (registry, auth) in auths.as_object().into_iter().flatten() {
            if matches(registry, image) {
                found.push(auth_config(registry, auth));
            }
        }
    }
    found
}

/// Whether a registry's entry is for this image.
fn matches(registry: &str, image: &str) -> bool {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let host = registry.split('/').next().unwrap_or_default();
    let first = image.split('/').next().unwrap_or_default();
    let named = image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    if named { host == first } else { host.ends_with("docker.io") }
}

fn auth_config(registry: &str, auth: &serde_json::Value) -> wire::AuthConfig {
    let get = |key: &str| auth.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let mut config = wire::AuthConfig {
        username: get("username"),
        password: get("password"),
        identity_token: get("identitytoken"),
        server_address: registry.to_owned(),
        ..Default::default()
    };
    if config.username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(get("auth")).unwrap_or_default();
        if let Some((user, password)) = String::from_utf8_lossy(&decoded).split_once(':') {
            config.username = user.to_owned();
            config.password = password.to_owned();
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_matches_its_images() {
        assert!(matches("host:5000", "host:5000/a/b:1"));
        assert!(matches("https://host.example/v2/", "host.example/a"));
        assert!(!matches("other.example", "host.example/a"));
        assert!(matches("https://index.docker.io/v1/", "busybox"));
        let auth = auth_config("r", &serde_json::json!({"auth": "dTpw"}));
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p"));
    }
}
