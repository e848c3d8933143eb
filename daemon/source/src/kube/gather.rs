//! Updates made of what the watches tell. Pure.

use std::collections::BTreeSet;

use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::DynamicObject;

use super::Kind;
use super::watch::News;
use crate::source::Contact;
use crate::update::{Item, ObjectName, Rejected, Update};

/// What the three watches told.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    kinds: [Told; 3],
    revision: u64,
    next: Update,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Told {
    /// Listed at least once.
    is_listed: bool,
    names: BTreeSet<ObjectName>,
    /// The watch stands; `None`: not yet.
    state: Option<Result<(), String>>,
}

impl Gathered {
    /// Takes one piece of news in.
    pub(super) fn take(&mut self, kind: Kind, news: News) {
        let index = kind as usize;
        match news {
            News::Up => self.kinds[index].state = Some(Ok(())),
            News::Lost(reason) => self.kinds[index].state = Some(Err(reason)),
            News::Listed(objects) => {
                let names: BTreeSet<ObjectName> = objects.iter().map(|object| name(kind, object)).collect();
                let gone = std::mem::replace(&mut self.kinds[index].names, names);
                self.kinds[index].is_listed = true;
                for object in objects {
                    self.put(kind, object);
                }
                for gone in gone {
                    if !self.kinds[index].names.contains(&gone) {
                        self.remove(gone);
                    }
                }
            }
            News::Put(object) => {
                self.kinds[index].names.insert(name(kind, &object));
                self.put(kind, *object);
            }
            News::Removed(object) => {
                let name = name(kind, &object);
                self.kinds[index].names.remove(&name);
                self.remove(name);
            }
        }
    }

    fn put(&mut self, kind: Kind, object: DynamicObject) {
        let name = name(kind, &object);
        self.forget(&name);
        match item(kind, object) {
            Ok(item) => self.next.put.push(item),
            Err(reason) => self.next.rejected.push(Rejected { object: name, reason }),
        }
    }

    fn remove(&mut self, name: ObjectName) {
        self.forget(&name);
        self.next.removed.push(name);
    }

    /// What was to be told of an object and is out of date. An update names an object once: it has no order inside.
    fn forget(&mut self, name: &ObjectName) {
        // While the first lists come in, nothing is there twice; afterwards updates are short.
        if self.revision > 0 {
            self.next.put.retain(|item| item.name() != *name);
            self.next.rejected.retain(|one| one.object != *name);
            self.next.removed.retain(|one| one != name);
        }
    }

    /// In contact if every watch stands.
    pub(super) fn contact(&self) -> Contact {
        let states = self.kinds.iter().map(|kind| kind.state.as_ref());
        let lost = states.clone().flatten().find_map(|state| state.as_ref().err());
        match lost {
            Some(reason) => Contact::Lost(reason.clone()),
            None if states.clone().all(|state| state.is_some()) => Contact::Up,
            None => Contact::None,
        }
    }

    /// What to tell next, if anything. The first is complete and waits for the lists of Services and slices; the Node
    /// may be out of reach (its rules forbid it), and is then done without.
    pub(super) fn update(&mut self) -> Option<Update> {
        let is_first = self.revision == 0;
        let [services, slices, node] = &self.kinds;
        let node_is_settled = node.is_listed || matches!(node.state, Some(Err(_)));
        if is_first && !(services.is_listed && slices.is_listed && node_is_settled) {
            return None;
        }
        let next = &self.next;
        if !is_first && next.put.is_empty() && next.removed.is_empty() && next.rejected.is_empty() {
            return None;
        }
        self.revision += 1;
        let update = Update {
            revision: self.revision,
            snapshot: is_first,
            first: is_first,
            complete: true,
            ..std::mem::take(&mut self.next)
        };
        Some(update)
    }
}

fn name(kind: Kind, object: &DynamicObject) -> ObjectName {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    match kind {
        Kind::Service => ObjectName::Service(namespace, name),
        Kind::EndpointSlice => ObjectName::EndpointSlice(namespace, name),
        Kind::Node => ObjectName::Node(name),
    }
}

/// Objects come in untyped, so that one that does not fit its type stops nobody else's.
fn item(kind: Kind, mut object: DynamicObject) -> Result<Item, String> {
    object.metadata.managed_fields = None;
    Ok(match kind {
        Kind::Service => Item::Service(typed(object)?),
        Kind::EndpointSlice => Item::EndpointSlice(typed(object)?),
        Kind::Node => Item::Node(typed(object)?),
    })
}

fn typed<T: DeserializeOwned>(object: DynamicObject) -> Result<Box<T>, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_json::from_value(value).map_err(|error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
