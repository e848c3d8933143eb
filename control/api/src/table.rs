//! Tables: what `kubectl get` shows, made by the server so that every client shows the same.

pub mod cells;

use serde_json::{Map, Value, json};

use crate::kind::{Column, Kind};
use crate::object::Object;

/// What a row carries beside its cells (`includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata, as `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// The value of the query parameter; empty means the default, `None` something unknown.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A `meta.k8s.io/v1` Table. `list_metadata` is the list's (or, for one object, an object with its resourceVersion);
/// `now` is seconds since the Unix epoch; without `headings` the column definitions stay out, as in the second and
/// later events of a watch.
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Object>,
    list_metadata: Value,
    include: IncludeObject,
    now: i64,
    headings: bool,
) -> Value {
    let columns: Vec<Value> = if headings { kind.columns.iter().map(heading).collect() } else { Vec::new() };
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// The `PartialObjectMetadata` of an object.
pub fn partial_metadata(object: &Object) -> Value {
    let metadata = object.0.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

fn heading(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.r#type, "format": column.format, "description": column.description,
        "priority": column.priority,
    })
}

fn row(kind: &Kind, object: &Object, include: IncludeObject, now: i64) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|column| (column.cell)(object, now)).collect();
    let mut row = json!({"cells": cells});
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = partial_metadata(object),
        IncludeObject::Object => row["object"] = Value::Object(object.0.clone()),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::CONFIG_MAP;

    #[test]
    fn rows_carry_what_was_asked_for() {
        let object: Object = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"}, "data": {"x": "1", "y": "2"}}))
        .expect("object");
        let make = |include| table(&CONFIG_MAP, [&object], json!({"resourceVersion": "7"}), include, 90, true);
        let whole = make(IncludeObject::Object);
        assert_eq!(whole["rows"][0]["cells"], json!(["a", 2, "90s"]));
        assert_eq!(whole["rows"][0]["object"]["data"]["y"], "2");
        assert_eq!(whole["metadata"]["resourceVersion"], "7");
        assert_eq!(whole["columnDefinitions"][0]["format"], "name");
        let metadata = make(IncludeObject::Metadata);
        assert_eq!(metadata["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(metadata["rows"][0]["object"]["metadata"]["name"], "a");
        assert_eq!(metadata["rows"][0]["object"].get("data"), None);
        assert_eq!(make(IncludeObject::None)["rows"][0].get("object"), None);
        assert_eq!(IncludeObject::parse("Everything"), None);
    }
}
