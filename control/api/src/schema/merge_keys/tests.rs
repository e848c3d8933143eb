//! The table against the merge strategies of k8s-openapi, which knows them as code: what it merges by key we merge by
//! key, what it unites we unite, and the rest is replaced.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::apps::v1::{DeploymentStatus, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EphemeralContainer, NamespaceStatus, NodeSpec, NodeStatus, PodSpec, PodStatus,
    ServiceAccount, ServiceSpec, ServiceStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::schema::{self, Type};

/// One list field as `DeepMerge` treats it: how many items two lists that share a key (or a value) make.
fn merged<T: DeepMerge + DeserializeOwned + Serialize>(field: &str, a: &Value, b: &Value) -> usize {
    let typed = |list: &Value| serde_json::from_value::<T>(json!({ field: list })).expect(field);
    let mut merged = typed(a);
    merged.merge_from(typed(b));
    serde_json::to_value(&merged).expect("serializes")[field].as_array().map_or(0, Vec::len)
}

fn check<T: DeepMerge + DeserializeOwned + Serialize>(ty: &str) {
    for row in ROWS.iter().filter(|row| row.ty == ty) {
        match (lookup(ty, row.field), row.merge_key) {
            (ListMerge::ByKey(key), merge_key) => {
                assert_eq!(key, merge_key);
                let value = |n: u16| if key.ends_with("ort") { json!(n) } else { json!(n.to_string()) };
                // Conditions cannot be read without their time.
                let time = "2026-01-01T00:00:00Z";
                let item = |n: u16| json!({ key: value(n), "lastTransitionTime": time });
                let (a, b) = (json!([item(1), item(2)]), json!([item(2), item(3)]));
                assert_eq!(merged::<T>(row.field, &a, &b), 3, "{ty}.{}", row.field);
            }
            (ListMerge::Set, _) => {
                assert_eq!(merged::<T>(row.field, &json!(["a", "b"]), &json!(["b", "c"])), 3, "{ty}.{}", row.field);
            }
            (ListMerge::Default, _) => {}
        }
    }
}

#[test]
fn rows_agree_with_deep_merge() {
    check::<Container>("Container");
    check::<ContainerStatus>("ContainerStatus");
    check::<DeploymentStatus>("DeploymentStatus");
    check::<EphemeralContainer>("EphemeralContainer");
    check::<NamespaceStatus>("NamespaceStatus");
    check::<NodeSpec>("NodeSpec");
    check::<NodeStatus>("NodeStatus");
    check::<ObjectMeta>("ObjectMeta");
    check::<PodSpec>("PodSpec");
    check::<PodStatus>("PodStatus");
    check::<ReplicaSetStatus>("ReplicaSetStatus");
    check::<ServiceAccount>("ServiceAccount");
    check::<ServiceSpec>("ServiceSpec");
    check::<ServiceStatus>("ServiceStatus");
}

#[test]
fn rows_name_fields_that_exist() {
    let types = || schema::COMPONENTS.keys().filter_map(|name| schema::lookup(name));
    for row in ROWS {
        let ty = types().find(|ty| ty.short_name() == row.ty).unwrap_or_else(|| panic!("no type {}", row.ty));
        let field = ty.fields.get(row.field).unwrap_or_else(|| panic!("no field {}.{}", row.ty, row.field));
        let keys: &[&str] = match row.list {
            List::Map(keys) => keys,
            _ if row.merge_key.is_empty() => &[],
            _ => std::slice::from_ref(&row.merge_key),
        };
        if let Type::List(of) = &field.ty
            && let Type::Struct(item) = &**of
        {
            for key in keys {
                assert!(item.get().fields.contains_key(*key), "{}.{}: no key {key}", row.ty, row.field);
            }
        } else {
            assert!(keys.is_empty(), "{}.{} is no list of objects", row.ty, row.field);
        }
    }
}
