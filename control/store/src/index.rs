//! Current values by key, in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Revision};

/// A value and the revisions that made it; the key is the map's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The bytes.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that wrote the value.
    pub modified: Revision,
}

/// All current entries, in key order.
#[derive(Clone, Debug, Default)]
pub struct Index {
    entries: BTreeMap<Arc<str>, Held>,
}

impl Index {
    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get_key_value(key).map(|(key, held)| entry(key, held))
    }

    /// Writes an entry; the answer is the one it replaced.
    pub fn put(&mut self, entry: Entry) -> Option<Entry> {
        let Entry { key, value, created, modified } = entry;
        let before = self.entries.insert(key.clone(), Held { value, created, modified })?;
        Some(Entry { key, value: before.value, created: before.created, modified: before.modified })
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let (key, held) = self.entries.remove_entry(key)?;
        Some(entry(&key, &held))
    }

    /// Entries whose key begins with `prefix`, after the key `after`.
    pub fn range<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = Entry> + 'a {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, held)| entry(key, held))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn entry(key: &Arc<str>, held: &Held) -> Entry {
    Entry { key: key.clone(), value: held.value.clone(), created: held.created, modified: held.modified }
}
