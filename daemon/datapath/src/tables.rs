//! User space's copy of the kernel's service tables, and the plan that takes them from one state to the next.
//!
//! A plan is a list of [`Step`]s: plain values that can be printed, applied to the kernel, or applied to a model in a
//! test. Its order carries the invariant `WHOLE`: endpoints, then slots nobody looks at yet, then the one word that
//! switches a group to them, then the service's key; removal goes the other way round. What a reader might still hold
//! (slots, endpoint ids, group ids) rests before it is used again.
//!
//! An endpoint's life, in `life`:
//!
//! ```text
//!            removed            drain over          rested
//! ACTIVE ────────────► DRAINING ──────────► GONE ─────────► free for another, under a new generation
//!    ▲                    │                  │
//!    └──── comes back ────┴─ comes back, new generation
//! ```

mod adopt;
mod ends;
mod life;
mod small;
mod space;
mod step;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_abi::{Backend, MemberKey, Range, ServiceValue};
use fairlead_source::ServiceName;
use ipnet::IpNet;
use rustc_hash::FxHashMap;

pub use adopt::Found;
pub use step::{Ended, Plan, Refusal, Set, Step};

use crate::desired::{Key, Label, Member, Want};
use crate::maglev;
use ends::{Ends, Ids};
use small::SmallMap;
use space::Space;
pub(crate) use step::{from_mapped, protocol_number, to_mapped};

/// How long anything rests between its last use and its next. A program runs for microseconds.
const REST: Duration = Duration::from_secs(5);

/// One port of a Service, of one family, in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    label: Label,
    keys: SmallMap<Key, u32>,
    backends: Ids,
    internal: Side,
    cluster: Side,
    ring: Side,
    affinity: u32,
    flags: u32,
    ranges: BTreeSet<IpNet>,
}

/// Slots and whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    range: Range,
    /// Ids, sorted by address, with their shares.
    members: Arc<[(u32, u16)]>,
    /// Digest of the slots, as long as nobody has said whose they are.
    adopted: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Resting {
    Slots(Range),
    Group(u32),
}

/// Capacities of the kernel's arrays.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Entries of `GROUPS`, and of `SERVICES` of each family.
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
    groups: FxHashMap<u32, Box<Group>>,
    keys: FxHashMap<Key, u32>,
    owners: FxHashMap<u32, Arc<ServiceName>>,
    owned: FxHashMap<Arc<ServiceName>, Vec<u32>>,
    backends: Ends,
    members: FxHashMap<MemberKey, u32>,
    /// Endpoints that left their group, by group and address: one that comes back gets its id back.
    left: FxHashMap<(u32, SocketAddr), u32>,
    /// Since when an endpoint that left is in its state.
    since: FxHashMap<u32, Instant>,
    /// In order of time. An entry whose time is not that of `since` counts no more.
    draining: VecDeque<(Instant, u32)>,
    gone: VecDeque<(Instant, u32)>,
    slots: Space,
    backend_ids: Space,
    group_ids: Space,
    resting: VecDeque<(Instant, Resting)>,
}

impl Tables {
    /// Empty tables.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            groups: FxHashMap::default(),
            keys: FxHashMap::default(),
            owners: FxHashMap::default(),
            owned: FxHashMap::default(),
            backends: Ends::default(),
            members: FxHashMap::default(),
            left: FxHashMap::default(),
            since: FxHashMap::default(),
            draining: VecDeque::new(),
            gone: VecDeque::new(),
            slots: Space::new(capacity.slots),
            backend_ids: Space::new(capacity.backends),
            group_ids: Space::new(capacity.services),
            resting: VecDeque::new(),
        }
    }

    /// What makes a service as wanted; nothing wanted removes it. A service refused for an address leaves the tables as
    /// they were; one for which a table is full goes as a whole rather than with some of its ports.
    pub fn plan(&mut self, service: &ServiceName, wants: &[Want], now: Instant) -> Plan {
        self.wake(now);
        let mut plan = Plan::default();
        let mut pairs = Vec::with_capacity(wants.len());
        for want in wants {
            match self.find(service, want, &pairs) {
                Ok(group) => pairs.push((group, want)),
                Err(refusal) => {
                    plan.refusal = Some(refusal);
                    return plan;
                }
            }
        }
        let keep: Vec<u32> = pairs.iter().filter_map(|(group, _)| *group).collect();
        let (name, had) = match self.owned.remove_entry(service) {
            Some((name, had)) => (name, had),
            None => (Arc::new(service.clone()), Vec::new()),
        };
        for group in had {
            if !keep.contains(&group) {
                self.drop_group(group, now, &mut plan);
            }
        }
        let mut owned = Vec::with_capacity(pairs.len());
        let put = pairs.into_iter().try_for_each(|(group, want)| {
            let group = match group {
                Some(group) => group,
                None => self.group_ids.take(1).ok_or(Refusal::Full("services"))?,
            };
            self.owners.insert(group, Arc::clone(&name));
            owned.push(group);
            self.put_group(group, want, now, &mut plan)
        });
        if put.is_err() {
            owned.drain(..).for_each(|group| self.drop_group(group, now, &mut plan));
        }
        if !owned.is_empty() {
            self.owned.insert(name, owned);
        }
        plan.refusal = put.err();
        plan
    }

    /// Services that have something in the tables.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.owned.keys().map(|name| &**name)
    }

    /// Whose a group is, and which of its ports.
    pub(crate) fn owner(&self, group: u32) -> Option<(&ServiceName, &Label)> {
        Some((&**self.owners.get(&group)?, &self.groups.get(&group)?.label))
    }

    /// The group that answers on an address, with the flags of the address.
    pub(crate) fn lookup(&self, key: &Key) -> Option<(u32, u32)> {
        let group = *self.keys.get(key)?;
        Some((group, *self.groups.get(&group)?.keys.get(key)?))
    }

    /// Endpoints of a group's set.
    pub(crate) fn set(&self, group: u32, set: Set) -> Vec<Member> {
        let side = self.groups.get(&group).map(|group| match set {
            Set::Internal => &group.internal,
            Set::Cluster => &group.cluster,
            Set::Ring => &group.ring,
        });
        let members = side.into_iter().flat_map(|side| side.members.iter());
        members.filter_map(|(id, share)| Some((self.backends.address(*id)?, *share))).collect()
    }

    /// Every endpoint of a group, those that drain included.
    pub(crate) fn endpoints(&self, group: u32) -> impl Iterator<Item = (SocketAddr, &Backend)> {
        let active = self.groups.get(&group).into_iter().flat_map(|group| group.backends.iter());
        let left = self.left.iter().filter(move |((of, _), _)| *of == group).map(|(_, id)| *id);
        active.chain(left).filter_map(|id| self.backend(id))
    }

    /// An endpoint by its id.
    pub(crate) fn backend(&self, id: u32) -> Option<(SocketAddr, &Backend)> {
        let backend = self.backends.get(id)?;
        Some((life::address(backend), backend))
    }

    /// Seconds of a group's affinity, its flags and its source ranges.
    pub(crate) fn settings(&self, group: u32) -> Option<(u32, u32, &BTreeSet<IpNet>)> {
        self.groups.get(&group).map(|group| (group.affinity, group.flags, &group.ranges))
    }

    /// Whether a client may use the group's keys with source ranges.
    pub(crate) fn is_allowed(&self, group: u32, client: IpAddr) -> bool {
        self.groups.get(&group).is_some_and(|group| group.ranges.iter().any(|net| net.contains(&client)))
    }

    /// The group of this port of the service, or else one that has one of these addresses already; refused if another
    /// service owns any of them.
    fn find(&self, service: &ServiceName, want: &Want, taken: &[(Option<u32>, &Want)]) -> Result<Option<u32>, Refusal> {
        let is_free = |group: &u32| !taken.iter().any(|(other, _)| *other == Some(*group));
        let owned = self.owned.get(service).map(Vec::as_slice).unwrap_or_default();
        let mut found = owned.iter().find(|group| self.groups[group].label == want.label && is_free(group)).copied();
        for (key, _) in &want.keys {
            let Some(group) = self.keys.get(key) else { continue };
            match self.owners.get(group) {
                Some(owner) if **owner != *service => {
                    return Err(Refusal::Taken { key: *key, owner: (**owner).clone() });
                }
                // Of another port of the same service, which has a label of its own.
                Some(_) => {}
                None if is_free(group) => found = found.or(Some(*group)),
                None => {}
            }
        }
        Ok(found)
    }

    fn put_group(&mut self, id: u32, want: &Want, now: Instant, plan: &mut Plan) -> Result<(), Refusal> {
        let is_new = !self.groups.contains_key(&id);
        let mut group = self.groups.remove(&id).unwrap_or_default();
        group.label = want.label.clone();
        let done = self.fill_group(id, &mut group, is_new, want, now, plan);
        self.groups.insert(id, group);
        done
    }

    fn fill_group(
        &mut self,
        id: u32,
        group: &mut Group,
        is_new: bool,
        want: &Want,
        now: Instant,
        plan: &mut Plan,
    ) -> Result<(), Refusal> {
        // What goes, goes first: it shall not see the set of those that stay.
        let gone: Vec<Key> =
            group.keys.keys().filter(|key| !want.keys.iter().any(|(wanted, _)| wanted == *key)).copied().collect();
        for key in gone {
            group.keys.remove(&key);
            self.drop_key(id, key, plan);
        }
        group
            .backends
            .grow_to([&want.internal, &want.cluster, &want.ring].map(Vec::len).into_iter().max().unwrap_or(0));
        for (address, _) in want.internal.iter().chain(&want.cluster).chain(&want.ring) {
            self.put_backend(id, group, *address, want, plan)?;
        }
        self.put_sets(id, group, is_new, want, now, plan)?;
        let flags = if want.has_endpoints { fairlead_abi::Group::HAS_ENDPOINTS } else { 0 };
        if is_new || (group.affinity, group.flags) != (want.affinity, flags) {
            (group.affinity, group.flags) = (want.affinity, flags);
            plan.steps.push(Step::Settings(id, want.affinity, flags));
        }
        // Whoever may come, may come before the address says that not everybody may; and the other way round.
        let ranges: BTreeSet<IpNet> = want.ranges.iter().copied().collect();
        let network = |net: &IpNet| step::range_key(id, net);
        plan.steps.extend(ranges.difference(&group.ranges).map(network).map(|(key, len)| Step::Allow(key, len)));
        for (key, flags) in &want.keys {
            if group.keys.get(key) != Some(flags) {
                self.put_key(id, group, *key, *flags, plan)?;
            }
        }
        plan.steps.extend(group.ranges.difference(&ranges).map(network).map(|(key, len)| Step::Deny(key, len)));
        group.ranges = ranges;
        let is_used = |address: &SocketAddr| {
            [&want.internal, &want.cluster, &want.ring]
                .iter()
                .any(|set| set.binary_search_by_key(address, |(member, _)| *member).is_ok())
        };
        let unused = group.backends.split_off(|id| self.backends.address(id).is_some_and(|address| is_used(&address)));
        for backend in unused {
            self.drain_backend(id, backend, now, plan);
        }
        Ok(())
    }

    /// Switches the three sets to what is wanted. Sets of the same members share their slots.
    fn put_sets(
        &mut self,
        id: u32,
        group: &mut Group,
        is_new: bool,
        want: &Want,
        now: Instant,
        plan: &mut Plan,
    ) -> Result<(), Refusal> {
        let old = [&group.internal, &group.cluster, &group.ring].map(|side| side.range);
        let internal = self.side(group, &want.internal, false, &[&group.internal, &group.cluster], plan)?;
        let cluster = self.side(group, &want.cluster, false, &[&internal, &group.cluster, &group.internal], plan)?;
        let ring = self.side(group, &want.ring, true, &[&group.ring], plan)?;
        for (set, side, old) in
            [(Set::Internal, &internal, old[0]), (Set::Cluster, &cluster, old[1]), (Set::Ring, &ring, old[2])]
        {
            if is_new || side.range != old {
                plan.steps.push(Step::Switch(id, set, side.range));
            }
        }
        let new = [internal.range, cluster.range, ring.range];
        for (place, range) in old.iter().enumerate() {
            if !new.contains(range) && !old[..place].contains(range) {
                self.rest(Resting::Slots(*range), now);
            }
        }
        (group.internal, group.cluster, group.ring) = (internal, cluster, ring);
        Ok(())
    }

    /// Slots for these members: those of one of the sides given, if they fit, else new ones.
    fn side(
        &mut self,
        group: &Group,
        members: &[Member],
        is_ring: bool,
        sides: &[&Side],
        plan: &mut Plan,
    ) -> Result<Side, Refusal> {
        let ids: Vec<(u32, u16)> = members
            .iter()
            .filter_map(|(address, share)| Some((group.backends.get(address, &self.backends)?, *share)))
            .collect();
        if let Some(same) = sides.iter().find(|side| side.adopted.is_none() && *side.members == *ids) {
            return Ok((*same).clone());
        }
        // Sets of the same members, in slots of their own, are one list.
        let same = [&group.internal, &group.cluster, &group.ring].into_iter().chain(sides.iter().copied());
        let known = same.map(|side| &side.members).find(|known| ***known == *ids);
        let known = known.map_or_else(|| Arc::from(&*ids), Arc::clone);
        let side = |range| Side { range, members: Arc::clone(&known), adopted: None };
        if members.is_empty() {
            return Ok(side(Range::default()));
        }
        // Where slots become scarce, a ring is a smaller one: less even, but there.
        let few = self.slots.room() < self.capacity.slots / 2;
        let best = maglev::ring_size(members.len());
        let small = maglev::small_ring_size(members.len());
        let mut sizes = match is_ring {
            false => vec![None],
            true if few => vec![Some(small), Some(best)],
            true => vec![Some(best), Some(small)],
        };
        // Another size would move everything, so it stays what it was.
        sizes.sort_by_key(|size| !sides.iter().any(|side| Some(side.range.len()) == *size));
        for size in sizes {
            let owners = size.map_or_else(|| maglev::list(members), |size| maglev::ring(members, size));
            let slots: Vec<u32> = owners.into_iter().map(|owner| known[owner as usize].0).collect();
            let digest = Some(adopt::digest(&slots));
            let is_same = |side: &&&Side| side.adopted == digest && side.range.len() as usize == slots.len();
            if let Some(same) = sides.iter().find(is_same) {
                return Ok(side(same.range));
            }
            let len = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            if let Some(start) = self.slots.take(len) {
                plan.steps.push(Step::Slots(start, slots));
                return Ok(side(Range::new(start, len)));
            }
        }
        Err(Refusal::Full("slots"))
    }

    fn put_key(&mut self, id: u32, group: &mut Group, key: Key, flags: u32, plan: &mut Plan) -> Result<(), Refusal> {
        let before = self.keys.get(&key).copied();
        if before.is_none() && self.keys.len() as u32 >= self.capacity.services {
            return Err(Refusal::Full("services"));
        }
        // Another port of the same service had it.
        if let Some(other) = before.filter(|other| *other != id).and_then(|other| self.groups.get_mut(&other)) {
            other.keys.remove(&key);
        }
        group.keys.insert(key, flags);
        self.keys.insert(key, id);
        plan.steps.push(Step::Put(key, ServiceValue { group: id, flags }));
        Ok(())
    }

    fn drop_key(&mut self, id: u32, key: Key, plan: &mut Plan) {
        if self.keys.get(&key) == Some(&id) {
            self.keys.remove(&key);
            plan.steps.push(Step::Drop(key));
        }
    }

    fn drop_group(&mut self, id: u32, now: Instant, plan: &mut Plan) {
        self.owners.remove(&id);
        if let Some(group) = self.groups.remove(&id) {
            for key in group.keys.keys() {
                self.drop_key(id, *key, plan);
            }
            plan.steps
                .extend([Set::Internal, Set::Cluster, Set::Ring].map(|set| Step::Switch(id, set, Range::default())));
            plan.steps.push(Step::Settings(id, 0, 0));
            plan.steps
                .extend(group.ranges.iter().map(|net| step::range_key(id, net)).map(|(key, len)| Step::Deny(key, len)));
            for backend in group.backends.iter() {
                self.drain_backend(id, backend, now, plan);
            }
            self.rest(Resting::Slots(group.internal.range), now);
            if group.cluster.range != group.internal.range {
                self.rest(Resting::Slots(group.cluster.range), now);
            }
            self.rest(Resting::Slots(group.ring.range), now);
        }
        self.rest(Resting::Group(id), now);
    }

    fn rest(&mut self, what: Resting, now: Instant) {
        if !matches!(what, Resting::Slots(range) if range.is_empty()) {
            self.resting.push_back((now, what));
        }
    }

    /// Frees slots and groups that have rested long enough.
    fn wake(&mut self, now: Instant) {
        while let Some((since, what)) = self.resting.front().copied()
            && now.duration_since(since) >= REST
        {
            self.resting.pop_front();
            match what {
                Resting::Slots(range) => self.slots.give(range.start(), range.len()),
                Resting::Group(id) => self.group_ids.give(id, 1),
            }
        }
    }
}
