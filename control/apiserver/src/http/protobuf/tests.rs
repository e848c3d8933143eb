//! Objects written by hand in the wire format.

use serde_json::json;

use super::*;

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn body(api_version: &str, kind: &str, object: Vec<u8>) -> Vec<u8> {
    let type_meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, type_meta), bytes(2, object), bytes(3, ""), bytes(4, "")].concat()
}

#[test]
fn every_message_that_is_named_is_there() {
    let special = ["Quantity", "IntOrString", "Time", "MicroTime", "RawExtension", "FieldsV1"];
    fn name(shape: &Shape) -> Option<&'static str> {
        match shape {
            Shape::Message(name) => Some(name),
            Shape::Map(shape) => name(shape),
            _ => None,
        }
    }
    for (message, fields) in &*MESSAGES {
        for field in fields.0.values() {
            if let Some(name) = name(&field.shape) {
                assert!(special.contains(&name) || MESSAGES.contains_key(name), "{message} names {name}");
            }
        }
    }
    for kind in fairlead_api::registry::all() {
        assert!(MESSAGES.contains_key(kind.kind), "{kind:?}");
    }
}

#[test]
fn zero_values_count_only_where_they_are_pointers() {
    // Deployment: metadata 1 {name 1}, spec 2 {replicas 1 (pointer), minReadySeconds 5}, status 3 {}.
    let spec = [number(1, 0), number(5, 0)].concat();
    let object = [
        bytes(1, [bytes(1, "web"), bytes(8, ""), bytes(11, entry_of("a", "b"))].concat()),
        bytes(2, spec),
        bytes(3, ""),
    ];
    let tree = tree(&body("apps/v1", "Deployment", object.concat())).unwrap();
    assert_eq!(
        tree,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"replicas": 0},
        })
    );
}

fn entry_of(key: &str, value: &str) -> Vec<u8> {
    [bytes(1, key), bytes(2, value)].concat()
}

#[test]
fn bytes_times_and_unions() {
    let secret = [bytes(2, entry_of("k", "v")), bytes(3, "Opaque")].concat();
    assert_eq!(tree(&body("v1", "Secret", secret)).unwrap()["data"]["k"], "dg==");
    // Service: spec 2 {ports 1 {port 3, targetPort 4 {type 1, strVal 3}}}.
    let port = [number(3, 80), bytes(4, [number(1, 1), number(2, 0), bytes(3, "http")].concat())].concat();
    let service = bytes(2, bytes(1, port));
    let spec = &tree(&body("v1", "Service", service)).unwrap()["spec"];
    assert_eq!(spec["ports"], json!([{"port": 80, "targetPort": "http"}]));
    let lease = bytes(2, bytes(4, [number(1, 1), number(2, 500_000_000)].concat()));
    let spec = &tree(&body("coordination.k8s.io/v1", "Lease", lease)).unwrap()["spec"];
    assert_eq!(spec["renewTime"], "1970-01-01T00:00:01.500000Z");
    // Pod: spec 2 {volumes 1 {name 1, volumeSource 2 (inline) {emptyDir 2}}}.
    let volume = [bytes(1, "tmp"), bytes(2, bytes(2, ""))].concat();
    let pod = &tree(&body("v1", "Pod", bytes(2, bytes(1, volume)))).unwrap()["spec"];
    assert_eq!(pod["volumes"], json!([{"name": "tmp", "emptyDir": {}}]));
}

#[test]
fn damaged_bodies_are_refused() {
    let good = body("v1", "ConfigMap", bytes(1, bytes(1, "x")));
    for end in 4..good.len() {
        // Cut short, it is an error or less of an object; it never panics.
        let _ = tree(&good[..end]);
    }
    assert!(tree(b"{}").is_err());
    assert!(tree(&body("v1", "Nonsense", Vec::new())).unwrap_err().contains("Nonsense"));
    let wrong = body("apps/v1", "Deployment", bytes(2, bytes(1, "x")));
    assert!(tree(&wrong).is_err());
}
