//! Properties over every field of every kind: objects made from the schema itself.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::client::Patch;
use crate::kind::Kind;
use crate::object::Object;
use crate::registry::*;
use crate::{decode, patch, table};

#[test]
fn every_kind_has_a_schema() {
    for kind in registry::all() {
        let found = lookup(kind.schema).unwrap_or_else(|| panic!("no schema {}", kind.schema));
        assert!(found.fields.contains_key("metadata"), "{}", kind.schema);
        assert_eq!(found.short_name(), kind.kind);
    }
}

#[test]
fn types_are_what_the_api_says() {
    let of = |name: &str, field: &str| lookup(name).unwrap().fields[field].ty.clone();
    assert_eq!(of("io.k8s.api.core.v1.ServicePort", "targetPort"), Type::IntOrString);
    assert_eq!(of("io.k8s.api.core.v1.ServicePort", "port"), Type::Int32);
    assert_eq!(of("io.k8s.api.core.v1.Secret", "data"), Type::Map(Box::new(Type::Bytes)));
    assert_eq!(of("io.k8s.api.coordination.v1.LeaseSpec", "renewTime"), Type::MicroTime);
    assert_eq!(of("io.k8s.api.core.v1.ResourceRequirements", "limits"), Type::Map(Box::new(Type::Quantity)));
    assert!(matches!(of("io.k8s.api.core.v1.PodSpec", "containers"), Type::List(of) if matches!(*of, Type::Struct(_))));
    assert_eq!(of("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry", "fieldsV1"), Type::Any);
}

/// Fields that tell the items of a list apart.
const KEYS: [&str; 9] =
    ["containerPort", "devicePath", "ip", "mountPath", "name", "port", "topologyKey", "type", "uid"];

/// A value of the type with every field set. `item` stands in fields that tell items apart, `variant` in all others.
/// The lists of one variant share one item with those of the next, under the same key and with other content.
fn sample(ty: &Type, item: u8, variant: u8) -> Value {
    match ty {
        Type::String => format!("text-{item}").into(),
        Type::Bytes => "AAAA".into(),
        Type::Bool => item.is_multiple_of(2).into(),
        Type::Int32 | Type::Int64 => item.into(),
        Type::Number => json!(1.5),
        Type::Time => format!("2026-01-02T03:04:{:02}Z", item % 60).into(),
        Type::MicroTime => format!("2026-01-02T03:04:{:02}.000001Z", item % 60).into(),
        Type::Quantity => format!("{item}Mi").into(),
        Type::IntOrString => format!("{item}%").into(),
        Type::Any => json!({"any": item}),
        Type::List(of) => [20 + variant, 21 + variant].map(|item| sample(of, item, variant)).to_vec().into(),
        Type::Map(of) => {
            json!({"both": sample(of, item, variant), format!("only-{variant}"): sample(of, item, variant)})
        }
        Type::Struct(id) => Value::Object(fields(id.get(), item, variant)),
    }
}

fn fields(ty: &Struct, item: u8, variant: u8) -> Map<String, Value> {
    let fields = ty.fields.iter().map(|(field, known)| {
        let own = if KEYS.contains(&field.as_str()) { item } else { 1 + variant };
        (field.clone(), sample(&known.ty, own, variant))
    });
    fields.collect()
}

fn whole(kind: &Kind, variant: u8) -> Object {
    let mut map = fields(lookup(kind.schema).expect("schema"), 3, variant);
    map.insert("apiVersion".to_owned(), kind.api_version().into());
    map.insert("kind".to_owned(), kind.kind.into());
    Object(map)
}

#[test]
fn every_field_decodes_and_is_normal() {
    for kind in registry::all() {
        let object = whole(kind, 0);
        let decoded = decode::decode_value(kind, Value::Object(object.0.clone())).expect("decodes");
        assert_eq!((decoded.object, decoded.problems), (object, Vec::new()), "{kind:?}");
    }
}

#[test]
fn every_field_survives_defaults_validation_and_columns() {
    for kind in registry::all() {
        let mut object = whole(kind, 0);
        (kind.default)(&mut object);
        kind.validate_all(&object, Some(&whole(kind, 1)));
        table::table(kind, [&object], json!({}), table::IncludeObject::Object, 0, true);
    }
}

#[test]
fn a_patch_with_the_object_itself_changes_nothing() {
    for kind in registry::all() {
        let object = whole(kind, 0);
        let tree = Value::Object(object.0.clone());
        for patch in [Patch::Merge(tree.clone()), Patch::Strategic(tree.clone())] {
            assert_eq!(patch::apply(kind, &object, &patch), Ok(tree.clone()), "{kind:?}");
        }
    }
}

/// Fields that `DeepMerge` treats as server-side apply does, and a strategic merge does not.
const APPLY_ONLY: [&str; 5] = ["claims", "nodeSelector", "resources", "selector", "values"];

fn without_apply_only(tree: &mut Value) {
    match tree {
        Value::Object(map) => {
            map.retain(|field, _| !APPLY_ONLY.contains(&field.as_str()));
            map.values_mut().for_each(without_apply_only);
        }
        Value::Array(list) => list.iter_mut().for_each(without_apply_only),
        _ => {}
    }
}

fn merges_like<T: DeepMerge + DeserializeOwned + Serialize>(kind: &Kind) {
    let (old, new) = (whole(kind, 0), whole(kind, 1));
    let mut theirs: T = old.typed().unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    theirs.merge_from(new.typed().expect("typed"));
    let mut theirs = serde_json::to_value(&theirs).expect("serializes");
    let patch = Patch::Strategic(Value::Object(new.0));
    let mut ours = patch::apply(kind, &old, &patch).expect("patches");
    without_apply_only(&mut theirs);
    without_apply_only(&mut ours);
    assert_eq!(ours, theirs, "{kind:?}");
}

#[test]
fn a_strategic_merge_agrees_with_deep_merge_on_every_field() {
    merges_like::<ConfigMap>(&CONFIG_MAP);
    merges_like::<Deployment>(&DEPLOYMENT);
    merges_like::<Endpoints>(&ENDPOINTS);
    merges_like::<EndpointSlice>(&ENDPOINT_SLICE);
    merges_like::<Event>(&EVENT);
    merges_like::<Lease>(&LEASE);
    merges_like::<Namespace>(&NAMESPACE);
    merges_like::<Node>(&NODE);
    merges_like::<Pod>(&POD);
    merges_like::<ReplicaSet>(&REPLICA_SET);
    merges_like::<Secret>(&SECRET);
    merges_like::<Service>(&SERVICE);
    merges_like::<ServiceAccount>(&SERVICE_ACCOUNT);
}
