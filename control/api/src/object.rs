//! An API object: a JSON tree with the accessors every hop needs.
//!
//! The tree is the truth, a typed view is made where a loop wants one. Fields no schema knows are dropped where clients'
//! input is read (`decode`), not here. Objects are shared as `Arc<Object>` and never changed in place once shared.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A JSON object with `apiVersion`, `kind` and `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// The tree of a typed object. Fails only if the type does not serialize to a JSON object, which is a bug.
    pub fn from_typed<T: Serialize>(typed: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(typed).and_then(serde_json::from_value)
    }

    /// A typed view, for example `object.typed::<Pod>()`. Unknown fields are left out of it.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }

    /// `apiVersion`, or the empty string.
    pub fn api_version(&self) -> &str {
        self.0.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// `kind`, or the empty string.
    pub fn kind(&self) -> &str {
        self.0.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// The value at a path of field names, if every step is there: `object.at(&["spec", "nodeName"])`.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, field| value.get(field))
    }

    /// The string at a path, or the empty string.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The mutable `metadata` tree, made if absent.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        object_entry(&mut self.0, "metadata")
    }

    /// The mutable tree under a top-level field (`spec`, `status`), made if absent.
    pub fn section_mut(&mut self, field: &str) -> &mut Map<String, Value> {
        object_entry(&mut self.0, field)
    }

    /// Typed metadata; fields of a wrong type fail.
    pub fn metadata(&self) -> Result<ObjectMeta, serde_json::Error> {
        self.0.get("metadata").map_or_else(|| Ok(ObjectMeta::default()), ObjectMeta::deserialize)
    }

    /// `metadata.name`, or the empty string.
    pub fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }

    /// `metadata.namespace`, or the empty string.
    pub fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }

    /// `metadata.uid`, or the empty string.
    pub fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }

    /// `metadata.resourceVersion`, or the empty string.
    pub fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"])
    }

    /// `metadata.generation`, or 0.
    pub fn generation(&self) -> i64 {
        self.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
    }

    /// `metadata.labels`, if there are any.
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.at(&["metadata", "labels"]).and_then(Value::as_object)
    }

    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }

    /// One annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "annotations"])?.get(key)?.as_str()
    }

    /// True once deletion has been asked for.
    pub fn is_terminating(&self) -> bool {
        self.at(&["metadata", "deletionTimestamp"]).is_some_and(Value::is_string)
    }

    /// Owner references, malformed ones left out.
    pub fn owner_references(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let list = self.at(&["metadata", "ownerReferences"]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_object)
    }

    /// The UID of the owner whose reference says `controller: true`.
    pub fn controller_uid(&self) -> Option<&str> {
        self.owner_references()
            .find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
            .and_then(|owner| owner.get("uid")?.as_str())
    }
}

fn object_entry<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    let entry = map.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    match entry {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}
