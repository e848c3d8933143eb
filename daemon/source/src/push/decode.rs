//! From the wire's messages to updates: every object is read by itself and refused by itself.

use fairlead_proto::push::v1;
use serde::de::DeserializeOwned;

use crate::update::{Item, ObjectName, Rejected, Update};

/// Reads a message. What cannot be read is in `rejected`, the rest stands (`LAST-GOOD`).
pub fn update(message: v1::Update, first: bool) -> Update {
    let mut update = Update {
        revision: message.revision,
        snapshot: message.snapshot,
        first,
        complete: message.complete,
        put: Vec::with_capacity(message.put.len()),
        removed: message.removed.iter().filter_map(name).collect(),
        rejected: Vec::new(),
        committed_at: message.committed_at,
    };
    for object in message.put {
        let Some(name) = object.object.as_ref().and_then(name) else {
            // A later control plane may tell of kinds this daemon does not know: not ours, not an error.
            tracing::debug!(rev = update.revision, "an object of an unknown kind is left out");
            continue;
        };
        match item(&name, &object.json) {
            Ok(item) => update.put.push(item),
            Err(reason) => update.rejected.push(Rejected { object: name, reason }),
        }
    }
    update
}

/// What is refused, for an acknowledgement; `None` for what did not come from the control plane.
pub(super) fn rejected(rejected: Rejected) -> Option<v1::Rejected> {
    let (kind, namespace, name) = match rejected.object {
        ObjectName::Service(namespace, name) => (v1::Kind::Service, namespace, name),
        ObjectName::EndpointSlice(namespace, name) => (v1::Kind::EndpointSlice, namespace, name),
        ObjectName::Node(name) => (v1::Kind::Node, String::new(), name),
        ObjectName::Pod(namespace, name) => (v1::Kind::Pod, namespace, name),
        ObjectName::ConfigMap(namespace, name) => (v1::Kind::ConfigMap, namespace, name),
        ObjectName::Secret(namespace, name) => (v1::Kind::Secret, namespace, name),
        ObjectName::File(_) => return None,
    };
    let object = v1::ObjectRef { kind: kind.into(), namespace, name };
    Some(v1::Rejected { object: Some(object), reason: rejected.reason })
}

fn name(object: &v1::ObjectRef) -> Option<ObjectName> {
    let (namespace, name) = (object.namespace.clone(), object.name.clone());
    match object.kind() {
        v1::Kind::Unspecified => None,
        v1::Kind::Service => Some(ObjectName::Service(namespace, name)),
        v1::Kind::EndpointSlice => Some(ObjectName::EndpointSlice(namespace, name)),
        v1::Kind::Node => Some(ObjectName::Node(name)),
        v1::Kind::Pod => Some(ObjectName::Pod(namespace, name)),
        v1::Kind::ConfigMap => Some(ObjectName::ConfigMap(namespace, name)),
        v1::Kind::Secret => Some(ObjectName::Secret(namespace, name)),
    }
}

fn item(name: &ObjectName, json: &[u8]) -> Result<Item, String> {
    let item = match name {
        ObjectName::Service(..) => Item::Service(read(json)?),
        ObjectName::EndpointSlice(..) => Item::EndpointSlice(read(json)?),
        ObjectName::Node(..) => Item::Node(read(json)?),
        ObjectName::Pod(..) => Item::Pod(read(json)?),
        ObjectName::ConfigMap(..) => Item::ConfigMap(read(json)?),
        ObjectName::Secret(..) => Item::Secret(read(json)?),
        ObjectName::File(..) => return Err("a file is no object".to_owned()),
    };
    let inside = item.name();
    if inside == *name { Ok(item) } else { Err(format!("the object calls itself {inside}")) }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<Box<T>, String> {
    serde_json::from_slice(json).map_err(|error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: i32, name: &str, json: &str) -> v1::Object {
        let object = v1::ObjectRef { kind, namespace: "default".into(), name: name.into() };
        v1::Object { object: Some(object), json: json.to_owned().into() }
    }

    #[test]
    fn last_good_what_cannot_be_read_is_rejected_alone() {
        let service = |name: &str| {
            format!(r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"default","name":"{name}"}}}}"#)
        };
        let kind = v1::Kind::Service.into();
        let message = v1::Update {
            revision: 7,
            complete: true,
            put: vec![
                object(kind, "good", &service("good")),
                object(kind, "cut", r#"{"apiVersion":"v1","kind":"Serv"#),
                object(kind, "other", &service("stranger")),
                object(kind, "pod", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod"}}"#),
                object(99, "future", "{}"),
            ],
            ..v1::Update::default()
        };
        let update = update(message, false);
        assert_eq!(
            update.put.iter().map(Item::name).collect::<Vec<_>>(),
            [ObjectName::Service("default".into(), "good".into())]
        );
        let refused: Vec<v1::Rejected> = update.rejected.into_iter().filter_map(rejected).collect();
        let names: Vec<&str> = refused.iter().flat_map(|one| &one.object).map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["cut", "other", "pod"]);
        assert!(refused[1].reason.contains("stranger"), "{}", refused[1].reason);
    }
}
