//! The node's copy of its desired state, and what each update changed in it.
//!
//! An update is taken in whole: objects first, then each Service it touched is joined once more and compared with its
//! last form, so that only real changes wake anybody. Joined forms are not kept, but made for whoever asks: of the last
//! one a digest is known. A snapshot is turned into the delta it amounts to: after lost
//! contact, a snapshot that says what is known already changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::env::{self, Facts};
use crate::join::{self, Front, Place, Slice};
use crate::service::{Service, ServiceName};
use crate::update::{Form, Item, ObjectName, Rejected, Update};

/// Namespace and name.
type Key = (String, String);

/// Services to join anew.
type Touched = BTreeSet<Arc<ServiceName>>;

/// Label of a Node that says in which zone it is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Desired state of one node. Work per update is proportional to the update.
#[derive(Debug, Default)]
pub struct View {
    node_name: String,
    revision: u64,
    services: BTreeMap<Arc<ServiceName>, Box<Entry>>,
    /// To which Service a slice was last joined: a slice may change its label.
    slice_owners: FxHashMap<Key, Arc<ServiceName>>,
    hasher: RandomState,
    node: Option<Arc<Node>>,
    /// The node's zone, for slices that hint at zones.
    zone: Option<String>,
    pods: BTreeMap<Key, Arc<Pod>>,
    config_maps: BTreeMap<Key, Arc<ConfigMap>>,
    secrets: BTreeMap<Key, Arc<Secret>>,
    /// What is refused at present: in its last form if it had a good one, or not there.
    rejected: BTreeMap<ObjectName, Rejected>,
    /// Pieces of a snapshot that still lacks its last one.
    held: Option<Update>,
}

/// What is known of one Service. Slices may be here before it and stay after it.
#[derive(Debug, Default)]
struct Entry {
    /// Of the Service itself, as long as it is there.
    facts: Option<Facts>,
    front: Option<Front>,
    /// With their names. Nearly always one.
    slices: Vec<(Box<str>, Slice)>,
    /// Digest of its last joined form.
    joined: Option<u64>,
}

impl Entry {
    fn slices(&self) -> impl Iterator<Item = &Slice> + Clone {
        self.slices.iter().map(|(_, slice)| slice)
    }

    fn put_slice(&mut self, name: &str, slice: Slice) {
        match self.slices.binary_search_by(|(other, _)| (**other).cmp(name)) {
            Ok(place) => self.slices[place].1 = slice,
            Err(place) => {
                self.slices.reserve_exact(1);
                self.slices.insert(place, (name.into(), slice));
            }
        }
    }
}

/// What an update touched. Names only: the receiver looks the present state up, so two changes merge into one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services whose joined form changed, removed ones included.
    pub services: BTreeSet<ServiceName>,
    /// Pods put or removed: (namespace, name).
    pub pods: BTreeSet<(String, String)>,
    /// ConfigMaps put or removed.
    pub config_maps: BTreeSet<(String, String)>,
    /// Secrets put or removed.
    pub secrets: BTreeSet<(String, String)>,
    /// The node's own object changed.
    pub node: bool,
    /// Refused alone.
    pub rejected: Vec<Rejected>,
}

impl Changes {
    /// True if nothing the data path or the kubelet looks at has changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.pods.is_empty()
            && self.config_maps.is_empty()
            && self.secrets.is_empty()
            && !self.node
    }

    /// Adds later changes to these.
    pub fn merge(&mut self, later: Changes) {
        self.services.extend(later.services);
        self.pods.extend(later.pods);
        self.config_maps.extend(later.config_maps);
        self.secrets.extend(later.secrets);
        self.node |= later.node;
        self.rejected.extend(later.rejected);
    }
}

impl View {
    /// Empty, for the node of this name (which decides what `Endpoint::local` means).
    pub fn new(node: &str) -> Self {
        Self { node_name: node.to_owned(), ..Self::default() }
    }

    /// Takes an update in. Pieces of a snapshot are held back until the last one; then what the snapshot does not name
    /// is removed and the changes of the whole are returned. Pieces of a delta take effect at once.
    pub fn apply(&mut self, update: Update) -> Changes {
        if !update.snapshot {
            self.held = None;
            return self.apply_delta(update);
        }
        let whole = match self.held.take() {
            Some(held) if !update.first && held.revision == update.revision => append(held, update),
            _ => update,
        };
        if !whole.complete {
            let put = whole.put.into_iter().map(|item| item.read(&self.node_name)).collect();
            self.held = Some(Update { put, ..whole });
            return Changes::default();
        }
        let delta = self.snapshot_as_delta(whole);
        self.apply_delta(delta)
    }

    /// Revision of the last complete update.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The joined service, `None` once it is gone (or is no business of ours: headless, other proxy's).
    pub fn service(&self, name: &ServiceName) -> Option<Arc<Service>> {
        self.join(name, self.services.get(name)?).map(Arc::new)
    }

    /// All joined services, for a full synchronisation.
    pub fn services(&self) -> impl Iterator<Item = Arc<Service>> + '_ {
        self.services.iter().filter_map(|(name, entry)| self.join(name, entry)).map(Arc::new)
    }

    /// How many joined services there are.
    pub fn service_count(&self) -> usize {
        self.services.values().filter(|entry| entry.front.is_some()).count()
    }

    /// Addresses of endpoints on this node, of every joined service.
    pub fn local_addresses(&self) -> BTreeSet<IpAddr> {
        let joined = self.services.values().filter(|entry| entry.front.is_some());
        joined.flat_map(|entry| entry.slices()).flat_map(Slice::local_addresses).collect()
    }

    fn join(&self, name: &ServiceName, entry: &Entry) -> Option<Service> {
        let place = Place { node: &self.node_name, zone: self.zone.as_deref() };
        entry.front.as_ref().map(|front| join::join(name, front, entry.slices(), place))
    }

    /// The node's own object.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.clone()
    }

    /// A pod bound to this node.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(&key(namespace, name)).cloned()
    }

    /// Every pod bound to this node.
    pub fn pods(&self) -> impl Iterator<Item = Arc<Pod>> + '_ {
        self.pods.values().cloned()
    }

    /// The addresses of a pod of any node: as the Pod says, or as the slices do where Pods are not known. Looks through
    /// every slice of the namespace.
    pub fn pod_addresses(&self, namespace: &str, name: &str) -> Vec<IpAddr> {
        let status = self.pods.get(&key(namespace, name)).and_then(|pod| pod.status.as_ref());
        let listed = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()));
        let said =
            listed.chain(status.and_then(|status| status.pod_ip.as_deref())).filter_map(|text| text.parse().ok());
        let mut addresses: BTreeSet<IpAddr> = said.collect();
        if addresses.is_empty() {
            let first = ServiceName { namespace: namespace.to_owned(), name: String::new() };
            let own = self.services.range(first..).take_while(|(owner, _)| owner.namespace == namespace);
            let slices = own.flat_map(|(_, entry)| entry.slices());
            addresses.extend(slices.filter_map(|slice| slice.address_of(name)));
        }
        addresses.into_iter().collect()
    }

    /// A ConfigMap used by a pod of this node.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(&key(namespace, name)).cloned()
    }

    /// A Secret used by a pod of this node.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(&key(namespace, name)).cloned()
    }

    /// What is refused at present, by name: each until it is put in a good form or removed.
    pub fn rejected(&self) -> impl Iterator<Item = &Rejected> + '_ {
        self.rejected.values()
    }

    /// The `NAME_SERVICE_HOST`-style variables a pod of this namespace gets, in a stable order: services of the
    /// namespace when `service_links`, and always `kubernetes` of `default`.
    pub fn service_env(&self, namespace: &str, service_links: bool) -> Vec<(String, String)> {
        let first = ServiceName { namespace: namespace.to_owned(), name: String::new() };
        let own = self.services.range(first..).take_while(|(name, _)| name.namespace == namespace);
        let own = own.filter(|_| service_links).filter_map(|(name, entry)| facts(name, entry));
        let mut chosen: Vec<(&str, &Facts)> = own.filter(|(_, facts)| facts.has_address()).collect();
        let api = ServiceName { namespace: "default".to_owned(), name: "kubernetes".to_owned() };
        if !chosen.iter().any(|(name, _)| *name == api.name) {
            chosen.extend(self.services.get_key_value(&api).and_then(|(name, entry)| facts(name, entry)));
        }
        chosen.sort_by_key(|(name, _)| *name);
        env::variables(chosen.into_iter())
    }

    /// The names of everything here, as a snapshot would name it.
    fn names(&self) -> impl Iterator<Item = ObjectName> + '_ {
        let services = self.services.iter().filter(|(_, entry)| entry.facts.is_some());
        services
            .map(|(name, _)| ObjectName::Service(name.namespace.clone(), name.name.clone()))
            .chain(
                self.slice_owners.keys().cloned().map(|(namespace, name)| ObjectName::EndpointSlice(namespace, name)),
            )
            .chain(self.node.iter().map(|_| ObjectName::Node(self.node_name.clone())))
            .chain(self.pods.keys().cloned().map(|(namespace, name)| ObjectName::Pod(namespace, name)))
            .chain(self.config_maps.keys().cloned().map(|(namespace, name)| ObjectName::ConfigMap(namespace, name)))
            .chain(self.secrets.keys().cloned().map(|(namespace, name)| ObjectName::Secret(namespace, name)))
            .chain(self.rejected.keys().cloned())
    }

    /// A snapshot as the delta from here: what it does not name is removed. What it names and could not be read stays.
    fn snapshot_as_delta(&self, mut snapshot: Update) -> Update {
        let put = snapshot.put.iter().map(Item::name);
        let refused = snapshot.rejected.iter().map(|refused| refused.object.clone());
        let named: FxHashSet<ObjectName> = put.chain(refused).collect();
        snapshot.removed = self.names().filter(|name| !named.contains(name)).collect();
        snapshot
    }

    fn apply_delta(&mut self, delta: Update) -> Changes {
        let mut changes = Changes { rejected: delta.rejected, ..Changes::default() };
        let mut touched = Touched::new();
        for item in delta.put {
            let object = item.name();
            let item = item.read(&self.node_name);
            match self.put(item, &mut touched, &mut changes) {
                Ok(()) => drop(self.rejected.remove(&object)),
                Err(reason) => changes.rejected.push(Rejected { object, reason }),
            }
        }
        for name in delta.removed {
            self.rejected.remove(&name);
            self.remove(name, &mut touched, &mut changes);
        }
        self.rejected.extend(changes.rejected.iter().map(|one| (one.object.clone(), one.clone())));
        for name in touched {
            if self.rejoin(&name) {
                changes.services.insert((*name).clone());
            }
        }
        if delta.complete {
            self.revision = delta.revision;
        }
        changes
    }

    fn put(&mut self, item: Item, touched: &mut Touched, changes: &mut Changes) -> Result<(), String> {
        match item {
            Item::Read(read) => match (read.form?, read.name) {
                (Form::Service(front, facts), ObjectName::Service(namespace, name)) => {
                    let (name, entry) = self.entry(ServiceName { namespace, name });
                    entry.front = front;
                    entry.facts = Some(facts);
                    touched.insert(name);
                }
                (Form::Slice(slice), ObjectName::EndpointSlice(namespace, name)) => {
                    self.put_slice((namespace, name), slice, touched);
                }
                (_, name) => return Err(format!("{name} was read as something else")),
            },
            // Read before it is put.
            Item::Service(_) | Item::EndpointSlice(_) => {}
            Item::Node(node) if node.metadata.name.as_deref() != Some(self.node_name.as_str()) => {
                return Err(format!("this node is `{}`", self.node_name));
            }
            Item::Node(node) => {
                changes.node |= self.node.as_deref() != Some(&*node);
                self.move_to_zone(node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)), touched);
                self.node = Some(node.into());
            }
            Item::Pod(pod) => put(&mut self.pods, key_of(&pod.metadata), pod, &mut changes.pods),
            Item::ConfigMap(map) => {
                put(&mut self.config_maps, key_of(&map.metadata), map, &mut changes.config_maps);
            }
            Item::Secret(secret) => put(&mut self.secrets, key_of(&secret.metadata), secret, &mut changes.secrets),
        }
        Ok(())
    }

    /// What is known of a Service, from now on if nothing was, and its name as all here have it.
    fn entry(&mut self, name: ServiceName) -> (Arc<ServiceName>, &mut Entry) {
        let name = self.services.get_key_value(&name).map_or_else(|| Arc::new(name), |(name, _)| Arc::clone(name));
        (Arc::clone(&name), self.services.entry(name).or_default())
    }

    fn put_slice(&mut self, key: Key, read: Option<(ServiceName, Slice)>, touched: &mut Touched) {
        if self.slice_owners.get(&key).map(|owner| &**owner) != read.as_ref().map(|(owner, _)| owner) {
            self.remove_slice(&key, touched);
        }
        if let Some((owner, slice)) = read {
            let (owner, entry) = self.entry(owner);
            entry.put_slice(&key.1, slice);
            self.slice_owners.insert(key, Arc::clone(&owner));
            touched.insert(owner);
        }
    }

    fn remove(&mut self, name: ObjectName, touched: &mut Touched, changes: &mut Changes) {
        match name {
            ObjectName::Service(namespace, name) => {
                let (name, entry) = self.entry(ServiceName { namespace, name });
                entry.facts = None;
                entry.front = None;
                touched.insert(name);
            }
            ObjectName::EndpointSlice(namespace, name) => self.remove_slice(&(namespace, name), touched),
            ObjectName::Node(name) if name == self.node_name => {
                changes.node |= self.node.take().is_some();
                self.move_to_zone(None, touched);
            }
            ObjectName::Node(_) | ObjectName::File(_) => {}
            ObjectName::Pod(namespace, name) => remove(&mut self.pods, (namespace, name), &mut changes.pods),
            ObjectName::ConfigMap(namespace, name) => {
                remove(&mut self.config_maps, (namespace, name), &mut changes.config_maps);
            }
            ObjectName::Secret(namespace, name) => remove(&mut self.secrets, (namespace, name), &mut changes.secrets),
        }
    }

    /// Another zone makes other endpoints near: of the Services whose slices hint at zones.
    fn move_to_zone(&mut self, zone: Option<&String>, touched: &mut Touched) {
        if self.zone.as_ref() == zone {
            return;
        }
        self.zone = zone.cloned();
        let hinted = self.services.iter().filter(|(_, entry)| entry.slices().any(|slice| slice.has_zone_hints));
        touched.extend(hinted.map(|(name, _)| name.clone()));
    }

    fn remove_slice(&mut self, key: &Key, touched: &mut Touched) {
        let Some(owner) = self.slice_owners.remove(key) else { return };
        if let Some(entry) = self.services.get_mut(&owner) {
            entry.slices.retain(|(name, _)| **name != *key.1);
            touched.insert(owner);
        }
    }

    /// Joins a Service anew; true if that changed its form.
    fn rejoin(&mut self, name: &ServiceName) -> bool {
        let Some(entry) = self.services.get(name) else { return false };
        let joined = self.join(name, entry).map(|service| self.hasher.hash_one(service));
        let Some(entry) = self.services.get_mut(name) else { return false };
        let changed = std::mem::replace(&mut entry.joined, joined) != joined;
        if entry.facts.is_none() && entry.slices.is_empty() {
            self.services.remove(name);
        }
        changed
    }
}

/// What the variables of a Service tell, with its name.
fn facts<'a>(name: &'a ServiceName, entry: &'a Entry) -> Option<(&'a str, &'a Facts)> {
    Some((&name.name, entry.facts.as_ref()?))
}

/// A held snapshot with its next piece.
fn append(mut held: Update, piece: Update) -> Update {
    held.put.extend(piece.put);
    held.rejected.extend(piece.rejected);
    Update { first: held.first, put: held.put, rejected: held.rejected, ..piece }
}

fn put<T: PartialEq>(map: &mut BTreeMap<Key, Arc<T>>, key: Key, value: Box<T>, changed: &mut BTreeSet<Key>) {
    if map.get(&key).map(|old| &**old) != Some(&*value) {
        changed.insert(key.clone());
        map.insert(key, value.into());
    }
}

fn remove<T>(map: &mut BTreeMap<Key, Arc<T>>, key: Key, changed: &mut BTreeSet<Key>) {
    if map.remove(&key).is_some() {
        changed.insert(key);
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn key_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
