//! Reports: what a node may write, and how each becomes a write of the API.
//!
//! A node owns its Node object and its Lease, the status of pods bound to it, and the removal of those pods once they
//! are gone; it may record events. Each report is read, checked against that, and carried out through the API's client
//! with the object's revision, so that nothing is overwritten unseen; a lost race is run again.

use bytes::Bytes;
use fairlead_api::client::DeleteOptions;
use fairlead_api::kind::Subresource;
use fairlead_api::status::Reason;
use fairlead_api::{Client, Kind, Object, Status, registry};
use fairlead_proto::push::v1;
use fairlead_proto::push::v1::report::Body;

mod merge;

/// Namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";
/// Labels by which an administrator isolates nodes; a node must not give them to itself.
const RESTRICTED: &str = "node-restriction.kubernetes.io/";
/// How often a lost race is run again.
const RACES: usize = 8;

/// Carries a report out; the outcome says what the API would have answered.
pub(crate) async fn take(client: &dyn Client, node: &str, report: v1::Report) -> v1::Outcome {
    match carry_out(client, node, report).await {
        Ok(json) => v1::Outcome { code: 200, message: String::new(), json },
        Err(status) => {
            tracing::debug!(node, error = status.message, "a report was refused");
            v1::Outcome { code: status.reason.code().into(), message: status.message, json: Bytes::new() }
        }
    }
}

async fn carry_out(client: &dyn Client, node: &str, report: v1::Report) -> Result<Bytes, Status> {
    match report.body {
        Some(Body::RegisterNode(json)) => {
            let stored = register(client, node, &own_node(node, &json)?).await?;
            let json = serde_json::to_vec(&stored).map_err(|error| Status::internal(error.to_string()))?;
            return Ok(json.into());
        }
        Some(Body::NodeStatus(json)) => node_status(client, &own_node(node, &json)?).await?,
        Some(Body::Lease(json)) => lease(client, node, read(&json, &registry::LEASE)?).await?,
        Some(Body::PodStatus(json)) => pod_status(client, node, &read(&json, &registry::POD)?).await?,
        Some(Body::Event(json)) => event(client, read(&json, &registry::EVENT)?).await?,
        Some(Body::PodGone(gone)) => pod_gone(client, node, &gone).await?,
        None => return Err(Status::bad_request("the report is of a kind this control plane does not know")),
    }
    Ok(Bytes::new())
}

async fn register(client: &dyn Client, node: &str, reported: &Object) -> Result<Object, Status> {
    if let Some(label) = reported.labels().and_then(|labels| labels.keys().find(|key| key.contains(RESTRICTED))) {
        let why = format!("a node may not set its label {label}");
        return Err(Status::forbidden("nodes", "", node, &why));
    }
    for _ in 0..RACES {
        let stored = match client.get(&registry::NODE, "", node).await {
            Ok(stored) => stored,
            Err(status) if status.is(Reason::NotFound) => {
                let mut fresh = reported.clone();
                fresh.metadata_mut().remove("resourceVersion");
                fresh.metadata_mut().remove("uid");
                match client.create(&registry::NODE, fresh).await {
                    Err(status) if status.is(Reason::AlreadyExists) => continue,
                    created => created?,
                }
            }
            Err(status) => return Err(status),
        };
        let mut merged = (*stored).clone();
        merge::metadata(&mut merged, reported);
        let written = if merged == *stored { Ok(stored) } else { client.update(&registry::NODE, merged, None).await };
        let written = match written {
            Ok(current) => replace_status(client, &registry::NODE, &current, reported).await,
            Err(status) => Err(status),
        };
        match written {
            Err(status) if status.is(Reason::Conflict) => {}
            written => return written,
        }
    }
    Err(Status::conflict("nodes", "", node, "it keeps changing; please try again"))
}

async fn node_status(client: &dyn Client, reported: &Object) -> Result<(), Status> {
    let name = reported.name();
    for _ in 0..RACES {
        let stored = client.get(&registry::NODE, "", name).await?;
        same_uid(&registry::NODE, &stored, reported.uid())?;
        match replace_status(client, &registry::NODE, &stored, reported).await {
            Err(status) if status.is(Reason::Conflict) => {}
            done => return done.map(drop),
        }
    }
    Err(Status::conflict("nodes", "", name, "it keeps changing; please try again"))
}

async fn pod_status(client: &dyn Client, node: &str, reported: &Object) -> Result<(), Status> {
    for _ in 0..RACES {
        let stored = own_pod(client, node, reported.namespace(), reported.name(), reported.uid()).await?;
        match replace_status(client, &registry::POD, &stored, reported).await {
            Err(status) if status.is(Reason::Conflict) => {}
            done => return done.map(drop),
        }
    }
    Err(Status::conflict("pods", "", reported.name(), "it keeps changing; please try again"))
}

async fn pod_gone(client: &dyn Client, node: &str, gone: &v1::PodGone) -> Result<(), Status> {
    let stored = own_pod(client, node, &gone.namespace, &gone.name, &gone.uid).await?;
    if !stored.is_terminating() {
        return Err(Status::conflict("pods", "", &gone.name, "nobody has asked for its deletion"));
    }
    let options =
        DeleteOptions { grace_period_seconds: Some(0), uid: Some(gone.uid.clone()), ..DeleteOptions::default() };
    client.delete(&registry::POD, &gone.namespace, &gone.name, options).await
}

async fn lease(client: &dyn Client, node: &str, mut reported: Object) -> Result<(), Status> {
    if reported.name() != node || reported.namespace() != LEASES {
        let why = format!("a node may only write its own lease {LEASES}/{node}");
        return Err(Status::forbidden("leases", "coordination.k8s.io", reported.name(), &why));
    }
    reported.metadata_mut().remove("resourceVersion");
    put(client, &registry::LEASE, reported).await
}

/// Creates an event, or replaces the one of that name: a repeated event comes again with a higher count.
async fn event(client: &dyn Client, mut reported: Object) -> Result<(), Status> {
    reported.metadata_mut().remove("resourceVersion");
    put(client, &registry::EVENT, reported).await
}

/// Creates an object, or replaces all of it but the metadata the server keeps.
async fn put(client: &dyn Client, kind: &'static Kind, reported: Object) -> Result<(), Status> {
    let (namespace, name) = (reported.namespace().to_owned(), reported.name().to_owned());
    for _ in 0..RACES {
        let raced = match client.get(kind, &namespace, &name).await {
            Ok(stored) => client.update(kind, merge::replaced(&stored, &reported), None).await,
            Err(status) if status.is(Reason::NotFound) => client.create(kind, reported.clone()).await,
            Err(status) => return Err(status),
        };
        match raced {
            Err(status) if [Reason::Conflict, Reason::AlreadyExists].contains(&status.reason) => {}
            done => return done.map(drop),
        }
    }
    Err(Status::conflict(kind.plural, kind.group, &name, "it keeps changing; please try again"))
}

/// Writes the reported status into the stored object, unless that changes nothing.
async fn replace_status(
    client: &dyn Client,
    kind: &'static Kind,
    stored: &Object,
    reported: &Object,
) -> Result<Object, Status> {
    let mut merged = stored.clone();
    merge::status(&mut merged, reported);
    if merged == *stored {
        return Ok(merged);
    }
    client.update(kind, merged, Some(Subresource::Status)).await.map(|object| (*object).clone())
}

/// The pod, if it is bound to this node and is the one meant.
async fn own_pod(
    client: &dyn Client,
    node: &str,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<std::sync::Arc<Object>, Status> {
    let stored = client.get(&registry::POD, namespace, name).await?;
    if uid.is_empty() {
        return Err(Status::bad_request("a report on a pod must name its UID"));
    }
    same_uid(&registry::POD, &stored, uid)?;
    if stored.str_at(&["spec", "nodeName"]) != node {
        let why = format!("it is not bound to node {node:?}");
        return Err(Status::forbidden("pods", "", name, &why));
    }
    Ok(stored)
}

fn same_uid(kind: &Kind, stored: &Object, uid: &str) -> Result<(), Status> {
    if uid.is_empty() || stored.uid() == uid {
        return Ok(());
    }
    let why = format!("the UID in the report is {uid}, that of the stored object is {}", stored.uid());
    Err(Status::conflict(kind.plural, kind.group, stored.name(), &why))
}

/// The reported Node, if it is the caller's own.
fn own_node(node: &str, json: &[u8]) -> Result<Object, Status> {
    let object = read(json, &registry::NODE)?;
    if object.name() != node {
        let why = format!("node {node:?} may only write its own Node");
        return Err(Status::forbidden("nodes", "", object.name(), &why));
    }
    Ok(object)
}

fn read(json: &[u8], kind: &Kind) -> Result<Object, Status> {
    let object: Object = serde_json::from_slice(json)
        .map_err(|error| Status::bad_request(format!("the reported {} is not a JSON object: {error}", kind.kind)))?;
    if object.kind() != kind.kind || object.name().is_empty() {
        let why = format!("the report should hold a {} with a name, not a {:?}", kind.kind, object.kind());
        return Err(Status::bad_request(why));
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
