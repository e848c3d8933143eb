//! The node's pods, and their containers' logs.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::context::Context;
use crate::logs::{self, Options};
use crate::pod::{PodName, labels};

/// A request that cannot be served, in words for the person at the other end.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// `GET /pods`: what should run here.
pub(super) async fn pods(State(context): State<Arc<Context>>) -> Json<serde_json::Value> {
    let items: Vec<Arc<Pod>> = context.view().pods().collect();
    let items: Vec<serde_json::Value> =
        items.iter().filter_map(|pod| serde_json::to_value(pod.as_ref()).ok()).collect();
    Json(serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// Query of `/containerLogs`, as the API's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogQuery {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
}

fn flag(value: Option<&String>) -> bool {
    value.is_some_and(|value| matches!(value.as_str(), "" | "1" | "true"))
}

impl LogQuery {
    fn options(&self, now: Timestamp) -> Result<Options, Refusal> {
        let natural = |name: &str, value: Option<i64>, least: i64| match value {
            Some(value) if value < least => Err(Refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("{name}: Invalid value: {value}: must be greater than or equal to {least}\n"),
            )),
            other => Ok(other.and_then(|value| u64::try_from(value).ok())),
        };
        Ok(Options {
            follow: flag(self.follow.as_ref()),
            timestamps: flag(self.timestamps.as_ref()),
            tail: natural("tailLines", self.tail_lines, 0)?,
            limit: natural("limitBytes", self.limit_bytes, 1)?,
            since: natural("sinceSeconds", self.since_seconds, 1)?
                .and_then(|seconds| i64::try_from(seconds).ok())
                .map(|seconds| now - SignedDuration::from_secs(seconds))
                .or(self.since_time),
        })
    }
}

/// `GET /containerLogs/NS/POD/CONTAINER`.
pub(super) async fn logs(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let options = query.options(Timestamp::now())?;
    let (name, found) = containers(&context, &namespace, &pod, &container).await?;
    let previous = flag(query.previous.as_ref());
    let chosen = if previous {
        // A container that waits for its restart is itself the previous one.
        let restarted = found.first().is_some_and(|c| c.state == wire::ContainerState::ContainerExited as i32);
        let waits = restarted && waits_for_restart(&context, &name, &container);
        if waits { found.first() } else { found.get(1) }
    } else {
        found.first()
    };
    let Some(chosen) = chosen else {
        let text = if previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            let reason = waiting_reason(&context, &name, &container).unwrap_or_else(|| "ContainerCreating".into());
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")
        };
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    };
    let attempt = chosen.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let dir = context.config.pod_log_dir(&namespace, &pod, &name.uid);
    let path = dir.join(&container).join(format!("{attempt}.log"));
    if !path.exists() {
        let text = format!("the log of container \"{container}\" in pod \"{pod}\" is gone ({})", path.display());
        return Err(Refusal(StatusCode::NOT_FOUND, text));
    }
    let (sender, receiver) = mpsc::channel(16);
    let (cri, id) = (context.cri.clone(), chosen.id.clone());
    let running = move || {
        let (cri, id) = (cri.clone(), id.clone());
        async move {
            let status = cri.container(&id).await;
            status.is_ok_and(|status| status.state == wire::ContainerState::ContainerRunning as i32)
        }
    };
    let reading = logs::send(path, options, running, sender);
    let body = ReceiverStream::new(receiver);
    Ok(Response::new(Body::from_stream(alongside(body, reading))))
}

/// Yields what the stream yields while the work that feeds it runs; both end together.
fn alongside<T: Send + 'static>(
    stream: ReceiverStream<T>,
    work: impl Future<Output = std::io::Result<()>> + Send + 'static,
) -> impl futures::Stream<Item = std::io::Result<T>> + Send + 'static {
    use futures::StreamExt;
    let end = futures::stream::once(work).filter_map(|ended| async move { ended.err().map(Err) });
    futures::stream::select(stream.map(Ok), end.boxed())
}

/// The containers of this name that the runtime has, the newest first.
pub(super) async fn containers(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(PodName, Vec<wire::Container>), Refusal> {
    let object = context.view().pod(namespace, pod);
    let missing =
        || Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found in namespace \"{namespace}\" on this node"));
    let object = object.ok_or_else(missing)?;
    let name = PodName::of(&object);
    let known = object.spec.as_ref().is_some_and(|spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|known| known.name == container)
    });
    if !known {
        let text = format!("container {container} is not valid for pod {pod}");
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    let listed = context.cri.containers((labels::POD_UID, &name.uid)).await;
    let listed = listed.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut found: Vec<wire::Container> = listed
        .into_iter()
        .filter(|listed| listed.metadata.as_ref().is_some_and(|metadata| metadata.name == container))
        .filter(|listed| listed.state != wire::ContainerState::ContainerCreated as i32)
        .collect();
    found.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    Ok((name, found))
}

fn waiting_reason(context: &Context, name: &PodName, container: &str) -> Option<String> {
    let pod = context.view().pod(&name.namespace, &name.name)?;
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let status = all.into_iter().find(|status| status.name == container)?;
    status.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn waits_for_restart(context: &Context, name: &PodName, container: &str) -> bool {
    waiting_reason(context, name, container).is_some_and(|reason| reason == "CrashLoopBackOff")
}
