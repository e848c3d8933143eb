//! Lists in a strategic merge: replaced, merged as sets, or merged by key; and the order they end in.

use serde_json::Value;

use super::{PATCH, Shape, StrategicError, without_directives};
use crate::schema::Type;
use crate::schema::merge_keys::ListMerge;

/// The list after the patch.
pub(super) fn merge(
    have: Vec<Value>,
    patch: &[Value],
    ty: Option<&'static Type>,
    merge: ListMerge,
) -> Result<Vec<Value>, StrategicError> {
    match merge {
        ListMerge::Default => Ok(match without_directives(&Value::Array(patch.to_vec())) {
            Value::Array(list) => list,
            _ => Vec::new(),
        }),
        ListMerge::Set => {
            let mut merged: Vec<Value> = Vec::new();
            for value in have.into_iter().chain(patch.iter().cloned()) {
                if !merged.contains(&value) {
                    merged.push(value);
                }
            }
            Ok(merged)
        }
        ListMerge::ByKey(key) => by_key(have, patch, ty, key),
    }
}

fn by_key(
    mut have: Vec<Value>,
    patch: &[Value],
    ty: Option<&'static Type>,
    key: &'static str,
) -> Result<Vec<Value>, StrategicError> {
    // `$patch: replace` anywhere in the list makes its other items the whole list.
    if patch.iter().any(|item| directive(item) == Some("replace")) {
        let rest = patch.iter().filter(|item| directive(item) != Some("replace"));
        return Ok(rest.map(without_directives).collect());
    }
    for item in patch {
        let Value::Object(changes) = item else {
            return Err(StrategicError::NotAnObject { item: item.to_string(), key: key.to_owned() });
        };
        let Some(wanted) = changes.get(key).filter(|value| !value.is_null()) else {
            return Err(StrategicError::NoMergeKey { item: item.to_string(), key: key.to_owned() });
        };
        match directive(item) {
            Some("delete") => {
                have.retain(|one| one.get(key) != Some(wanted));
                continue;
            }
            None | Some("merge") => {}
            Some(_) => return Err(StrategicError::UnknownDirective(changes[PATCH].to_string())),
        }
        match have.iter_mut().find(|one| one.get(key) == Some(wanted)) {
            Some(Value::Object(found)) => super::merge(found, changes, Shape::of(ty))?,
            _ => have.push(without_directives(item)),
        }
    }
    Ok(have)
}

fn directive(item: &Value) -> Option<&str> {
    item.get(PATCH).map(|directive| directive.as_str().unwrap_or_default())
}

/// `list` in the patch's order. Items that only the server has keep their place relative to their neighbours in
/// `original`, as far as the patch's order allows.
pub(super) fn reorder(list: Vec<Value>, order: &[Value], original: &[Value], key: Option<&str>) -> Vec<Value> {
    let same = |a: &Value, b: &Value| match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    };
    let rank = |item: &Value| order.iter().position(|one| same(one, item));
    let place = |item: &Value| original.iter().position(|one| same(one, item));
    let (mut ordered, mut others): (Vec<Value>, Vec<Value>) = list.into_iter().partition(|item| rank(item).is_some());
    ordered.sort_by_key(|item| rank(item));
    others.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let (mut ordered, mut others) = (ordered.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(left), Some(right)) = (ordered.peek(), others.peek()) {
        let left_first = matches!((place(left), place(right)), (Some(left), Some(right)) if left < right);
        result.extend(if left_first { ordered.next() } else { others.next() });
    }
    result.extend(ordered);
    result.extend(others);
    result
}
