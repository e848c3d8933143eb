//! All that any node needs, at one revision, kept by who needs it.
//!
//! Services and slices go to every node and stand in one shared ledger. A node's own object, its pods, and the
//! ConfigMaps and Secrets those use stand in a ledger of the node; a ConfigMap enters it when the first pod there
//! names it and leaves with the last. Work per commit is proportional to what it changes and to how many nodes use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::Object;
use fairlead_proto::push::v1::Kind;
use rustc_hash::FxHashMap;

use crate::feed::{Change, Commit, Opening};
use crate::ledger::{Key, Latest, Ledger};
use crate::references::references;

/// How many removed objects are remembered for nodes that were away: (Services and slices, a node's own).
const GRAVES: (usize, usize) = (16_384, 1_024);

/// See the module.
#[derive(Debug)]
pub struct World {
    store_id: String,
    revision: u64,
    committed_at: u64,
    shared: Ledger,
    nodes: BTreeMap<String, Ledger>,
    /// A ledger that does not exist cannot tell what changed before this revision.
    dropped: u64,
    pods: FxHashMap<Arc<Key>, Placement>,
    /// Every ConfigMap and Secret, whether or not a node uses it.
    configuration: FxHashMap<Arc<Key>, Bytes>,
    /// How many pods of which node use a ConfigMap or Secret.
    users: FxHashMap<Key, BTreeMap<String, usize>>,
    node_graves: usize,
}

/// Where a pod is and what it uses there.
#[derive(Debug)]
struct Placement {
    node: String,
    uses: BTreeSet<Key>,
}

/// Who has something new to hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Every node.
    pub shared: bool,
    /// These, in any case.
    pub nodes: BTreeSet<String>,
}

impl World {
    /// An empty world that cannot tell what came before.
    fn new(store_id: String, revision: u64, (shared_graves, node_graves): (usize, usize)) -> Self {
        Self {
            store_id,
            revision,
            committed_at: 0,
            shared: Ledger::new(revision, shared_graves),
            nodes: BTreeMap::new(),
            dropped: revision,
            pods: FxHashMap::default(),
            configuration: FxHashMap::default(),
            users: FxHashMap::default(),
            node_graves,
        }
    }

    /// The world as the feed opened it. What came before, it cannot tell.
    pub fn open(opening: &Opening) -> Self {
        let mut world = Self::new(opening.store_id.clone(), opening.revision, GRAVES);
        let changes = opening.records.iter().map(|record| Change { record: record.clone(), removed: false }).collect();
        world.apply(Commit { revision: opening.revision, committed_at: 0, changes });
        world
    }

    /// Takes a commit in.
    pub fn apply(&mut self, commit: Commit) -> Touched {
        let mut touched = Touched::default();
        self.revision = self.revision.max(commit.revision);
        self.committed_at = commit.committed_at;
        for change in commit.changes {
            self.apply_change(change, commit.revision, &mut touched);
        }
        touched
    }

    /// Identity of the store.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// Everything up to here is in.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When that revision was committed, nanoseconds since the Unix epoch; 0 if unknown.
    pub fn committed_at(&self) -> u64 {
        self.committed_at
    }

    /// Every object the node needs.
    pub fn snapshot(&self, node: &str) -> Vec<Latest> {
        let own = self.nodes.get(node).into_iter().flat_map(Ledger::all);
        in_order(self.shared.all().chain(own).collect())
    }

    /// The last change of everything the node needs, or needed, that changed after `revision`; `None` if that is no
    /// longer known, so that only a snapshot helps.
    pub fn since(&self, node: &str, revision: u64) -> Option<Vec<Latest>> {
        if revision > self.revision {
            return None;
        }
        let shared = self.shared.since(revision)?;
        let own = match self.nodes.get(node) {
            Some(ledger) => Some(ledger.since(revision)?),
            None if revision < self.dropped => return None,
            None => None,
        };
        Some(in_order(shared.chain(own.into_iter().flatten()).collect()))
    }

    fn apply_change(&mut self, change: Change, revision: u64, touched: &mut Touched) {
        let object = &change.record.object;
        let Some(kind) = wire_kind(change.record.kind) else { return };
        let key = Arc::new(Key { kind, namespace: object.namespace().to_owned(), name: object.name().to_owned() });
        let json = (!change.removed).then(|| change.record.json.clone());
        match kind {
            Kind::Pod => self.pod(&key, object, json, revision, touched),
            Kind::ConfigMap | Kind::Secret => self.configuration(&key, json, revision, touched),
            Kind::Node => {
                let name = key.name.clone();
                self.note(&name, &key, json, revision, touched);
                self.drop_if_empty(&name, revision);
            }
            _ => {
                touched.shared = true;
                match json {
                    Some(json) => self.shared.put(key, revision, json),
                    None => self.shared.remove(&key, revision),
                }
            }
        }
    }

    fn pod(&mut self, key: &Arc<Key>, pod: &Object, json: Option<Bytes>, revision: u64, touched: &mut Touched) {
        let node = pod.str_at(&["spec", "nodeName"]);
        let now = json.filter(|_| !node.is_empty()).map(|json| (json, references(pod)));
        let before = self.pods.remove(key);
        let (mut left, old_node) = before.map(|before| (before.uses, before.node)).unwrap_or_default();
        if !old_node.is_empty() && (now.is_none() || old_node != node) {
            self.note(&old_node, key, None, revision, touched);
            self.release(&old_node, std::mem::take(&mut left), revision, touched);
            self.drop_if_empty(&old_node, revision);
        }
        let Some((json, uses)) = now else { return };
        // What both the old and the new form use is neither released nor taken anew.
        for added in uses.difference(&left) {
            self.take(node, added, revision, touched);
        }
        self.release(node, left.difference(&uses).cloned().collect(), revision, touched);
        self.note(node, key, Some(json), revision, touched);
        self.pods.insert(key.clone(), Placement { node: node.to_owned(), uses });
    }

    fn configuration(&mut self, key: &Arc<Key>, json: Option<Bytes>, revision: u64, touched: &mut Touched) {
        match &json {
            Some(json) => self.configuration.insert(key.clone(), json.clone()),
            None => self.configuration.remove(key),
        };
        let users: Vec<String> = self.users.get(&**key).into_iter().flat_map(|nodes| nodes.keys().cloned()).collect();
        for node in users {
            self.note(&node, key, json.clone(), revision, touched);
        }
    }

    /// One more pod of the node uses this.
    fn take(&mut self, node: &str, used: &Key, revision: u64, touched: &mut Touched) {
        let count = self.users.entry(used.clone()).or_default().entry(node.to_owned()).or_default();
        *count += 1;
        if *count == 1
            && let Some((key, json)) = self.configuration.get_key_value(used)
        {
            let (key, json) = (key.clone(), json.clone());
            self.note(node, &key, Some(json), revision, touched);
        }
    }

    /// One pod less of the node uses these.
    fn release(&mut self, node: &str, uses: BTreeSet<Key>, revision: u64, touched: &mut Touched) {
        for used in uses {
            let Some(nodes) = self.users.get_mut(&used) else { continue };
            let Some(count) = nodes.get_mut(node) else { continue };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            nodes.remove(node);
            if nodes.is_empty() {
                self.users.remove(&used);
            }
            self.note(node, &Arc::new(used), None, revision, touched);
        }
    }

    /// Writes a change into the ledger of a node.
    fn note(&mut self, node: &str, key: &Arc<Key>, json: Option<Bytes>, revision: u64, touched: &mut Touched) {
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), Ledger::new(self.dropped, self.node_graves));
        }
        let Some(ledger) = self.nodes.get_mut(node) else { return };
        match json {
            Some(json) => ledger.put(key.clone(), revision, json),
            None => ledger.remove(key, revision),
        }
        touched.nodes.insert(node.to_owned());
    }

    /// Forgets a node of which nothing is left; if it comes back it gets a snapshot.
    fn drop_if_empty(&mut self, node: &str, revision: u64) {
        if self.nodes.get(node).is_some_and(Ledger::is_empty) {
            self.nodes.remove(node);
            self.dropped = self.dropped.max(revision);
        }
    }
}

/// What a pod uses before the pod, so that a node told in pieces can start it at once.
fn in_order(mut latest: Vec<Latest>) -> Vec<Latest> {
    latest.sort_by_key(|(key, _)| match key.kind {
        Kind::Node => 0,
        Kind::ConfigMap | Kind::Secret => 1,
        Kind::Service | Kind::EndpointSlice => 2,
        _ => 3,
    });
    latest
}

fn wire_kind(kind: &fairlead_api::Kind) -> Option<Kind> {
    match kind.kind {
        "Service" => Some(Kind::Service),
        "EndpointSlice" => Some(Kind::EndpointSlice),
        "Node" => Some(Kind::Node),
        "Pod" => Some(Kind::Pod),
        "ConfigMap" => Some(Kind::ConfigMap),
        "Secret" => Some(Kind::Secret),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
