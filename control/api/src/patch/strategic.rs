//! Strategic merge: a merge patch that knows which lists are sets and which are keyed.
//!
//! `kubectl apply`, `edit`, `set`, `label` and `rollout restart` send these. What a list is comes from
//! [`crate::schema`]. Directives of the patch:
//!
//! - `$patch: replace | delete | merge` in an object or in an item of a keyed list;
//! - `$retainKeys: [..]` in an object: every other field goes (the `type` union of volumes and strategies);
//! - `$setElementOrder/FIELD: [..]`: the order that the list has in the end;
//! - `$deleteFromPrimitiveList/FIELD: [..]`: values that leave a set.

mod lists;

use serde_json::{Map, Value};

use crate::schema::merge_keys::ListMerge;
use crate::schema::{Struct, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

/// A patch that cannot be applied. The messages are those that clients know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StrategicError {
    /// `$patch` says something else than replace, delete or merge.
    #[error("Unknown patch type: {0}")]
    UnknownDirective(String),
    /// An item of a keyed list has no key.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item.
        item: String,
        /// The field it lacks.
        key: String,
    },
    /// An item of a keyed list is no object.
    #[error("expected an object with merge key {key} in a list, found: {item}")]
    NotAnObject {
        /// The item.
        item: String,
        /// The field it would need.
        key: String,
    },
    /// `$retainKeys` is no list of texts, or leaves out a field the patch sets.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// `$setElementOrder` is no list, or leaves out an item the patch sets.
    #[error("invalid patch format of setElementOrder list")]
    Order,
    /// `$deleteFromPrimitiveList` is no list.
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
}

/// Applies `changes` to `tree`, an object of type `ty`.
pub fn apply(tree: &mut Value, changes: &Value, ty: &'static Struct) -> Result<(), StrategicError> {
    let (Value::Object(map), Value::Object(changes)) = (tree, changes) else { return Ok(()) };
    merge(map, changes, Shape::Struct(ty))
}

/// What is known of an object's fields.
#[derive(Clone, Copy)]
enum Shape {
    Struct(&'static Struct),
    /// A map whose values are all of one type.
    Values(&'static Type),
    Unknown,
}

impl Shape {
    fn of(ty: Option<&'static Type>) -> Self {
        match ty {
            Some(Type::Struct(id)) => Shape::Struct(id.get()),
            Some(Type::Map(of)) => Shape::Values(of),
            _ => Shape::Unknown,
        }
    }

    fn field(self, name: &str) -> (Option<&'static Type>, ListMerge) {
        match self {
            Shape::Struct(ty) => {
                ty.fields.get(name).map_or((None, ListMerge::Default), |field| (Some(&field.ty), field.merge))
            }
            Shape::Values(ty) => (Some(ty), ListMerge::Default),
            Shape::Unknown => (None, ListMerge::Default),
        }
    }
}

fn merge(map: &mut Map<String, Value>, changes: &Map<String, Value>, shape: Shape) -> Result<(), StrategicError> {
    match changes.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *map = changes.iter().filter(|(field, _)| *field != PATCH).map(own).collect();
            return Ok(());
        }
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        Some(_) => return Err(StrategicError::UnknownDirective(changes[PATCH].to_string())),
    }
    if let Some(keys) = changes.get(RETAIN_KEYS) {
        retain_keys(map, changes, keys)?;
    }
    for (directive, order) in changes {
        if let Some(field) = directive.strip_prefix(SET_ORDER) {
            ordered_list(map, changes, field, order, shape)?;
        }
    }
    for (field, change) in changes {
        if field == PATCH || field == RETAIN_KEYS || field.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(list) = field.strip_prefix(DELETE_VALUES) {
            let gone = change.as_array().ok_or(StrategicError::PrimitiveList)?;
            if let Some(Value::Array(values)) = map.get_mut(list) {
                values.retain(|value| !gone.contains(value));
            }
        } else if !changes.contains_key(&format!("{SET_ORDER}{field}")) || !change.is_array() {
            merge_field(map, field, change, shape)?;
        }
    }
    Ok(())
}

/// One field of a patch: removed, merged or replaced.
fn merge_field(map: &mut Map<String, Value>, field: &str, change: &Value, shape: Shape) -> Result<(), StrategicError> {
    if change.is_null() {
        map.remove(field);
        return Ok(());
    }
    let (ty, list_merge) = shape.field(field);
    match (map.get_mut(field), change) {
        (Some(Value::Object(have)), Value::Object(changes)) => merge(have, changes, Shape::of(ty))?,
        (Some(Value::Array(have)), Value::Array(changes)) => {
            let items = std::mem::take(have);
            *have = lists::merge(items, changes, item_type(ty), list_merge)?;
        }
        // A null in a patch that meets nothing has nothing to remove, and directives are no content.
        _ => {
            map.insert(field.to_owned(), without_directives(change));
        }
    }
    Ok(())
}

/// A list whose order the patch gives, with or without changes to it.
fn ordered_list(
    map: &mut Map<String, Value>,
    changes: &Map<String, Value>,
    field: &str,
    order: &Value,
    shape: Shape,
) -> Result<(), StrategicError> {
    let order = order.as_array().ok_or(StrategicError::Order)?;
    let (ty, list_merge) = shape.field(field);
    let patch = match changes.get(field) {
        None => None,
        Some(Value::Array(list)) => Some(list),
        // Removed, or replaced by something that is no list: nothing to order.
        Some(_) => return Ok(()),
    };
    let have = match map.remove(field) {
        Some(Value::Array(list)) => Some(list),
        Some(other) => {
            map.insert(field.to_owned(), other);
            return Ok(());
        }
        None => None,
    };
    let merged = match (have.clone(), patch) {
        (None, None) => return Ok(()),
        (Some(have), None) => have,
        (have, Some(patch)) => lists::merge(have.unwrap_or_default(), patch, item_type(ty), list_merge)?,
    };
    let original = have.unwrap_or_default();
    let key = if let ListMerge::ByKey(key) = list_merge { Some(key) } else { None };
    map.insert(field.to_owned(), Value::Array(lists::reorder(merged, order, &original, key)));
    Ok(())
}

fn retain_keys(map: &mut Map<String, Value>, changes: &Map<String, Value>, keys: &Value) -> Result<(), StrategicError> {
    let keys = keys.as_array().ok_or(StrategicError::RetainKeys)?;
    let kept = |field: &str| keys.iter().any(|key| key.as_str() == Some(field));
    let set = changes.iter().filter(|(field, change)| !field.starts_with('$') && !change.is_null());
    if !keys.iter().all(Value::is_string) || set.into_iter().any(|(field, _)| !kept(field)) {
        return Err(StrategicError::RetainKeys);
    }
    map.retain(|field, _| kept(field));
    Ok(())
}

fn item_type(ty: Option<&'static Type>) -> Option<&'static Type> {
    match ty {
        Some(Type::List(of)) => Some(of),
        _ => None,
    }
}

/// The content of a patch where there is nothing to merge with: no directives, no nulls, no deleted items.
fn without_directives(change: &Value) -> Value {
    match change {
        Value::Object(map) => Value::Object(
            map.iter().filter(|(field, value)| !is_directive(field) && !value.is_null()).map(own).collect(),
        ),
        Value::Array(list) => Value::Array(
            list.iter()
                .filter(|item| !matches!(item.get(PATCH).and_then(Value::as_str), Some("delete")))
                .filter(|item| !is_bare_replace(item))
                .map(without_directives)
                .collect(),
        ),
        plain => plain.clone(),
    }
}

fn is_bare_replace(item: &Value) -> bool {
    item.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(PATCH))
}

fn is_directive(field: &str) -> bool {
    field == PATCH || field == RETAIN_KEYS || field.starts_with(SET_ORDER) || field.starts_with(DELETE_VALUES)
}

fn own((field, value): (&String, &Value)) -> (String, Value) {
    (field.clone(), without_directives(value))
}
