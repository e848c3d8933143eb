//! JSON to a tree, noting fields that come twice. The last one wins, as in Go.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The tree and a problem per duplicate field: `duplicate field "spec.containers[0].name"`.
pub(super) fn parse(body: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut found = Vec::new();
    let mut path = String::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let tree = Tree { path: &mut path, found: &mut found }.deserialize(&mut json)?;
    json.end()?;
    Ok((tree, found))
}

struct Tree<'a> {
    path: &'a mut String,
    found: &'a mut Vec<String>,
}

impl Tree<'_> {
    fn inner(&mut self) -> Tree<'_> {
        Tree { path: self.path, found: self.found }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let base = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", list.len()));
            let next = seq.next_element_seed(self.inner())?;
            self.path.truncate(base);
            match next {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let base = self.path.len();
        while let Some(key) = access.next_key::<String>()? {
            if base > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if map.contains_key(&key) {
                let problem = format!("duplicate field {:?}", self.path);
                if !self.found.contains(&problem) {
                    self.found.push(problem);
                }
            }
            let value = access.next_value_seed(self.inner())?;
            self.path.truncate(base);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
