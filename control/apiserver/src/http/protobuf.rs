//! Bodies in Kubernetes' protobuf form, which typed clients send (`kubectl create deployment`) even to servers that
//! answer in JSON.
//!
//! A body is four magic bytes and an envelope that names the kind; the object within is read by a table of field
//! numbers (`messages.txt`) into the JSON tree that a JSON body would have been. What the table does not know is
//! skipped, as protobuf means it. Answers are always JSON: every client that sends this form takes it.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

mod wire;

use wire::{Fields, Item};

/// The media type of such a body.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Nesting beyond this is no Kubernetes object.
const DEPTH: usize = 64;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let lines = include_str!("protobuf/messages.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(':')).map(|(name, fields)| (name, Message::parse(fields))).collect()
});

/// What the table knows of a message: its fields by number.
#[derive(Debug)]
struct Message(HashMap<u32, Field>);

#[derive(Debug)]
struct Field {
    /// `None` for a field whose own fields stand in the parent.
    name: Option<&'static str>,
    repeated: bool,
    /// A zero value is a value.
    pointer: bool,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Text,
    Integer,
    Boolean,
    Double,
    Bytes,
    Map(Box<Shape>),
    Message(&'static str),
}

impl Message {
    fn parse(fields: &'static str) -> Self {
        let fields = fields.split(',').filter_map(|field| {
            let mut parts = field.split_whitespace();
            let number = parts.next()?.parse().ok()?;
            let name = parts.next().filter(|name| *name != ".");
            let text = parts.next()?;
            let (repeated, text) = text.strip_prefix("[]").map_or((false, text), |rest| (true, rest));
            let (pointer, text) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
            Some((number, Field { name, repeated, pointer, shape: Shape::parse(text) }))
        });
        Self(fields.collect())
    }
}

impl Shape {
    fn parse(text: &'static str) -> Self {
        match text {
            "s" => Self::Text,
            "i" => Self::Integer,
            "b" => Self::Boolean,
            "f" => Self::Double,
            "y" => Self::Bytes,
            text => match text.strip_prefix('<') {
                Some(value) => Self::Map(Box::new(Self::parse(value))),
                None => Self::Message(text),
            },
        }
    }
}

/// The tree of a body. The error says what is wrong with the bytes.
pub(crate) fn tree(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the body does not begin with the mark of Kubernetes' protobuf")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::new(envelope) {
        match field? {
            (1, Item::Bytes(type_meta)) => {
                for field in Fields::new(type_meta) {
                    match field? {
                        (1, Item::Bytes(text)) => api_version = wire::text(text)?,
                        (2, Item::Bytes(text)) => kind = wire::text(text)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (name, _) = MESSAGES
        .get_key_value(kind.as_str())
        .ok_or_else(|| format!("the kind {kind:?} is not read in its protobuf form: send application/json"))?;
    let mut object = message(name, raw, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

fn message(name: &'static str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth > DEPTH {
        return Err("the object is nested too deeply".to_owned());
    }
    let known = MESSAGES.get(name).ok_or_else(|| format!("no message {name:?}"))?;
    let mut object = Map::new();
    for field in Fields::new(bytes) {
        let (number, item) = field?;
        let Some(field) = known.0.get(&number) else { continue };
        match (&field.shape, field.name, item) {
            (Shape::Message(inner), None, Item::Bytes(bytes)) => object.extend(message(inner, bytes, depth + 1)?),
            (Shape::Map(shape), Some(name), Item::Bytes(bytes)) => {
                let (key, value) = entry(shape, bytes, depth)?;
                let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
            (shape, Some(name), item) => {
                let value = value(shape, item, depth)?;
                if field.repeated {
                    let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        list.push(value);
                    }
                } else if field.pointer || !is_zero(&value) {
                    object.insert(name.to_owned(), value);
                }
            }
            (_, None, _) => return Err(format!("field {number} of {name} is not a message")),
        }
    }
    Ok(object)
}

fn entry(shape: &Shape, bytes: &[u8], depth: usize) -> Result<(String, Value), String> {
    let (mut key, mut found) = (String::new(), None);
    for field in Fields::new(bytes) {
        match field? {
            (1, Item::Bytes(text)) => key = wire::text(text)?,
            (2, item) => found = Some(value(shape, item, depth)?),
            _ => {}
        }
    }
    let empty = || if matches!(shape, Shape::Text | Shape::Bytes) { "".into() } else { Value::Null };
    Ok((key, found.unwrap_or_else(empty)))
}

fn value(shape: &Shape, item: Item<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (shape, item) {
        (Shape::Text, Item::Bytes(bytes)) => wire::text(bytes)?.into(),
        (Shape::Bytes, Item::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Shape::Integer, Item::Varint(number)) => number.cast_signed().into(),
        (Shape::Boolean, Item::Varint(number)) => (number != 0).into(),
        (Shape::Double, Item::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Message(name), Item::Bytes(bytes)) => match *name {
            "Quantity" => first_text(bytes)?.into(),
            "IntOrString" => int_or_string(bytes)?,
            "Time" => time(bytes, 0)?,
            "MicroTime" => time(bytes, 6)?,
            "RawExtension" | "FieldsV1" => {
                serde_json::from_str(&first_text(bytes)?).map_err(|error| format!("embedded JSON: {error}"))?
            }
            name => Value::Object(message(name, bytes, depth + 1)?),
        },
        (shape, item) => return Err(format!("a field that is {shape:?} holds {item:?}")),
    })
}

fn first_text(bytes: &[u8]) -> Result<String, String> {
    for field in Fields::new(bytes) {
        if let (1, Item::Bytes(text)) = field? {
            return wire::text(text);
        }
    }
    Ok(String::new())
}

/// `{type, intVal, strVal}`: type 1 is the text.
fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, Item::Varint(kind)) => is_text = kind == 1,
            (2, Item::Varint(value)) => number = value.cast_signed(),
            (3, Item::Bytes(value)) => text = wire::text(value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Seconds and nanoseconds; a time that is not set is an empty message.
fn time(bytes: &[u8], digits: u8) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(bytes) {
        match field? {
            (1, Item::Varint(value)) => seconds = value.cast_signed(),
            (2, Item::Varint(value)) => nanos = i32::try_from(value.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|error| format!("a time out of range: {error}"))?;
    let format = if digits == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
    Ok(at.strftime(format).to_string().into())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests;
