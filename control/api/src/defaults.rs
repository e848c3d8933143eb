//! Small steps that defaulting is made of. A field counts as unset when it is absent, null or an empty text, as in Go.

use serde_json::{Map, Value};

/// True if the field is unset.
pub fn is_unset(map: &Map<String, Value>, field: &str) -> bool {
    match map.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// Sets the field if it is unset.
pub fn set(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if is_unset(map, field) {
        map.insert(field.to_owned(), value.into());
    }
}

/// The object under a field, made if it is unset.
pub fn section<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    set(map, field, Map::new());
    let value = map.entry(field).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object just above")
}

/// The object under a field, if there is one.
pub fn object<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field)?.as_object_mut()
}

/// The objects of the list under a field.
pub fn items<'a>(map: &'a mut Map<String, Value>, field: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}
