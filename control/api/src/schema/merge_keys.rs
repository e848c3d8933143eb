//! How lists merge: one table for strategic merge and for the annotations in the OpenAPI documents.
//!
//! The rows are facts of the Kubernetes API (`patchStrategy`, `patchMergeKey`, `listType`, `listMapKey` and `mapType`
//! of its types); k8s-openapi's schemas leave them out. A list without a row is atomic: a patch replaces it.

use serde_json::{Map, Value, json};

/// What a strategic merge does with a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListMerge {
    /// A list is replaced; an object is merged.
    #[default]
    Default,
    /// A list of objects is merged by this key.
    ByKey(&'static str),
    /// A list of plain values is merged as a set.
    Set,
}

/// One row: what clients are told about a field.
struct Row {
    /// Type without its package.
    ty: &'static str,
    field: &'static str,
    /// `x-kubernetes-patch-strategy`, or empty.
    strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`, or empty.
    merge_key: &'static str,
    /// `x-kubernetes-list-type`.
    list: List,
}

#[derive(Clone, Copy)]
enum List {
    Atomic,
    Set,
    Map(&'static [&'static str]),
    /// Nothing is said, or the field is no list.
    Unsaid,
}

const fn map(ty: &'static str, field: &'static str, key: &'static str, keys: &'static [&'static str]) -> Row {
    Row { ty, field, strategy: "merge", merge_key: key, list: List::Map(keys) }
}

const fn retain(ty: &'static str, field: &'static str, key: &'static str, keys: &'static [&'static str]) -> Row {
    Row { ty, field, strategy: "merge,retainKeys", merge_key: key, list: List::Map(keys) }
}

const fn set(ty: &'static str, field: &'static str, strategy: &'static str) -> Row {
    Row { ty, field, strategy, merge_key: "", list: List::Set }
}

/// Server-side apply merges these by key; a strategic merge replaces them.
const fn keyed(ty: &'static str, field: &'static str, keys: &'static [&'static str]) -> Row {
    Row { ty, field, strategy: "", merge_key: "", list: List::Map(keys) }
}

static ROWS: &[Row] = &[
    map("Container", "env", "name", &["name"]),
    map("Container", "ports", "containerPort", &["containerPort", "protocol"]),
    map("Container", "volumeDevices", "devicePath", &["devicePath"]),
    map("Container", "volumeMounts", "mountPath", &["mountPath"]),
    set("ContainerRestartRuleOnExitCodes", "values", ""),
    map("ContainerStatus", "allocatedResourcesStatus", "name", &["name"]),
    map("ContainerStatus", "volumeMounts", "mountPath", &["mountPath"]),
    map("DeploymentStatus", "conditions", "type", &["type"]),
    Row { ty: "DeploymentSpec", field: "strategy", strategy: "retainKeys", merge_key: "", list: List::Unsaid },
    set("Endpoint", "addresses", ""),
    map("EphemeralContainer", "env", "name", &["name"]),
    map("EphemeralContainer", "ports", "containerPort", &["containerPort", "protocol"]),
    map("EphemeralContainer", "volumeDevices", "devicePath", &["devicePath"]),
    map("EphemeralContainer", "volumeMounts", "mountPath", &["mountPath"]),
    map("NamespaceStatus", "conditions", "type", &["type"]),
    set("NodeSpec", "podCIDRs", "merge"),
    map("NodeStatus", "addresses", "type", &["type"]),
    map("NodeStatus", "conditions", "type", &["type"]),
    set("ObjectMeta", "finalizers", "merge"),
    map("ObjectMeta", "ownerReferences", "uid", &["uid"]),
    map("PodSpec", "containers", "name", &["name"]),
    map("PodSpec", "ephemeralContainers", "name", &["name"]),
    map("PodSpec", "hostAliases", "ip", &["ip"]),
    map("PodSpec", "imagePullSecrets", "name", &["name"]),
    map("PodSpec", "initContainers", "name", &["name"]),
    retain("PodSpec", "resourceClaims", "name", &["name"]),
    map("PodSpec", "schedulingGates", "name", &["name"]),
    map("PodSpec", "topologySpreadConstraints", "topologyKey", &["topologyKey", "whenUnsatisfiable"]),
    retain("PodSpec", "volumes", "name", &["name"]),
    map("PodStatus", "conditions", "type", &["type"]),
    Row { ty: "PodStatus", field: "hostIPs", strategy: "merge", merge_key: "ip", list: List::Atomic },
    map("PodStatus", "podIPs", "ip", &["ip"]),
    retain("PodStatus", "resourceClaimStatuses", "name", &["name"]),
    map("ReplicaSetStatus", "conditions", "type", &["type"]),
    keyed("ResourceRequirements", "claims", &["name"]),
    keyed("ResourceStatus", "resources", &["resourceID"]),
    map("ServiceAccount", "secrets", "name", &["name"]),
    map("ServiceSpec", "ports", "port", &["port", "protocol"]),
    map("ServiceStatus", "conditions", "type", &["type"]),
];

/// Types that server-side apply takes as one value.
static ATOMIC_TYPES: &[&str] = &[
    "ConfigMapKeySelector",
    "ConfigMapNodeConfigSource",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "ScopedResourceSelectorRequirement",
    "SecretKeySelector",
    "SecretReference",
    "TypedLocalObjectReference",
];

/// Maps that server-side apply takes as one value.
static ATOMIC_MAPS: &[(&str, &str)] = &[("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")];

/// The name without its package. Types of one name in two packages (`EndpointPort`) merge alike.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn row(ty: &str, field: &str) -> Option<&'static Row> {
    let ty = short(ty);
    ROWS.iter().find(|row| row.ty == ty && row.field == field)
}

/// How a strategic merge treats the field of a type (its OpenAPI name).
pub fn lookup(ty: &str, field: &str) -> ListMerge {
    match row(ty, field) {
        Some(Row { strategy: "merge" | "merge,retainKeys", merge_key: "", .. }) => ListMerge::Set,
        Some(Row { strategy: "merge" | "merge,retainKeys", merge_key, .. }) => ListMerge::ByKey(merge_key),
        _ => ListMerge::Default,
    }
}

/// Adds the extensions that clients read to the schema of a type (its OpenAPI name).
pub(crate) fn annotate(ty: &str, schema: &mut Map<String, Value>) {
    if ATOMIC_TYPES.contains(&short(ty)) {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, schema) in properties {
        let Some(schema) = schema.as_object_mut() else { continue };
        let is_list = schema.get("type") == Some(&json!("array"));
        let list = match row(ty, field) {
            Some(row) => {
                for (key, text) in [("patch-strategy", row.strategy), ("patch-merge-key", row.merge_key)] {
                    if !text.is_empty() {
                        schema.insert(format!("x-kubernetes-{key}"), text.into());
                    }
                }
                row.list
            }
            None if is_list => List::Atomic,
            None => List::Unsaid,
        };
        match list {
            List::Unsaid => {}
            List::Atomic => insert_list_type(schema, "atomic"),
            List::Set => insert_list_type(schema, "set"),
            List::Map(keys) => {
                insert_list_type(schema, "map");
                schema.insert("x-kubernetes-list-map-keys".into(), keys.into());
            }
        }
        if ATOMIC_MAPS.contains(&(short(ty), field)) {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
    }
}

fn insert_list_type(schema: &mut Map<String, Value>, list_type: &str) {
    schema.insert("x-kubernetes-list-type".into(), list_type.into());
}

#[cfg(test)]
mod tests;
