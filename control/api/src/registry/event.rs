//! Event: what happened to another object.

use k8s_openapi::api::core::v1::Event;

use crate::kind::{Column, Kind, Naming, Scope};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::Check;
use serde_json::Value;

/// core/v1 Event.
pub static EVENT: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.Event",
    types: super::types::<Event>,
    generation: false,
    default: |_| {},
    validate,
    selectable: &[
        ("involvedObject.kind", &["involvedObject", "kind"]),
        ("involvedObject.namespace", &["involvedObject", "namespace"]),
        ("involvedObject.name", &["involvedObject", "name"]),
        ("involvedObject.uid", &["involvedObject", "uid"]),
        ("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
        ("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
        ("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
        ("reason", &["reason"]),
        ("reportingComponent", &["reportingComponent"]),
        ("source", &["source", "component"]),
        ("type", &["type"]),
    ],
    columns: &[
        cells::text("Last Seen", "When it happened last.", |object, now| last_seen(object, now).into()),
        cells::text("Type", "Normal or Warning.", |object, _| object.str_at(&["type"]).into()),
        cells::text("Reason", "Why, for machines.", |object, _| object.str_at(&["reason"]).into()),
        cells::text("Object", "What it is about.", |object, _| target(object).into()),
        cells::wide("Subobject", "Which part of it.", |object, _| {
            object.str_at(&["involvedObject", "fieldPath"]).into()
        }),
        cells::wide("Source", "Who reported it.", |object, _| source(object).into()),
        cells::text("Message", "Why, for people.", |object, _| object.str_at(&["message"]).trim().into()),
        cells::wide("First Seen", "When it happened first.", |object, now| first_seen(object, now).into()),
        Column {
            r#type: "integer",
            ..cells::wide("Count", "How often it happened.", |object, _| count(object).into())
        },
        Column { priority: 1, ..cells::NAME },
    ],
};

fn validate(new: &Object, _old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let involved = new.str_at(&["involvedObject", "namespace"]);
    // What is about a cluster-wide object lives in `default`.
    let expected = if involved.is_empty() { "default" } else { involved };
    let namespace = new.namespace();
    if namespace != expected && !(involved.is_empty() && namespace == "kube-system") {
        Check::new(errors, "involvedObject.namespace").invalid(involved, "does not match event.namespace");
    }
}

fn last_seen(object: &Object, now: i64) -> String {
    if let Some(observed) = object.at(&["series", "lastObservedTime"]) {
        return cells::since(Some(observed), now);
    }
    match object.at(&["lastTimestamp"]) {
        Some(last) => cells::since(Some(last), now),
        None => first_seen(object, now),
    }
}

fn first_seen(object: &Object, now: i64) -> String {
    cells::since(object.at(&["firstTimestamp"]).or_else(|| object.at(&["eventTime"])), now)
}

fn count(object: &Object) -> i64 {
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64);
    number(&["series", "count"]).unwrap_or_else(|| number(&["count"]).unwrap_or(0).max(1))
}

fn target(object: &Object) -> String {
    let kind = object.str_at(&["involvedObject", "kind"]).to_lowercase();
    match object.str_at(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(object: &Object) -> String {
    let component = match object.str_at(&["source", "component"]) {
        "" => object.str_at(&["reportingComponent"]),
        component => component,
    };
    let host = match object.str_at(&["source", "host"]) {
        "" => object.str_at(&["reportingInstance"]),
        host => host,
    };
    [component, host].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}
