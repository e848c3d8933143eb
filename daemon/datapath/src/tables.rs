//! User space's copy of the kernel's service tables, and the plan that takes them from one state to the next.
//!
//! A plan is a list of [`Step`]s: plain values that can be printed, applied to the kernel, or applied to a model in a
//! test. Its order carries the invariant `WHOLE`: endpoints, then slots nobody looks at yet, then the one word that
//! switches a group to them, then the service's key; removal goes the other way round. What a reader might still hold
//! (slots, endpoint ids, group ids) rests before it is used again.

mod space;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use fairlead_abi::{Backend, Range, ServiceKey, ServiceValue};
use fairlead_source::ServiceName;
use rustc_hash::FxHashMap;

use crate::desired::Want;
use crate::maglev;
use space::Space;

/// How long anything rests between its last use and its next. A program runs for microseconds.
const REST: Duration = Duration::from_secs(5);

/// One write to the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write an endpoint.
    Backend(u32, Backend),
    /// Write slots from an index on.
    Slots(u32, Vec<u32>),
    /// Switch a group's plain list.
    List(u32, Range),
    /// Switch a group's ring.
    Ring(u32, Range),
    /// Let an address answer.
    Put(ServiceKey, ServiceValue),
    /// Let it answer no more.
    Drop(ServiceKey),
}

/// Why a service was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Two services want one address.
    #[error("{}:{} (protocol {}) already belongs to {owner}", addr(.key), port(.key), .key.proto)]
    Taken {
        /// The address.
        key: ServiceKey,
        /// Who has it.
        owner: ServiceName,
    },
    /// A table is full.
    #[error("the table of {0} is full (raise its capacity)")]
    Full(&'static str),
}

fn addr(key: &ServiceKey) -> std::net::Ipv4Addr {
    key.addr.into()
}

fn port(key: &ServiceKey) -> u16 {
    u16::from_be_bytes(key.port)
}

/// One port of a Service in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    keys: BTreeMap<ServiceKey, u32>,
    backends: BTreeMap<SocketAddrV4, u32>,
    list: Side,
    ring: Side,
}

/// Slots and whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    range: Range,
    members: Vec<SocketAddrV4>,
}

#[derive(Clone, Copy, Debug)]
enum Resting {
    Slots(Range),
    Backend(u32),
    Group(u32),
}

/// Capacities of the kernel's arrays.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Entries of `SERVICES` and `GROUPS`.
    pub services: u32,
    /// Entries of `BACKENDS`.
    pub backends: u32,
    /// Entries of `SLOTS`.
    pub slots: u32,
}

/// What the kernel's tables hold.
#[derive(Debug)]
pub struct Tables {
    capacity: Capacity,
    groups: BTreeMap<u32, Group>,
    keys: FxHashMap<ServiceKey, u32>,
    owners: FxHashMap<u32, ServiceName>,
    owned: FxHashMap<ServiceName, Vec<u32>>,
    /// The last content of every endpoint id that was ever used.
    backends: FxHashMap<u32, Backend>,
    /// Endpoints that left their group and rest, by group and address: one that comes back gets its id back.
    left: FxHashMap<(u32, SocketAddrV4), u32>,
    slots: Space,
    backend_ids: Space,
    group_ids: Space,
    resting: Vec<(Instant, Resting)>,
}

impl Tables {
    /// Empty tables.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            groups: BTreeMap::new(),
            keys: FxHashMap::default(),
            owners: FxHashMap::default(),
            owned: FxHashMap::default(),
            backends: FxHashMap::default(),
            left: FxHashMap::default(),
            slots: Space::new(capacity.slots),
            backend_ids: Space::new(capacity.backends),
            group_ids: Space::new(capacity.services),
            resting: Vec::new(),
        }
    }

    /// The tables as an earlier daemon left them. Nobody owns a group yet; a service that wants one of its addresses
    /// takes it over, and [`Tables::plan_orphans`] removes the rest.
    pub fn adopt(
        capacity: Capacity,
        keys: impl IntoIterator<Item = (ServiceKey, ServiceValue)>,
        group: impl Fn(u32) -> (Range, Range),
        slot: impl Fn(u32) -> u32,
        backend: impl Fn(u32) -> Backend,
    ) -> Self {
        let mut tables = Self::new(capacity);
        for id in 0..capacity.backends {
            let entry = backend(id);
            if entry.state() != Backend::FREE {
                tables.backends.insert(id, entry);
            }
        }
        for (key, value) in keys {
            tables.keys.insert(key, value.group);
            tables.groups.entry(value.group).or_default().keys.insert(key, value.flags);
        }
        for (id, entry) in &mut tables.groups {
            tables.group_ids.take_exact(*id, 1);
            let (list, ring) = group(*id);
            for (side, range) in [(&mut entry.list, list), (&mut entry.ring, ring)] {
                tables.slots.take_exact(range.start(), range.len());
                side.range = range;
                for place in 0..range.len() {
                    let backend_id = slot(range.start() + place);
                    let backend = backend(backend_id);
                    let address = SocketAddrV4::new(backend.addr.into(), u16::from_be_bytes(backend.port));
                    if entry.backends.insert(address, backend_id).is_none() {
                        tables.backend_ids.take_exact(backend_id, 1);
                    }
                    side.members.push(address);
                }
                side.members.sort_unstable();
                side.members.dedup();
            }
        }
        tables
    }

    /// Steps that make a service as wanted; none wanted removes it. A service refused for an address leaves the tables
    /// as they were; one for which a table is full goes as a whole rather than with some of its ports.
    pub fn plan(&mut self, service: &ServiceName, wants: &[Want], now: Instant) -> (Vec<Step>, Option<Refusal>) {
        self.wake(now);
        let mut pairs = Vec::with_capacity(wants.len());
        for want in wants {
            match self.find(service, want, &pairs) {
                Ok(group) => pairs.push((group, want)),
                Err(refusal) => return (Vec::new(), Some(refusal)),
            }
        }
        let keep: Vec<u32> = pairs.iter().filter_map(|(group, _)| *group).collect();
        let mut steps = Vec::new();
        for group in self.owned.remove(service).unwrap_or_default() {
            if !keep.contains(&group) {
                self.drop_group(group, now, &mut steps);
            }
        }
        let mut owned = Vec::with_capacity(pairs.len());
        let put = pairs.into_iter().try_for_each(|(group, want)| {
            let group = match group {
                Some(group) => group,
                None => self.group_ids.take(1).ok_or(Refusal::Full("services"))?,
            };
            self.owners.insert(group, service.clone());
            owned.push(group);
            self.put_group(group, want, now, &mut steps)
        });
        if put.is_err() {
            owned.drain(..).for_each(|group| self.drop_group(group, now, &mut steps));
        }
        if !owned.is_empty() {
            self.owned.insert(service.clone(), owned);
        }
        (steps, put.err())
    }

    /// Steps that remove what nobody has claimed since the tables were adopted.
    pub fn plan_orphans(&mut self, now: Instant) -> Vec<Step> {
        let orphans: Vec<u32> = self.groups.keys().copied().filter(|group| !self.owners.contains_key(group)).collect();
        let mut steps = Vec::new();
        for group in orphans {
            self.drop_group(group, now, &mut steps);
        }
        steps
    }

    /// Services that have something in the tables.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.owned.keys()
    }

    /// The group that has one of these addresses already, unless another service owns it.
    fn find(&self, service: &ServiceName, want: &Want, taken: &[(Option<u32>, &Want)]) -> Result<Option<u32>, Refusal> {
        let mut found = None;
        for (key, _) in &want.keys {
            let Some(group) = self.keys.get(key) else { continue };
            match self.owners.get(group) {
                Some(owner) if owner != service => {
                    return Err(Refusal::Taken { key: *key, owner: owner.clone() });
                }
                _ if taken.iter().any(|(other, _)| *other == Some(*group)) => {}
                _ => found = found.or(Some(*group)),
            }
        }
        Ok(found)
    }

    fn put_group(&mut self, id: u32, want: &Want, now: Instant, steps: &mut Vec<Step>) -> Result<(), Refusal> {
        let mut group = self.groups.remove(&id).unwrap_or_default();
        let ring = want.ring.as_deref().unwrap_or_default();
        let done = self.put_members(id, &mut group, &want.list, ring, want, now, steps);
        self.groups.insert(id, group);
        done
    }

    #[allow(clippy::too_many_arguments, reason = "one step of put_group, split off for its early return")]
    fn put_members(
        &mut self,
        id: u32,
        group: &mut Group,
        list: &[SocketAddrV4],
        ring: &[SocketAddrV4],
        want: &Want,
        now: Instant,
        steps: &mut Vec<Step>,
    ) -> Result<(), Refusal> {
        // What goes, goes first: it shall not see the set of those that stay.
        let gone: Vec<ServiceKey> =
            group.keys.keys().filter(|key| !want.keys.iter().any(|(wanted, _)| wanted == *key)).copied().collect();
        for key in gone {
            group.keys.remove(&key);
            self.keys.remove(&key);
            steps.push(Step::Drop(key));
        }
        let proto = want.keys.first().map_or(0, |(key, _)| key.proto);
        for address in list.iter().chain(ring) {
            if !group.backends.contains_key(address) {
                let backend_id = self.put_backend(id, *address, proto, steps)?;
                group.backends.insert(*address, backend_id);
            }
        }
        if group.list.members != list {
            let ids: Vec<u32> = list.iter().map(|address| group.backends[address]).collect();
            let range = self.put_slots(ids, steps)?;
            steps.push(Step::List(id, range));
            self.rest(Resting::Slots(group.list.range), now);
            group.list = Side { range, members: list.to_vec() };
        }
        if group.ring.members != ring {
            let ids: Vec<u32> =
                maglev::ring(ring).into_iter().map(|owner| group.backends[&ring[owner as usize]]).collect();
            let range = self.put_slots(ids, steps)?;
            steps.push(Step::Ring(id, range));
            self.rest(Resting::Slots(group.ring.range), now);
            group.ring = Side { range, members: ring.to_vec() };
        }
        for (key, flags) in &want.keys {
            if group.keys.get(key) != Some(flags) {
                if self.keys.len() as u32 >= self.capacity.services && !self.keys.contains_key(key) {
                    return Err(Refusal::Full("services"));
                }
                group.keys.insert(*key, *flags);
                self.keys.insert(*key, id);
                steps.push(Step::Put(*key, ServiceValue { group: id, flags: *flags }));
            }
        }
        let unused: Vec<SocketAddrV4> = group
            .backends
            .keys()
            .filter(|address| list.binary_search(address).is_err() && ring.binary_search(address).is_err())
            .copied()
            .collect();
        for address in unused {
            if let Some(backend_id) = group.backends.remove(&address) {
                self.drain_backend(id, address, backend_id, now, steps);
            }
        }
        Ok(())
    }

    fn drop_group(&mut self, id: u32, now: Instant, steps: &mut Vec<Step>) {
        self.owners.remove(&id);
        let Some(group) = self.groups.remove(&id) else {
            self.rest(Resting::Group(id), now);
            return;
        };
        for key in group.keys.keys() {
            self.keys.remove(key);
            steps.push(Step::Drop(*key));
        }
        steps.push(Step::List(id, Range::default()));
        steps.push(Step::Ring(id, Range::default()));
        for (address, backend_id) in group.backends {
            self.drain_backend(id, address, backend_id, now, steps);
        }
        self.rest(Resting::Slots(group.list.range), now);
        self.rest(Resting::Slots(group.ring.range), now);
        self.rest(Resting::Group(id), now);
    }

    fn put_backend(
        &mut self,
        group: u32,
        address: SocketAddrV4,
        proto: u8,
        steps: &mut Vec<Step>,
    ) -> Result<u32, Refusal> {
        let (id, generation) = match self.left.remove(&(group, address)) {
            // It comes back before anybody else took its place: flows that were going there go on.
            Some(id) => {
                self.resting.retain(|(_, resting)| !matches!(resting, Resting::Backend(other) if *other == id));
                (id, self.backends[&id].generation())
            }
            None => {
                let id = self.backend_ids.take(1).ok_or(Refusal::Full("endpoints"))?;
                (id, self.backends.get(&id).map_or(1, |old| (old.generation() + 1) & 0x00ff_ffff))
            }
        };
        let backend = Backend {
            addr: address.ip().octets(),
            port: address.port().to_be_bytes(),
            proto,
            pad: 0,
            life: Backend::life(generation, Backend::ACTIVE),
            group,
        };
        self.backends.insert(id, backend);
        steps.push(Step::Backend(id, backend));
        Ok(id)
    }

    fn drain_backend(&mut self, group: u32, address: SocketAddrV4, id: u32, now: Instant, steps: &mut Vec<Step>) {
        if let Some(backend) = self.backends.get_mut(&id) {
            backend.life = Backend::life(backend.generation(), Backend::DRAINING);
            steps.push(Step::Backend(id, *backend));
        }
        self.left.insert((group, address), id);
        self.rest(Resting::Backend(id), now);
    }

    fn put_slots(&mut self, ids: Vec<u32>, steps: &mut Vec<Step>) -> Result<Range, Refusal> {
        let len = u32::try_from(ids.len()).map_err(|_| Refusal::Full("slots"))?;
        if len == 0 {
            return Ok(Range::default());
        }
        let start = self.slots.take(len).ok_or(Refusal::Full("slots"))?;
        steps.push(Step::Slots(start, ids));
        Ok(Range::new(start, len))
    }

    fn rest(&mut self, what: Resting, now: Instant) {
        if !matches!(what, Resting::Slots(range) if range.is_empty()) {
            self.resting.push((now, what));
        }
    }

    /// Frees what has rested long enough. The list is in order of time.
    fn wake(&mut self, now: Instant) {
        let awake = self.resting.partition_point(|(since, _)| now.duration_since(*since) >= REST);
        for (_, what) in self.resting.drain(..awake) {
            match what {
                Resting::Slots(range) => self.slots.give(range.start(), range.len()),
                Resting::Group(id) => self.group_ids.give(id, 1),
                Resting::Backend(id) => {
                    self.left.retain(|_, other| *other != id);
                    self.backend_ids.give(id, 1);
                }
            }
        }
    }
}
