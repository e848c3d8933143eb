//! The paths of a kind, as far as clients look at them: operations with the kind they are about, their parameters, and
//! the schemas of their bodies.

use serde_json::{Map, Value, json};

use super::list_name;
use crate::kind::{Kind, Subresource};

/// Paths of one kind by address.
pub(super) fn of(kind: &Kind) -> Map<String, Value> {
    let root = format!("/{}", super::path_of(kind.group, kind.version));
    let base = if kind.is_namespaced() {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let mut paths = Map::new();
    if kind.is_namespaced() {
        let list = json!({"get": list(kind, "ForAllNamespaces"), "parameters": shared(false, false)});
        paths.insert(format!("{root}/{}", kind.plural), list);
    }
    paths.insert(
        base.clone(),
        json!({
            "get": list(kind, ""),
            "post": operation(kind, "post", "create", "", kind.schema, Body::Of(kind.schema), write_parameters(false)),
            "delete": operation(kind, "deletecollection", "delete", "Collection", STATUS, Body::Of(DELETE_OPTIONS),
                delete_parameters(true)),
            "parameters": shared(kind.is_namespaced(), false),
        }),
    );
    let mut one = views(kind, kind.schema, "", true, true);
    one["delete"] = operation(kind, "delete", "delete", "", STATUS, Body::Of(DELETE_OPTIONS), delete_parameters(false));
    paths.insert(format!("{base}/{{name}}"), one);
    for sub in kind.subresources {
        let item = match sub {
            Subresource::Status => views(kind, kind.schema, "Status", true, true),
            Subresource::Scale => views(kind, SCALE, "Scale", true, true),
            Subresource::Finalize => views(kind, kind.schema, "Finalize", false, true),
            Subresource::Binding => json!({
                "post": operation(kind, "post", "create", "Binding", BINDING, Body::Of(BINDING), write_parameters(false)),
                "parameters": shared(kind.is_namespaced(), true),
            }),
        };
        paths.insert(format!("{base}/{{name}}/{}", sub.as_str()), item);
    }
    for connect in kind.connects {
        let get = json!({
            "operationId": operation_id(kind, "connectGet", &capitalized(connect.name)),
            "tags": [tag(kind)],
            "responses": {"200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}},
            "x-kubernetes-action": "connect",
        });
        let item = json!({"get": get, "parameters": shared(kind.is_namespaced(), true)});
        paths.insert(format!("{base}/{{name}}/{}", connect.name), item);
    }
    paths
}

const BINDING: &str = "io.k8s.api.core.v1.Binding";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

enum Body<'a> {
    None,
    Of(&'a str),
    Patch,
}

/// Get, update and patch of an object or of a view of it.
fn views(kind: &Kind, schema: &str, view: &str, read: bool, write: bool) -> Value {
    let mut item = json!({"parameters": shared(kind.is_namespaced(), true)});
    if read {
        item["get"] = operation(kind, "get", "read", view, schema, Body::None, Vec::new());
        item["patch"] = operation(kind, "patch", "patch", view, schema, Body::Patch, write_parameters(true));
    }
    if write {
        item["put"] = operation(kind, "put", "replace", view, schema, Body::Of(schema), write_parameters(false));
    }
    item
}

fn list(kind: &Kind, suffix: &str) -> Value {
    let parameters = [
        ("allowWatchBookmarks", "boolean"),
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
        ("watch", "boolean"),
    ];
    let parameters = parameters.iter().map(|(name, ty)| query(name, ty)).collect();
    operation(kind, "list", "list", suffix, &list_name(kind), Body::None, parameters)
}

fn operation(
    kind: &Kind,
    action: &str,
    verb: &str,
    suffix: &str,
    answer: &str,
    body: Body<'_>,
    parameters: Vec<Value>,
) -> Value {
    let schema = |name: &str| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
    let mut operation = json!({
        "operationId": operation_id(kind, verb, suffix),
        "tags": [tag(kind)],
        "responses": {"200": {"description": "OK", "content": {"application/json": schema(answer)}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    match body {
        Body::None => {}
        Body::Of(name) => operation["requestBody"] = json!({"content": {"*/*": schema(name)}, "required": true}),
        Body::Patch => {
            let types = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ];
            let content: Map<String, Value> = types.iter().map(|ty| ((*ty).to_owned(), schema(PATCH))).collect();
            operation["requestBody"] = json!({"content": content, "required": true});
        }
    }
    operation
}

fn operation_id(kind: &Kind, verb: &str, suffix: &str) -> String {
    let namespaced = if kind.is_namespaced() && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
    format!("{verb}{}{namespaced}{}{suffix}", capitalized(&tag(kind).replace('_', "")), kind.kind)
}

fn tag(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
    format!("{group}_{}", kind.version)
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

fn query(name: &str, ty: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

fn shared(namespaced: bool, named: bool) -> Value {
    let path = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let mut list = Vec::new();
    if named {
        list.push(path("name"));
    }
    if namespaced {
        list.push(path("namespace"));
    }
    list.push(query("pretty", "string"));
    list.into()
}

fn write_parameters(patch: bool) -> Vec<Value> {
    let mut list: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"].map(|name| query(name, "string")).into();
    if patch {
        list.push(query("force", "boolean"));
    }
    list
}

fn delete_parameters(collection: bool) -> Vec<Value> {
    let mut list = vec![
        query("dryRun", "string"),
        query("gracePeriodSeconds", "integer"),
        query("orphanDependents", "boolean"),
        query("propagationPolicy", "string"),
    ];
    if collection {
        list.extend([query("fieldSelector", "string"), query("labelSelector", "string"), query("limit", "integer")]);
    }
    list
}
