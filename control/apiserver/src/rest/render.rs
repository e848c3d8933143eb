//! How objects are shown: as they are stored, as a table, or as their metadata alone.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fairlead_api::table::{self, IncludeObject};
use fairlead_api::{Kind, Status};
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::list::Listed;
use super::watch::Told;
use crate::cache::Entry;
use crate::http::query::Query;

/// The form a client asked for in `Accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Table(IncludeObject),
    Metadata,
}

impl Form {
    /// The first form of `Accept` that is served. JSON stands for whatever else is asked for: protobuf, CBOR.
    pub(crate) fn of(headers: &HeaderMap, query: &Query) -> Result<Self, Status> {
        let accept = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        for entry in accept.split(',') {
            let mut parts = entry.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            if !matches!(media_type, "application/json" | "*/*" | "application/*" | "") {
                continue;
            }
            let (mut form, mut group, mut version) = ("", "", "");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name {
                    "as" => form = value,
                    "g" => group = value,
                    "v" => version = value,
                    _ => {}
                }
            }
            match (form, group, version) {
                ("", ..) => return Ok(Self::Plain),
                ("Table", "meta.k8s.io", "v1") => {
                    let asked = query.get("includeObject");
                    let include = IncludeObject::parse(asked);
                    return include
                        .map(Self::Table)
                        .ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: {asked:?}")));
                }
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                    return Ok(Self::Metadata);
                }
                _ => {}
            }
        }
        Ok(Self::Plain)
    }
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// One object.
pub(crate) fn object(kind: &'static Kind, form: Form, entry: &Arc<Entry>) -> Bytes {
    match form {
        Form::Plain => entry.bytes.clone(),
        Form::Metadata => to_bytes(&table::partial_metadata(&entry.object)),
        Form::Table(include) => {
            let list_metadata = json!({"resourceVersion": entry.object.resource_version()});
            to_bytes(&table::table(kind, [&*entry.object], list_metadata, include, now(), true))
        }
    }
}

/// A list. The plain form is put together from the stored bytes.
pub(crate) fn list(kind: &'static Kind, form: Form, listed: &Listed) -> Bytes {
    let mut list_metadata = json!({"resourceVersion": listed.revision.to_string()});
    if !listed.continue_token.is_empty() {
        list_metadata["continue"] = listed.continue_token.as_str().into();
    }
    if let Some(remaining) = listed.remaining {
        list_metadata["remainingItemCount"] = remaining.into();
    }
    match form {
        Form::Plain => {
            let size: usize = listed.entries.iter().map(|entry| entry.bytes.len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{list_metadata},\"items\":[",
                kind.kind,
                kind.api_version()
            );
            out.put_slice(head.as_bytes());
            for (at, entry) in listed.entries.iter().enumerate() {
                if at > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&entry.bytes);
            }
            out.put_slice(b"]}");
            out.freeze()
        }
        Form::Metadata => {
            let items: Vec<Value> = listed.entries.iter().map(|entry| table::partial_metadata(&entry.object)).collect();
            to_bytes(&json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": list_metadata, "items": items,
            }))
        }
        Form::Table(include) => {
            let objects = listed.entries.iter().map(|entry| &*entry.object);
            to_bytes(&table::table(kind, objects, list_metadata, include, now(), true))
        }
    }
}

/// One line of a watch.
pub(crate) fn event(kind: &'static Kind, form: Form, told: &Told) -> Bytes {
    let (name, object) = match told {
        Told::Event { event, entry, .. } => (format!("{event:?}").to_uppercase(), object(kind, form, entry)),
        Told::Bookmark { revision, initial } => ("BOOKMARK".to_owned(), bookmark(kind, form, *revision, *initial)),
    };
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(name.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(&object);
    line.put_slice(b"}\n");
    line.freeze()
}

/// The last line of a watch that failed.
pub(crate) fn error_event(status: &Status) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status.to_json()})))
}

fn bookmark(kind: &Kind, form: Form, revision: u64, initial: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let (kind_name, api_version) = match form {
        Form::Plain => (kind.kind, kind.api_version()),
        Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        Form::Table(_) => {
            return to_bytes(&json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": null, "rows": [],
            }));
        }
    };
    to_bytes(&json!({"kind": kind_name, "apiVersion": api_version, "metadata": metadata}))
}

fn to_bytes(tree: &Value) -> Bytes {
    Bytes::from(tree.to_string())
}
