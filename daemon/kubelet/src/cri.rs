//! The runtime, as far as CRI v1 reaches: one client for both services, a deadline on every call, and errors that name
//! the call. Nothing here decides anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as wire};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Deadline of calls that only look.
const LOOK: Duration = Duration::from_secs(10);
/// Deadline of calls that change something.
const CHANGE: Duration = Duration::from_secs(120);
/// Deadline of a sandbox's creation: it includes the network plugin.
const SANDBOX: Duration = Duration::from_secs(240);
/// Deadline of a pull.
const PULL: Duration = Duration::from_secs(1800);
/// Largest answer taken: a node with many pods lists more than gRPC's default of 4 MiB.
const LARGEST: usize = 64 << 20;

/// Why a call to the runtime failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriError {
    /// The socket is no address at all.
    #[error("`{}` is no socket path", .path.display())]
    Endpoint {
        /// As configured.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The runtime answered with an error, or not at all.
    #[error("{}", .status.message())]
    Call {
        /// Name of the CRI call.
        call: &'static str,
        /// Its status.
        status: Box<tonic::Status>,
    },
    /// The runtime did not answer in time.
    #[error("the runtime did not answer {call} within {} s", .after.as_secs())]
    Timeout {
        /// Name of the CRI call.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
}

impl CriError {
    /// The way events put it: with the code of the call, as gRPC clients print it.
    pub(crate) fn as_rpc(&self) -> String {
        match self {
            Self::Call { status, .. } => format!("rpc error: code = {:?} desc = {}", status.code(), status.message()),
            other => other.to_string(),
        }
    }

    /// The object asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == tonic::Code::NotFound)
    }
}

/// A channel to a Unix socket, connected at the first call and again whenever it broke.
pub(crate) fn channel(path: &Path) -> Result<Channel, CriError> {
    let path = path.to_path_buf();
    let endpoint = Endpoint::try_from("http://runtime.invalid")
        .map_err(|source| CriError::Endpoint { path: path.clone(), source })?
        .connect_timeout(Duration::from_secs(5));
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    })))
}

/// A client of the runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// Runs a call under a deadline.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr, $after:expr) => {{
        let mut client = $client.clone();
        let request = $request;
        match tokio::time::timeout($after, client.$method(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(CriError::Call { call: stringify!($method), status: Box::new(status) }),
            Err(_) => Err(CriError::Timeout { call: stringify!($method), after: $after }),
        }
    }};
}

impl Cri {
    pub(crate) fn new(socket: &Path) -> Result<Self, CriError> {
        let channel = channel(socket)?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LARGEST),
        })
    }

    pub(crate) async fn version(&self) -> Result<wire::VersionResponse, CriError> {
        call!(self.runtime, version, wire::VersionRequest { version: "v1".into() }, LOOK)
    }

    pub(crate) async fn status(&self) -> Result<Vec<wire::RuntimeCondition>, CriError> {
        let answer = call!(self.runtime, status, wire::StatusRequest { verbose: false }, LOOK)?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    pub(crate) async fn sandboxes(&self, label: (&str, &str)) -> Result<Vec<wire::PodSandbox>, CriError> {
        let filter = wire::PodSandboxFilter { label_selector: selector(label), ..Default::default() };
        let request = wire::ListPodSandboxRequest { filter: Some(filter) };
        Ok(call!(self.runtime, list_pod_sandbox, request, LOOK)?.items)
    }

    pub(crate) async fn sandbox(&self, id: &str) -> Result<wire::PodSandboxStatus, CriError> {
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(call!(self.runtime, pod_sandbox_status, request, LOOK)?.status.unwrap_or_default())
    }

    pub(crate) async fn containers(&self, label: (&str, &str)) -> Result<Vec<wire::Container>, CriError> {
        let filter = wire::ContainerFilter { label_selector: selector(label), ..Default::default() };
        let request = wire::ListContainersRequest { filter: Some(filter) };
        Ok(call!(self.runtime, list_containers, request, LOOK)?.containers)
    }

    pub(crate) async fn container(&self, id: &str) -> Result<wire::ContainerStatus, CriError> {
        let request = wire::ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(call!(self.runtime, container_status, request, LOOK)?.status.unwrap_or_default())
    }

    pub(crate) async fn run_sandbox(&self, config: wire::PodSandboxConfig) -> Result<String, CriError> {
        let request = wire::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(call!(self.runtime, run_pod_sandbox, request, SANDBOX)?.pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = wire::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        gone_is_fine(call!(self.runtime, stop_pod_sandbox, request, CHANGE).map(drop))
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = wire::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        gone_is_fine(call!(self.runtime, remove_pod_sandbox, request, CHANGE).map(drop))
    }

    pub(crate) async fn create(
        &self,
        sandbox: &str,
        config: wire::ContainerConfig,
        sandbox_config: wire::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime, create_container, request, CHANGE)?.container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), CriError> {
        call!(self.runtime, start_container, wire::StartContainerRequest { container_id: id.into() }, CHANGE).map(drop)
    }

    /// SIGTERM, then SIGKILL after `grace`. Returns once the container has ended.
    pub(crate) async fn stop(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = wire::StopContainerRequest { container_id: id.into(), timeout };
        gone_is_fine(call!(self.runtime, stop_container, request, CHANGE + grace).map(drop))
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), CriError> {
        let request = wire::RemoveContainerRequest { container_id: id.into() };
        gone_is_fine(call!(self.runtime, remove_container, request, CHANGE).map(drop))
    }

    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<wire::ExecSyncResponse, CriError> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let request = wire::ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout: seconds };
        call!(self.runtime, exec_sync, request, timeout + LOOK)
    }

    /// URL at which the runtime streams this command.
    pub(crate) async fn exec(&self, request: wire::ExecRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime, exec, request, LOOK)?.url)
    }

    /// URL at which the runtime streams the container's own input and output.
    pub(crate) async fn attach(&self, request: wire::AttachRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime, attach, request, LOOK)?.url)
    }

    /// URL at which the runtime streams connections to a sandbox's ports.
    pub(crate) async fn port_forward(&self, sandbox: &str) -> Result<String, CriError> {
        let request = wire::PortForwardRequest { pod_sandbox_id: sandbox.into(), port: Vec::new() };
        Ok(call!(self.runtime, port_forward, request, LOOK)?.url)
    }

    /// The image's identity, `None` when the runtime does not have it.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<wire::Image>, CriError> {
        let request = wire::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        Ok(call!(self.images, image_status, request, LOOK)?.image)
    }

    pub(crate) async fn image_list(&self) -> Result<Vec<wire::Image>, CriError> {
        Ok(call!(self.images, list_images, wire::ListImagesRequest { filter: None }, LOOK)?.images)
    }

    pub(crate) async fn pull(&self, name: &str, auth: Option<wire::AuthConfig>) -> Result<String, CriError> {
        let request = wire::PullImageRequest { image: Some(image_spec(name)), auth, sandbox_config: None };
        Ok(call!(self.images, pull_image, request, PULL)?.image_ref)
    }
}

/// An image by name.
pub(crate) fn image_spec(name: &str) -> wire::ImageSpec {
    wire::ImageSpec { image: name.into(), ..Default::default() }
}

fn selector((key, value): (&str, &str)) -> std::collections::HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn gone_is_fine(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
