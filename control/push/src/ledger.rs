//! Objects by name and by the revision of their last change: what changed since a revision is a range, not a log.
//!
//! An object changed a thousand times stands in the order once, at its last revision; so whoever comes late gets its
//! latest version only, and nobody has to keep anything for him. Removed objects leave a grave, so that he learns of
//! the removal too. Graves are the one thing that grows with time, so their number is bounded: `forgotten` is the
//! revision before which the ledger can no longer tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use fairlead_proto::push::v1;
use rustc_hash::FxHashMap;

/// Kind, namespace (empty for a Node) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// One of the kinds a node is told of.
    pub kind: v1::Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// As the contract names it.
    pub fn to_wire(&self) -> v1::ObjectRef {
        v1::ObjectRef { kind: self.kind.into(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// An object's last change: its JSON, or `None` if it was removed.
pub type Latest = (Arc<Key>, Option<Bytes>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    entries: FxHashMap<Arc<Key>, Entry>,
    live: BTreeSet<(u64, Arc<Key>)>,
    graves: BTreeSet<(u64, Arc<Key>)>,
    most_graves: usize,
    forgotten: u64,
}

#[derive(Debug)]
struct Entry {
    revision: u64,
    /// `None` marks a grave.
    json: Option<Bytes>,
}

impl Ledger {
    /// Empty; it cannot tell what changed before `revision`, and keeps so many graves.
    pub(crate) fn new(revision: u64, most_graves: usize) -> Self {
        Self {
            entries: FxHashMap::default(),
            live: BTreeSet::new(),
            graves: BTreeSet::new(),
            most_graves,
            forgotten: revision,
        }
    }

    /// The object is there since `revision`, in this form.
    pub(crate) fn put(&mut self, key: Arc<Key>, revision: u64, json: Bytes) {
        self.unlink(&key);
        self.live.insert((revision, key.clone()));
        self.entries.insert(key, Entry { revision, json: Some(json) });
    }

    /// The object is gone since `revision`; nothing happens if it was not there.
    pub(crate) fn remove(&mut self, key: &Arc<Key>, revision: u64) {
        if self.entries.get(key).is_none_or(|entry| entry.json.is_none()) {
            return;
        }
        self.unlink(key);
        self.graves.insert((revision, key.clone()));
        self.entries.insert(key.clone(), Entry { revision, json: None });
        while self.graves.len() > self.most_graves {
            let Some((revision, key)) = self.graves.pop_first() else { break };
            self.entries.remove(&key);
            self.forgotten = self.forgotten.max(revision);
        }
    }

    /// Every object there is.
    pub(crate) fn all(&self) -> impl Iterator<Item = Latest> + '_ {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.json.is_some())
            .map(|(key, entry)| (key.clone(), entry.json.clone()))
    }

    /// The last change of every object changed after `revision`; `None` if that is no longer known.
    pub(crate) fn since(&self, revision: u64) -> Option<impl Iterator<Item = Latest> + '_> {
        if revision < self.forgotten {
            return None;
        }
        let first = revision.saturating_add(1);
        let start =
            (first, Arc::new(Key { kind: v1::Kind::Unspecified, namespace: String::new(), name: String::new() }));
        let put = self.live.range(start.clone()..).map(|(_, key)| key);
        let gone = self.graves.range(start..).map(|(_, key)| key);
        let latest = |key: &Arc<Key>| (key.clone(), self.entries.get(key).and_then(|entry| entry.json.clone()));
        Some(put.chain(gone).map(latest))
    }

    /// True if there is no object.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    fn unlink(&mut self, key: &Arc<Key>) {
        if let Some(old) = self.entries.get(key) {
            let place = (old.revision, key.clone());
            if old.json.is_some() {
                self.live.remove(&place)
            } else {
                self.graves.remove(&place)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Arc<Key> {
        Arc::new(Key { kind: v1::Kind::Service, namespace: "default".into(), name: name.into() })
    }

    fn since(ledger: &Ledger, revision: u64) -> Option<Vec<String>> {
        let latest = ledger.since(revision)?;
        Some(
            latest
                .map(|(key, json)| if json.is_some() { key.name.clone() } else { format!("-{}", key.name) })
                .collect(),
        )
    }

    #[test]
    fn an_object_stands_once_at_its_last_revision() {
        let mut ledger = Ledger::new(0, 8);
        for revision in 1..=5 {
            ledger.put(key("a"), revision, Bytes::new());
        }
        ledger.put(key("b"), 3, Bytes::new());
        assert_eq!(since(&ledger, 0), Some(vec!["b".into(), "a".into()]));
        assert_eq!(since(&ledger, 3), Some(vec!["a".into()]));
        assert_eq!(since(&ledger, 5), Some(vec![]));
        ledger.remove(&key("a"), 6);
        ledger.remove(&key("never there"), 7);
        assert_eq!(since(&ledger, 2), Some(vec!["b".into(), "-a".into()]));
        ledger.put(key("a"), 8, Bytes::new());
        assert_eq!(since(&ledger, 5), Some(vec!["a".into()]));
        assert_eq!(ledger.all().count(), 2);
    }

    #[test]
    fn too_many_graves_end_what_can_be_told() {
        let mut ledger = Ledger::new(0, 2);
        for (revision, name) in [(1, "a"), (2, "b"), (3, "c")] {
            ledger.put(key(name), revision, Bytes::new());
        }
        for (revision, name) in [(4, "a"), (5, "b"), (6, "c")] {
            ledger.remove(&key(name), revision);
        }
        assert_eq!(since(&ledger, 3), None);
        assert_eq!(since(&ledger, 4), Some(vec!["-b".into(), "-c".into()]));
        assert!(ledger.is_empty());
        assert_eq!(ledger.entries.len(), 2, "nothing of the forgotten is kept");
    }
}
