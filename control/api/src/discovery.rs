//! What clients read first: which groups, versions and resources there are, and the version of the server.
//!
//! All documents come from [`crate::registry`]. `/api` and `/apis` exist in two forms, chosen by the `Accept` header:
//! the old lists of names, and the aggregated form (`apidiscovery.k8s.io`) that needs no second request.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kind::{Kind, Subresource};
use crate::registry;

/// Verbs of every stored kind, as discovery lists them.
pub const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The Kubernetes version announced.
pub const GIT_VERSION: &str = "v1.36.0+fairlead";

/// `/version`. `commit` and `built` (RFC 3339) describe the build; `compiler` and `platform` name Rust and the machine.
pub fn version(commit: &str, built: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": commit, "gitTreeState": "clean", "buildDate": built,
        "goVersion": "none", "compiler": "rustc", "platform": format!("{}/{architecture}", std::env::consts::OS),
    })
}

/// `/api`: the versions of the core group. `address` is `HOST:PORT` as clients reach the server.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`: all groups but the core one.
pub fn api_groups() -> Value {
    let groups: Vec<Value> = groups().filter(|group| !group.is_empty()).map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, if there is such a group.
pub fn api_group(group: &str) -> Option<Value> {
    if group.is_empty() || !groups().any(|one| one == group) {
        return None;
    }
    let mut entry = group_entry(group);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// `/api/v1` and `/apis/GROUP/VERSION`, if there is such a version.
pub fn api_resources(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = kinds(group, version).collect();
    let group_version = kinds.first()?.api_version();
    let resources: Vec<Value> = kinds.into_iter().flat_map(resource_entries).collect();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

/// Versions of the aggregated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`.
    V2Beta1,
}

impl Aggregated {
    /// `v2` or `v2beta1`.
    pub fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> String {
        format!("application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList", self.version())
    }

    /// The first aggregated form that an `Accept` header prefers to plain JSON, if any.
    pub fn accepted(accept: &str) -> Option<Self> {
        for choice in accept.split(',') {
            let parts: Vec<&str> = choice.split(';').map(str::trim).collect();
            let says = |part: &str| parts.contains(&part);
            if !matches!(parts.first(), Some(&"application/json" | &"*/*" | &"application/*")) {
                continue;
            }
            if says("g=apidiscovery.k8s.io") && says("as=APIGroupDiscoveryList") {
                match [Self::V2, Self::V2Beta1].into_iter().find(|one| says(&format!("v={}", one.version()))) {
                    Some(form) => return Some(form),
                    None => continue,
                }
            }
            return None;
        }
        None
    }
}

/// `/api` (`core` true) or `/apis` in the aggregated form.
pub fn aggregated(form: Aggregated, core: bool) -> Value {
    let items: Vec<Value> = groups().filter(|group| group.is_empty() == core).map(group_discovery).collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{}", form.version()),
        "metadata": {}, "items": items,
    })
}

/// Groups in the order of the registry.
fn groups() -> impl Iterator<Item = &'static str> {
    let mut seen = BTreeSet::new();
    registry::all().iter().map(|kind| kind.group).filter(move |group| seen.insert(*group))
}

/// Versions of a group in the order of the registry.
fn versions(group: &str) -> impl Iterator<Item = &'static str> {
    let mut seen = BTreeSet::new();
    let kinds = registry::all().iter().filter(move |kind| kind.group == group);
    kinds.map(|kind| kind.version).filter(move |version| seen.insert(*version))
}

fn kinds(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    let mut found: Vec<&'static Kind> = registry::all().to_vec();
    found.retain(|kind| kind.group == group && kind.version == version);
    found.sort_by_key(|kind| kind.plural);
    found.into_iter()
}

fn group_entry(group: &str) -> Value {
    let versions: Vec<Value> =
        versions(group).map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// A resource and its subresources, in the old form.
fn resource_entries(kind: &'static Kind) -> Vec<Value> {
    let mut own = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.is_namespaced(), "kind": kind.kind,
        "verbs": VERBS, "storageVersionHash": storage_version_hash(kind),
    });
    if !kind.short_names.is_empty() {
        own["shortNames"] = kind.short_names.into();
    }
    if !kind.categories.is_empty() {
        own["categories"] = kind.categories.into();
    }
    let subs = subresources(kind).into_iter().map(|sub| {
        let mut entry = json!({
            "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.is_namespaced(),
            "kind": sub.kind, "verbs": sub.verbs,
        });
        if (sub.group, sub.version) != (kind.group, kind.version) {
            entry["group"] = sub.group.into();
            entry["version"] = sub.version.into();
        }
        entry
    });
    std::iter::once(own).chain(subs).collect()
}

fn group_discovery(group: &'static str) -> Value {
    let versions: Vec<Value> = versions(group)
        .map(|version| {
            let resources: Vec<Value> = kinds(group, version).map(resource_discovery).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    // The core group has no name; upstream leaves the metadata bare then.
    let metadata = if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn resource_discovery(kind: &'static Kind) -> Value {
    let response_kind =
        |group: &str, version: &str, name: &str| json!({"group": group, "version": version, "kind": name});
    let mut entry = json!({
        "resource": kind.plural, "responseKind": response_kind(kind.group, kind.version, kind.kind),
        "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": VERBS,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = kind.short_names.into();
    }
    if !kind.categories.is_empty() {
        entry["categories"] = kind.categories.into();
    }
    let subs: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|sub| {
            let response = response_kind(sub.group, sub.version, sub.kind);
            json!({"subresource": sub.name, "responseKind": response, "verbs": sub.verbs})
        })
        .collect();
    if !subs.is_empty() {
        entry["subresources"] = subs.into();
    }
    entry
}

struct Sub {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

/// Views and connections alike, sorted by name.
fn subresources(kind: &'static Kind) -> Vec<Sub> {
    let (group, version) = (kind.group, kind.version);
    let views = kind.subresources.iter().map(|view| {
        let (group, version, kind, verbs): (_, _, _, &'static [&'static str]) = match view {
            Subresource::Status => (group, version, kind.kind, &["get", "patch", "update"]),
            Subresource::Scale => ("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
            Subresource::Binding => (group, version, "Binding", &["create"]),
            Subresource::Finalize => (group, version, kind.kind, &["update"]),
        };
        Sub { name: view.as_str(), group, version, kind, verbs }
    });
    let connects = kind.connects.iter().map(|connect| Sub {
        name: connect.name,
        group,
        version,
        kind: connect.kind,
        verbs: connect.verbs,
    });
    let mut all: Vec<Sub> = views.chain(connects).collect();
    all.sort_by_key(|sub| sub.name);
    all
}

/// Opaque to clients; changes when the stored form would. FNV-1a over the kind's name, in base64.
fn storage_version_hash(kind: &Kind) -> String {
    use base64::Engine as _;
    let name = format!("{}/{}/{}", kind.group, kind.version, kind.kind);
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    base64::engine::general_purpose::STANDARD.encode(hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &Value, field: &str) -> Vec<String> {
        list.as_array().expect("list").iter().map(|one| one[field].as_str().expect("name").to_owned()).collect()
    }

    #[test]
    fn lists_of_names() {
        assert_eq!(names(&api_groups()["groups"], "name"), ["apps", "coordination.k8s.io", "discovery.k8s.io"]);
        assert_eq!(api_group("apps").expect("apps")["preferredVersion"]["groupVersion"], "apps/v1");
        assert!(api_group("").is_none() && api_group("nope").is_none());
        let apps = api_resources("apps", "v1").expect("apps/v1");
        assert_eq!(
            names(&apps["resources"], "name"),
            [
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status"
            ]
        );
        assert_eq!(apps["resources"][1]["group"], "autoscaling");
        let core = api_resources("", "v1").expect("v1");
        assert_eq!(core["groupVersion"], "v1");
        let core = names(&core["resources"], "name");
        for name in ["pods/log", "pods/exec", "pods/binding", "pods/status", "namespaces/finalize", "nodes/status"] {
            assert!(core.iter().any(|one| one == name), "{name}");
        }
        assert!(api_resources("apps", "v9").is_none());
    }

    #[test]
    fn aggregated_form_says_the_same() {
        let core = aggregated(Aggregated::V2, true);
        assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
        let apps = aggregated(Aggregated::V2Beta1, false);
        assert_eq!(apps["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        let resources = &apps["items"][0]["versions"][0]["resources"];
        assert_eq!(names(resources, "resource"), ["deployments", "replicasets"]);
        assert_eq!(resources[0]["shortNames"], json!(["deploy"]));
        assert_eq!(resources[0]["subresources"][0]["responseKind"]["kind"], "Scale");
    }

    #[test]
    fn the_accept_header_chooses() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(Aggregated::accepted(kubectl), Some(Aggregated::V2));
        assert_eq!(
            Aggregated::accepted("application/json;as=APIGroupDiscoveryList;v=v2beta1;g=apidiscovery.k8s.io"),
            Some(Aggregated::V2Beta1)
        );
        assert_eq!(Aggregated::accepted("application/json, */*"), None);
        assert_eq!(Aggregated::accepted("*/*"), None);
        assert_eq!(Aggregated::accepted(""), None);
    }
}
