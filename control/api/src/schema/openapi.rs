//! The OpenAPI documents: for version 3 an index, and one document per group and version.
//!
//! Clients read them for three things: `explain` walks components by group, version and kind; `apply` takes merge keys
//! from them; `create` asks whether the server validates fields by looking for a `fieldValidation` parameter.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{COMPONENTS, merge_keys};
use crate::discovery;
use crate::kind::Kind;
use crate::registry;

/// A document ready to be sent.
#[derive(Clone, Debug)]
pub struct Document {
    /// JSON, but for [`v2`].
    pub body: Bytes,
    /// Changes with the content; part of the document's address and its `ETag`.
    pub hash: String,
}

impl Document {
    fn of(tree: &Value) -> Self {
        Self::new(Bytes::from(tree.to_string()))
    }

    fn new(body: Bytes) -> Self {
        // FNV-1a, 64 bits: a tag for caches, not a proof.
        let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { body, hash: format!("{hash:016X}") }
    }
}

struct Documents {
    index: Document,
    by_path: BTreeMap<String, Document>,
}

static DOCUMENTS: LazyLock<Documents> = LazyLock::new(|| {
    let versions: BTreeSet<(&str, &str)> = registry::all().iter().map(|kind| (kind.group, kind.version)).collect();
    let by_path: BTreeMap<String, Document> = versions
        .into_iter()
        .map(|(group, version)| (path_of(group, version), Document::of(&document(group, version))))
        .collect();
    let paths: Map<String, Value> = by_path
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    Documents { index: Document::of(&json!({"paths": paths})), by_path }
});

/// `/openapi/v3`: where the documents are.
pub fn index() -> &'static Document {
    &DOCUMENTS.index
}

/// `/openapi/v3/PATH`, where PATH is `api/v1` or `apis/GROUP/VERSION`.
pub fn v3(path: &str) -> Option<&'static Document> {
    DOCUMENTS.by_path.get(path)
}

/// The `Content-Type` of [`v2`].
pub const V2_CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2`, in the protobuf form that clients ask for: a document without paths and definitions.
///
/// Clients come here only for kinds that version 3 does not know, to learn that version 2 does not either; then they
/// say so in the words their users know.
pub fn v2() -> &'static Document {
    static V2: LazyLock<Document> = LazyLock::new(|| {
        // Fields of gnostic's Document: 1 is the version of the format, 2 the Info with 1 title and 2 version.
        let field = |number: u8, content: &[u8]| {
            let length = u8::try_from(content.len()).expect("short texts");
            [&[number << 3 | 2, length], content].concat()
        };
        let info = [field(1, b"Kubernetes"), field(2, discovery::GIT_VERSION.as_bytes())].concat();
        Document::new(Bytes::from([field(1, b"2.0"), field(2, &info)].concat()))
    });
    &V2
}

/// `api/v1`, `apis/apps/v1`.
fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(group: &str, version: &str) -> Value {
    let kinds: Vec<&Kind> =
        registry::all().iter().copied().filter(|kind| (kind.group, kind.version) == (group, version)).collect();
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in kinds {
        schemas.insert(list_name(kind), list_schema(kind));
        paths.extend(paths::of(kind));
    }
    add_referred(&mut schemas, &Value::Object(paths.clone()));
    let lists: Vec<Value> = schemas.values().cloned().collect();
    for list in lists {
        add_referred(&mut schemas, &list);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": discovery::GIT_VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// Adds every component that a tree refers to, and those that they refer to.
fn add_referred(schemas: &mut Map<String, Value>, tree: &Value) {
    match tree {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            let name = reference.and_then(|reference| reference.strip_prefix("#/components/schemas/"));
            if let Some(name) = name
                && !schemas.contains_key(name)
                && let Some(component) = COMPONENTS.get(name)
            {
                schemas.insert(name.to_owned(), component.clone());
                add_referred(schemas, component);
            }
            map.values().for_each(|value| add_referred(schemas, value));
        }
        Value::Array(list) => list.iter().for_each(|value| add_referred(schemas, value)),
        _ => {}
    }
}

fn list_name(kind: &Kind) -> String {
    format!("{}List", kind.schema)
}

fn list_schema(kind: &Kind) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let name = format!("{}List", kind.kind);
    json!({
        "type": "object",
        "description": format!("{name} is a list of {} objects.", kind.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": text("Version of the schema of this list."),
            "kind": text("Name of the type of this list."),
            "metadata": {
                "description": "Revision of the list, and how to go on where it was cut.",
                "default": {},
                "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"}],
            },
            "items": {
                "type": "array",
                "description": "The objects.",
                "items": {"default": {}, "allOf": [{"$ref": format!("#/components/schemas/{}", kind.schema)}]},
            },
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": name}],
    })
}

/// Makes generated components what clients expect: references beside descriptions become `allOf`, kinds carry their
/// group, version and kind, lists carry their merge keys.
pub(super) fn annotate(components: &mut Map<String, Value>) {
    for (name, schema) in components.iter_mut() {
        let Some(schema) = schema.as_object_mut() else { continue };
        wrap_references(schema);
        merge_keys::annotate(name, schema);
    }
    for kind in registry::all() {
        let Some(schema) = components.get_mut(kind.schema).and_then(Value::as_object_mut) else { continue };
        schema.remove("required");
        let gvk = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
        schema.insert("x-kubernetes-group-version-kind".into(), gvk);
    }
    for (name, group, kind) in [
        ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "Scale"),
        ("io.k8s.api.core.v1.Binding", "", "Binding"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "", "DeleteOptions"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", "Status"),
    ] {
        if let Some(schema) = components.get_mut(name).and_then(Value::as_object_mut) {
            schema.remove("required");
            let gvk = json!([{"group": group, "kind": kind, "version": "v1"}]);
            schema.insert("x-kubernetes-group-version-kind".into(), gvk);
        }
    }
}

/// A `$ref` may have no siblings in OpenAPI 3.0, so one with a description moves into `allOf`.
fn wrap_references(schema: &mut Map<String, Value>) {
    if schema.len() > 1
        && let Some(reference) = schema.remove("$ref")
    {
        schema.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    for (_, value) in schema.iter_mut() {
        match value {
            Value::Object(inner) => wrap_references(inner),
            Value::Array(list) => list.iter_mut().filter_map(Value::as_object_mut).for_each(wrap_references),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
