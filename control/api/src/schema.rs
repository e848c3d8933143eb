//! The types of all kinds, from one source: the schemas that k8s-openapi carries, with our merge table laid over them.
//!
//! At first use the schemas are generated, annotated ([`merge_keys`]) and compiled into [`Struct`]s, a form that is
//! quick to walk. Decoding, strategic merge and the served OpenAPI documents all read this one result, so they cannot
//! disagree. A hand-written table of types would be as long as the API and would age; generating costs a few
//! milliseconds once.

pub mod merge_keys;
pub mod openapi;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, ListMeta, Patch, Status,
};
use k8s_openapi::apimachinery::pkg::version::Info;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::registry;
use merge_keys::ListMerge;

/// What a field may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// True or false.
    Bool,
    /// Whole number of 32 bits.
    Int32,
    /// Whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// Quantity, text or number.
    Quantity,
    /// Text or number.
    IntOrString,
    /// Any tree; kept as it is.
    Any,
    /// List of a type.
    List(Box<Type>),
    /// Map from text to a type.
    Map(Box<Type>),
    /// One of ours.
    Struct(StructId),
}

/// Index of a [`Struct`]; types refer to each other by it because some are recursive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StructId(usize);

impl StructId {
    /// The type behind the index.
    pub fn get(self) -> &'static Struct {
        &TYPES.structs[self.0]
    }
}

/// An object type.
#[derive(Debug)]
pub struct Struct {
    /// Key in the OpenAPI components: `io.k8s.api.core.v1.PodSpec`.
    pub name: String,
    /// Its fields.
    pub fields: BTreeMap<String, Field>,
}

impl Struct {
    /// The name without its package, as Go's errors show it: `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// A field of a [`Struct`].
#[derive(Debug)]
pub struct Field {
    /// What it may hold.
    pub ty: Type,
    /// How a strategic merge treats it.
    pub merge: ListMerge,
}

struct Types {
    structs: Vec<Struct>,
    by_name: HashMap<String, StructId>,
}

/// Components by name, annotated for clients: the `components.schemas` of the OpenAPI documents.
pub(crate) static COMPONENTS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let mut generator = SchemaSettings::openapi3().with(|settings| settings.transforms.clear()).into_generator();
    for kind in registry::all() {
        (kind.types)(&mut generator);
    }
    generator.subschema_for::<APIGroup>();
    generator.subschema_for::<APIGroupList>();
    generator.subschema_for::<APIResourceList>();
    generator.subschema_for::<APIVersions>();
    generator.subschema_for::<Binding>();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<Info>();
    generator.subschema_for::<ListMeta>();
    generator.subschema_for::<Patch>();
    generator.subschema_for::<Scale>();
    generator.subschema_for::<Status>();
    let mut components = generator.take_definitions(false);
    openapi::annotate(&mut components);
    components
});

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let names: Vec<&String> = COMPONENTS.keys().collect();
    let by_name: HashMap<String, StructId> =
        names.iter().enumerate().map(|(index, name)| ((*name).clone(), StructId(index))).collect();
    let structs = COMPONENTS.iter().map(|(name, schema)| compile(name, schema, &by_name)).collect();
    Types { structs, by_name }
});

/// The type of that name, if it is an object type.
pub fn lookup(name: &str) -> Option<&'static Struct> {
    TYPES.by_name.get(name).map(|id| id.get())
}

fn compile(name: &str, schema: &Value, ids: &HashMap<String, StructId>) -> Struct {
    let properties = schema.get("properties").and_then(Value::as_object);
    let fields = properties.into_iter().flatten().map(|(field, schema)| {
        let merge = merge_keys::lookup(name, field);
        (field.clone(), Field { ty: field_type(schema, ids), merge })
    });
    Struct { name: name.to_owned(), fields: fields.collect() }
}

fn field_type(schema: &Value, ids: &HashMap<String, StructId>) -> Type {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    let reference = schema.get("allOf").and_then(|all| all.get(0)?.get("$ref")).or_else(|| schema.get("$ref"));
    if let Some(reference) = reference.and_then(Value::as_str) {
        return referred_type(reference.trim_start_matches("#/components/schemas/"), ids);
    }
    match (text("type"), text("format")) {
        ("string", "byte") => Type::Bytes,
        ("string", _) => Type::String,
        ("boolean", _) => Type::Bool,
        ("integer", "int32") => Type::Int32,
        ("integer", _) => Type::Int64,
        ("number", _) => Type::Number,
        ("array", _) => Type::List(Box::new(schema.get("items").map_or(Type::Any, |items| field_type(items, ids)))),
        ("object", _) => match schema.get("additionalProperties") {
            Some(values) if values.is_object() => Type::Map(Box::new(field_type(values, ids))),
            _ => Type::Any,
        },
        _ => Type::Any,
    }
}

fn referred_type(name: &str, ids: &HashMap<String, StructId>) -> Type {
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => Type::Quantity,
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => Type::IntOrString,
        "io.k8s.apimachinery.pkg.apis.meta.v1.Time" => Type::Time,
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime" => Type::MicroTime,
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1" | "io.k8s.apimachinery.pkg.runtime.RawExtension" => Type::Any,
        _ => ids.get(name).map_or(Type::Any, |id| Type::Struct(*id)),
    }
}

#[cfg(test)]
mod tests;
