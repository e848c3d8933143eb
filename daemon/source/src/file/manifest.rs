//! One file's text: documents, and the objects in them. Pure.
//!
//! The text is cut into its YAML documents before it is parsed, so that one that is malformed is refused alone, and one
//! that stands as before need not be parsed again: a directory may be one file with ten thousand Services. Of what was
//! told, a digest stays, to know a change by; the objects themselves are whoever was told's.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::update::{Item, ObjectName};

/// What a file without a namespace means.
const NAMESPACE: &str = "default";
/// How deep lists may stand in lists.
const DEEPEST: usize = 4;

/// The languages of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Yaml,
    Json,
}

/// A file's documents.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifest {
    documents: Vec<Document>,
}

/// A piece of the text and what is in it; lines are counted from its beginning.
#[derive(Clone, Debug)]
struct Document {
    fingerprint: (u64, usize),
    first_line: usize,
    found: Arc<[(usize, Found)]>,
}

/// What a document holds.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// An object of a kind that counts, or why it cannot be read.
    Object(Arc<ObjectName>, Result<Arc<Said>, String>),
    /// Something of this kind, which does not count.
    Ignored(String),
    /// Something that cannot be told what it is, and why.
    Unreadable(String),
}

/// An object as a document says it.
#[derive(Debug)]
pub(super) struct Said {
    digest: u64,
    /// Until it is told.
    item: Mutex<Option<Item>>,
}

impl Said {
    fn new(item: Item, reader: &For<'_>) -> Self {
        let mut digest = Digest(reader.hasher.build_hasher());
        // Writing to a digest cannot fail, and an object that was read can be written.
        let _ = match &item {
            Item::Service(service) => serde_json::to_writer(&mut digest, service),
            Item::EndpointSlice(slice) => serde_json::to_writer(&mut digest, slice),
            Item::Node(node) => serde_json::to_writer(&mut digest, node),
            Item::Pod(..) | Item::ConfigMap(..) | Item::Secret(..) | Item::Read(..) => Ok(()),
        };
        Self { digest: digest.0.finish(), item: Mutex::new(Some(item.read(reader.node))) }
    }

    /// The object, for whoever is told of it; it can be told once.
    pub(super) fn take(&self) -> Option<Item> {
        self.item.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// It was told already.
    pub(super) fn is_taken(&self) -> bool {
        self.item.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl PartialEq for Said {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// A hash as something that can be written to.
struct Digest(DefaultHasher);

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file for a node. Documents that stand in `before` are taken from there.
pub(super) fn read(language: Language, text: &str, node: &str, before: &Manifest, hasher: &RandomState) -> Manifest {
    let known: std::collections::HashMap<_, _> =
        before.documents.iter().map(|document| (document.fingerprint, &document.found)).collect();
    let pieces = match language {
        Language::Yaml => cut(text),
        Language::Json => vec![(1, text)],
    };
    let documents = pieces.into_iter().map(|(first_line, piece)| {
        let fingerprint = (hasher.hash_one(piece), piece.len());
        let found = known.get(&fingerprint).map(|found| (*found).clone());
        let found = found.unwrap_or_else(|| Arc::from(objects(language, piece, &For { node, hasher })));
        Document { fingerprint, first_line, found }
    });
    Manifest { documents: documents.collect() }
}

impl Manifest {
    /// Everything in it with the line of the file where it begins.
    pub(super) fn found(&self) -> impl Iterator<Item = (usize, &Found)> {
        self.documents
            .iter()
            .flat_map(|document| document.found.iter().map(|(line, found)| (document.first_line + line - 1, found)))
    }

    /// True if some of it could not even be named.
    pub(super) fn is_partly_unreadable(&self) -> bool {
        self.found().any(|(_, found)| matches!(found, Found::Unreadable(_)))
    }
}

/// Cuts at the lines that begin a document, which no scalar can contain (YAML 1.2, rule c-forbidden). Each piece comes
/// with the number of its first line; what precedes the first marker and is directives or comments only belongs to it.
fn cut(text: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line, mut offset, mut is_prologue) = (0, 1, 0, true);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && !is_prologue {
            pieces.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, index + 1);
        } else if is_marker(line) || !(line.trim().is_empty() || line.starts_with(['%', '#'])) {
            is_prologue = false;
        }
        offset += line.len();
    }
    pieces.push((start_line, &text[start..]));
    pieces
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// What tells an object's kind and name.
#[derive(Debug, Default, Deserialize)]
struct Header {
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<Names>,
}

#[derive(Debug, Default, Deserialize)]
struct Names {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

/// What a header announces.
enum Announced {
    List,
    Object(ObjectName),
    /// Another node's.
    Nothing,
    Other(Found),
}

fn announced(header: Header, node: &str) -> Announced {
    let (version, kind) = (header.api_version.unwrap_or_default(), header.kind.unwrap_or_default());
    let names = header.metadata.unwrap_or_default();
    let object: fn(String, String) -> ObjectName = match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => ObjectName::Service,
        ("discovery.k8s.io/v1", "EndpointSlice") => ObjectName::EndpointSlice,
        ("v1", "Node") => |_, name| ObjectName::Node(name),
        ("v1", "List" | "ServiceList" | "NodeList") | ("discovery.k8s.io/v1", "EndpointSliceList") => {
            return Announced::List;
        }
        ("", _) | (_, "") => {
            return Announced::Other(Found::Unreadable("it says no apiVersion and kind".to_owned()));
        }
        _ => return Announced::Other(Found::Ignored(format!("{kind} ({version})"))),
    };
    let Some(name) = names.name.filter(|name| !name.is_empty()) else {
        return Announced::Other(Found::Unreadable(format!("a {kind} without a metadata.name")));
    };
    match object(names.namespace.filter(|one| !one.is_empty()).unwrap_or_else(|| NAMESPACE.to_owned()), name) {
        ObjectName::Node(other) if other != node => Announced::Nothing,
        name => Announced::Object(name),
    }
}

/// For whom a document is read, and how its objects are digested.
struct For<'a> {
    node: &'a str,
    hasher: &'a RandomState,
}

fn objects(language: Language, text: &str, reader: &For<'_>) -> Vec<(usize, Found)> {
    let mut found = Vec::new();
    match language {
        Language::Yaml => yaml(text, reader, &mut found),
        Language::Json => json(text, reader, &mut found),
    }
    found
}

/// One piece is one document, but for those that end in `...` without the next beginning in `---`.
fn yaml(text: &str, reader: &For<'_>, found: &mut Vec<(usize, Found)>) {
    // The first line that says something is the one to name.
    let said = |line: &&str| !(line.trim().is_empty() || line.starts_with(['#', '%']) || line.trim_end() == "---");
    let Some(begins) = text.lines().position(|line| said(&line)) else { return };
    let has_merges = text.contains("<<");
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let header = match Option::<Header>::deserialize(document) {
            Ok(Some(header)) => header,
            Ok(None) => continue,
            Err(error) => return found.push(unreadable(&error)),
        };
        let again = || serde_norway::Deserializer::from_str(text).nth(index);
        let line = begins + 1;
        match announced(header, reader.node) {
            Announced::Object(name) if !has_merges => {
                let Some(document) = again() else { continue };
                let item = match &name {
                    ObjectName::Service(..) => Box::<Service>::deserialize(document).map(Item::Service),
                    ObjectName::EndpointSlice(..) => {
                        Box::<EndpointSlice>::deserialize(document).map(Item::EndpointSlice)
                    }
                    _ => Box::<Node>::deserialize(document).map(Item::Node),
                };
                // The parser's own place is relative to the piece, and the piece's line is told besides.
                found.push((line, object(name, item.map_err(|error| without_place(&error)), reader)));
            }
            Announced::Object(_) | Announced::List => {
                let value = again().map(serde_norway::Value::deserialize).and_then(Result::ok).unwrap_or_default();
                match plain(value) {
                    Ok(value) => values(value, line, reader, found, 0),
                    Err(reason) => found.push((line, Found::Unreadable(reason))),
                }
            }
            Announced::Nothing => {}
            Announced::Other(other) => found.push((line, other)),
        }
    }
}

fn unreadable(error: &serde_norway::Error) -> (usize, Found) {
    let line = error.location().map_or(1, |place| place.line());
    (line, Found::Unreadable(without_place(error)))
}

/// The parser's message without its ` at line L column C`, which counts from the beginning of a piece.
fn without_place(error: &serde_norway::Error) -> String {
    let text = error.to_string();
    match error.location() {
        Some(place) => text.replacen(&format!(" at line {} column {}", place.line(), place.column()), "", 1),
        None => text,
    }
}

/// YAML's values with merge keys (`<<`) carried out, as JSON's.
fn plain(mut value: serde_norway::Value) -> Result<Value, String> {
    value.apply_merge().map_err(|error| error.to_string())?;
    serde_json::to_value(value).map_err(|error| error.to_string())
}

fn json(text: &str, reader: &For<'_>, found: &mut Vec<(usize, Found)>) {
    let mut pieces = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    loop {
        let start = pieces.byte_offset();
        let line = text[..start].lines().count().max(1);
        match pieces.next() {
            None => return,
            Some(Ok(_)) => json_piece(&text[start..pieces.byte_offset()], line, reader, found),
            Some(Err(error)) => {
                return found.push((error.line().max(1), Found::Unreadable(without_json_place(&error))));
            }
        }
    }
}

/// One value. Of a list, one item after the other: as one tree it would be twenty times its text.
fn json_piece(text: &str, line: usize, reader: &For<'_>, found: &mut Vec<(usize, Found)>) {
    let is_list = serde_json::from_str::<Header>(text)
        .is_ok_and(|header| matches!(announced(header, reader.node), Announced::List));
    let read = if is_list {
        let mut has_items = false;
        let mut take = |item| {
            has_items = true;
            if let Some(item) = item {
                values(item, line, reader, found, 1);
            }
        };
        let read = Items(&mut take).deserialize(&mut serde_json::Deserializer::from_str(text));
        if read.is_ok() && !has_items {
            found.push((line, Found::Unreadable("a list without items".to_owned())));
        }
        read
    } else {
        serde_json::from_str(text).map(|value| values(value, line, reader, found, 0))
    };
    if let Err(error) = read {
        found.push((line, Found::Unreadable(without_json_place(&error))));
    }
}

fn without_json_place(error: &serde_json::Error) -> String {
    error.to_string().replacen(&format!(" at line {} column {}", error.line(), error.column()), "", 1)
}

/// Hands on the elements of a list's `items`: `None` for the list itself, then each.
struct Items<'a>(&'a mut dyn FnMut(Option<Value>));

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "items" => map.next_value_seed(Elements(&mut *self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Elements<'a>(&'a mut dyn FnMut(Option<Value>));

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        (self.0)(None);
        while let Some(item) = items.next_element()? {
            (self.0)(Some(item));
        }
        Ok(())
    }
}

/// The objects of a JSON tree, lists opened.
fn values(value: Value, line: usize, reader: &For<'_>, found: &mut Vec<(usize, Found)>, depth: usize) {
    let header = match Header::deserialize(&value) {
        Ok(header) => header,
        Err(error) => return found.push((line, Found::Unreadable(error.to_string()))),
    };
    match announced(header, reader.node) {
        Announced::Object(name) => {
            let item = match &name {
                ObjectName::Service(..) => typed(value).map(Item::Service),
                ObjectName::EndpointSlice(..) => typed(value).map(Item::EndpointSlice),
                _ => typed(value).map(Item::Node),
            };
            found.push((line, object(name, item, reader)));
        }
        Announced::List if depth == DEEPEST => {
            found.push((line, Found::Unreadable("lists in lists in lists".to_owned())));
        }
        Announced::List => match value {
            Value::Object(mut fields) => match fields.remove("items") {
                Some(Value::Array(items)) => {
                    items.into_iter().for_each(|item| values(item, line, reader, found, depth + 1));
                }
                _ => found.push((line, Found::Unreadable("a list without items".to_owned()))),
            },
            _ => found.push((line, Found::Unreadable("a list that is none".to_owned()))),
        },
        Announced::Nothing => {}
        Announced::Other(other) => found.push((line, other)),
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<Box<T>, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn object(name: ObjectName, item: Result<Item, String>, reader: &For<'_>) -> Found {
    let checked = item.and_then(|mut item| {
        match (&mut item, &name) {
            (Item::Service(service), ObjectName::Service(namespace, _)) => {
                service.metadata.namespace = Some(namespace.clone());
                has_address(service)?;
            }
            (Item::EndpointSlice(slice), ObjectName::EndpointSlice(namespace, _)) => {
                slice.metadata.namespace = Some(namespace.clone());
            }
            _ => {}
        }
        Ok(Arc::new(Said::new(item, reader)))
    });
    Found::Object(Arc::new(name), checked)
}

/// An API server gives every Service a ClusterIP; here nobody does, and without one it would quietly do nothing.
fn has_address(service: &Service) -> Result<(), String> {
    let Some(spec) = &service.spec else { return Err("it has no spec".to_owned()) };
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    if spec.type_.as_deref() != Some("ExternalName") && listed.into_iter().all(String::is_empty) {
        return Err("spec.clusterIP: there is none, and no API server to allocate it: give one, or `None`".to_owned());
    }
    Ok(())
}
