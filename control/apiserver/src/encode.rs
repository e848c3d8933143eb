//! Keys and bytes of stored objects.

use bytes::Bytes;
use fairlead_api::{Kind, Object};
use fairlead_store::Value as StoreValue;
use serde_json::Value;

/// Where objects of a kind are, those of one namespace if it is named: `/apps/deployments/default/`.
pub(crate) fn key_prefix(kind: &Kind, namespace: &str) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    if namespace.is_empty() || !kind.is_namespaced() {
        format!("/{group}/{}/", kind.plural)
    } else {
        format!("/{group}/{}/{namespace}/", kind.plural)
    }
}

/// Where an object is: `/core/pods/default/web-0`.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    key_prefix(kind, namespace) + name
}

/// JSON of an object.
pub(crate) fn bytes(object: &Object) -> Bytes {
    Bytes::from(serde_json::to_vec(object).expect("a JSON tree always serializes"))
}

/// JSON of an object with the place where the store writes its revision.
pub(crate) fn stamped(object: &Object) -> StoreValue {
    let mut out = Vec::with_capacity(1024);
    let mut stamp = None;
    out.push(b'{');
    for (field, value) in &object.0 {
        begin(&mut out, field);
        match value {
            Value::Object(metadata) if field == "metadata" => {
                out.push(b'{');
                let mut placed = false;
                for (field, value) in metadata {
                    // Fields are sorted: the version stands where it belongs, also when the tree has none.
                    if !placed && field.as_str() >= "resourceVersion" {
                        stamp = Some(version(&mut out));
                        placed = true;
                    }
                    if field != "resourceVersion" {
                        begin(&mut out, field);
                        write(&mut out, value);
                    }
                }
                if !placed {
                    stamp = Some(version(&mut out));
                }
                out.push(b'}');
            }
            value => write(&mut out, value),
        }
    }
    out.push(b'}');
    StoreValue { bytes: Bytes::from(out), stamp }
}

fn version(out: &mut Vec<u8>) -> usize {
    begin(out, "resourceVersion");
    out.extend_from_slice(b"\"\"");
    out.len() - 1
}

fn begin(out: &mut Vec<u8>, field: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write(out, &Value::String(field.to_owned()));
    out.push(b':');
}

fn write(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON tree always serializes into memory");
}

#[cfg(test)]
mod tests {
    use fairlead_store::Revision;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_lands_in_metadata() {
        let cases = [
            json!({"kind": "X", "metadata": {"name": "a", "uid": "u", "labels": {}}, "spec": {"x": {}}}),
            json!({"metadata": {}}),
            json!({"metadata": {"resourceVersion": "5", "uid": "u"}, "z": {"metadata": {}}}),
            json!({"metadata": {"annotations": {"resourceVersion": "\"{"}}}),
        ];
        for case in cases {
            let object: Object = serde_json::from_value(case.clone()).unwrap();
            let stored = stamped(&object).stamped(Revision(77));
            let back: Object = serde_json::from_slice(&stored).unwrap();
            let mut expected = object;
            expected.metadata_mut().insert("resourceVersion".into(), "77".into());
            assert_eq!(back, expected, "{case}");
        }
    }
}
