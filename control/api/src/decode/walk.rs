//! The walk along a schema. Error texts are those of Go's JSON reader, which clients show as they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Struct, Type};

/// Checks and normalizes a tree whose root is of type `root`; unknown fields are removed and noted.
pub(super) fn walk(root: &'static Struct, tree: &mut Value, problems: &mut Vec<String>) -> Result<(), String> {
    let Value::Object(map) = tree else {
        return Err(format!("json: cannot unmarshal {} into Go value of type {}", json_type(tree), go_struct(root)));
    };
    let mut walk = Walk { path: String::new(), go_path: String::new(), owner: root.short_name(), problems };
    walk.object(root, map)
}

struct Walk<'a> {
    /// `spec.containers[0]`, for unknown fields.
    path: String,
    /// `spec.containers`, for Go's errors.
    go_path: String,
    /// The Go struct that has the field.
    owner: &'static str,
    problems: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn object(&mut self, ty: &'static Struct, map: &mut Map<String, Value>) -> Result<(), String> {
        map.retain(|field, value| {
            let known = ty.fields.contains_key(field);
            if !known {
                let mut path = self.path.clone();
                push(&mut path, field);
                self.problems.push(format!("unknown field {path:?}"));
            }
            known && !value.is_null()
        });
        for (field, value) in map {
            let Some(known) = ty.fields.get(field) else { continue };
            let owner = std::mem::replace(&mut self.owner, ty.short_name());
            self.inside(field, |walk| walk.value(&known.ty, value))?;
            self.owner = owner;
        }
        Ok(())
    }

    /// Runs `walk` with a field added to both paths.
    fn inside(&mut self, field: &str, walk: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let length = self.go_path.len();
        push(&mut self.go_path, field);
        let result = self.within(|path| push(path, field), walk);
        self.go_path.truncate(length);
        result
    }

    /// Runs `walk` with the path of unknown fields made longer.
    fn within(
        &mut self,
        longer: impl FnOnce(&mut String),
        walk: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let length = self.path.len();
        longer(&mut self.path);
        let result = walk(self);
        self.path.truncate(length);
        result
    }

    fn value(&mut self, ty: &Type, value: &mut Value) -> Result<(), String> {
        match (ty, &mut *value) {
            (Type::Any, _) | (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => Ok(()),
            (Type::Number, Value::Number(_)) => Ok(()),
            (Type::Int32, Value::Number(number)) => match number.as_i64().filter(|n| i32::try_from(*n).is_ok()) {
                Some(_) => Ok(()),
                None => Err(self.wrong(&format!("number {number}"), "int32")),
            },
            (Type::Int64, Value::Number(number)) => match number.as_i64() {
                Some(_) => Ok(()),
                None => Err(self.wrong(&format!("number {number}"), "int64")),
            },
            (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::IntOrString, Value::Number(number)) => match number.as_i64().filter(|n| i32::try_from(*n).is_ok()) {
                Some(_) => Ok(()),
                None => Err(format!("json: cannot unmarshal number {number} into Go value of type int32")),
            },
            (Type::Quantity, Value::String(_) | Value::Number(_)) => {
                *value = Quantity::from_json(value).map_err(|error| error.to_string())?.to_string().into();
                Ok(())
            }
            (Type::Bytes, Value::String(text)) => {
                let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
                let bytes = STANDARD.decode(&text).map_err(|error| illegal_base64(&text, error))?;
                *value = STANDARD.encode(bytes).into();
                Ok(())
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => {
                *value = time(text, *ty == Type::MicroTime)?.into();
                Ok(())
            }
            (Type::List(of), Value::Array(list)) => {
                for (index, item) in list.iter_mut().enumerate() {
                    self.within(|path| path.push_str(&format!("[{index}]")), |walk| walk.item(of, item))?;
                }
                Ok(())
            }
            (Type::Map(of), Value::Object(map)) => {
                for (key, item) in map {
                    self.within(|path| push(path, key), |walk| walk.item(of, item))?;
                }
                Ok(())
            }
            (Type::Struct(id), Value::Object(map)) => self.object(id.get(), map),
            (_, other) => Err(self.wrong(json_type(other), &go_type(ty))),
        }
    }

    /// A list's or map's item: null there is Go's zero value.
    fn item(&mut self, ty: &Type, value: &mut Value) -> Result<(), String> {
        if value.is_null() {
            *value = match ty {
                Type::String | Type::Bytes => "".into(),
                Type::Bool => false.into(),
                Type::Int32 | Type::Int64 | Type::Number | Type::IntOrString => 0.into(),
                Type::Quantity => "0".into(),
                Type::List(_) => Value::Array(Vec::new()),
                Type::Map(_) | Type::Struct(_) => Value::Object(Map::new()),
                Type::Any | Type::Time | Type::MicroTime => return Ok(()),
            };
        }
        self.value(ty, value)
    }

    fn wrong(&self, found: &str, wanted: &str) -> String {
        let (owner, path) = (self.owner, &self.go_path);
        format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
    }
}

fn push(path: &mut String, field: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(field);
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(ty: &Type) -> String {
    match ty {
        Type::String | Type::Quantity => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int32 | Type::IntOrString => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Number => "float64".to_owned(),
        Type::Time => "time.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Any => "runtime.RawExtension".to_owned(),
        Type::List(of) => format!("[]{}", go_type(of)),
        Type::Map(of) => format!("map[string]{}", go_type(of)),
        Type::Struct(id) => go_struct(id.get()),
    }
}

fn go_struct(ty: &Struct) -> String {
    let mut parts = ty.name.rsplit('.');
    let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{package}.{name}")
}

fn illegal_base64(text: &str, error: base64::DecodeError) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
        _ => text.len(),
    };
    format!("illegal base64 data at input byte {at}")
}

/// A time in the API's form: UTC, to the second or the microsecond.
fn time(text: &str, micro: bool) -> Result<String, String> {
    let parsed: Timestamp = text.parse().map_err(|_| {
        let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
    })?;
    let layout = if micro { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(parsed.strftime(layout).to_string())
}
