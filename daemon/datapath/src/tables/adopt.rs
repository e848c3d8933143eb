//! Tables as an earlier daemon left them, wherever it was interrupted.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Instant;

use fairlead_abi::{Backend, MemberKey, RangeKey, ServiceValue};
use ipnet::IpNet;
use rustc_hash::FxHasher;

use super::{Capacity, Plan, Side, Tables, from_mapped, life};
use crate::desired::Key;

/// Entries of the kernel's hash tables and tries.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// `SERVICES4` and `SERVICES6`.
    pub keys: Vec<(Key, ServiceValue)>,
    /// `MEMBERS`.
    pub members: Vec<(MemberKey, u32)>,
    /// `RANGES`, with their prefix lengths.
    pub ranges: Vec<(RangeKey, u32)>,
}

impl Tables {
    /// The tables as found. Nobody owns a group yet; a service that wants one of its addresses takes it over, and
    /// [`Tables::plan_orphans`] removes the rest. Endpoints that no set names drain from now on.
    pub fn adopt(
        capacity: Capacity,
        found: Found,
        group: impl Fn(u32) -> fairlead_abi::Group,
        slot: impl Fn(u32) -> u32,
        backend: impl Fn(u32) -> Backend,
        now: Instant,
    ) -> Self {
        let mut tables = Self::new(capacity);
        for id in 0..capacity.backends {
            let entry = backend(id);
            if entry.state() != Backend::FREE {
                tables.backends.insert(id, entry);
            }
        }
        for (key, value) in found.keys {
            tables.keys.insert(key, value.group);
            tables.groups.entry(value.group).or_default().keys.insert(key, value.flags);
        }
        tables.members = found.members.into_iter().collect();
        for (key, len) in found.ranges {
            let Some(entry) = tables.groups.get_mut(&u32::from_be_bytes(key.group)) else { continue };
            let addr = from_mapped(key.addr);
            let bits = len.saturating_sub(if addr.is_ipv4() { 128 } else { 32 });
            entry.ranges.extend(u8::try_from(bits).ok().and_then(|bits| IpNet::new(addr, bits).ok()));
        }
        for (id, entry) in &mut tables.groups {
            tables.group_ids.take_exact(*id, 1);
            let words = group(*id);
            (entry.affinity, entry.flags) = (words.affinity, words.flags);
            for (side, range) in [
                (&mut entry.internal, words.internal),
                (&mut entry.cluster, words.cluster),
                (&mut entry.ring, words.ring),
            ] {
                tables.slots.take_exact(range.start(), range.len());
                let ids: Vec<u32> = (0..range.len()).map(|place| slot(range.start() + place)).collect();
                for backend in &ids {
                    if entry.backends.insert(*backend, &tables.backends) {
                        tables.backend_ids.take_exact(*backend, 1);
                    }
                }
                *side = Side { range, members: Arc::default(), adopted: (!range.is_empty()).then(|| digest(&ids)) };
            }
        }
        tables.adopt_left(now);
        tables
    }

    fn adopt_left(&mut self, now: Instant) {
        let left: Vec<(u32, Backend)> = self.backends.iter().map(|(id, backend)| (id, *backend)).collect();
        for (id, backend) in left {
            let address = life::address(&backend);
            if self.groups.get(&backend.group).and_then(|group| group.backends.get(&address, &self.backends))
                == Some(id)
            {
                continue;
            }
            self.backend_ids.take_exact(id, 1);
            self.left.insert((backend.group, address), id);
            self.since.insert(id, now);
            match backend.state() {
                Backend::GONE => self.gone.push_back((now, id)),
                _ => self.draining.push_back((now, id)),
            }
        }
    }

    /// What removes what nobody has claimed since the tables were adopted.
    pub fn plan_orphans(&mut self, now: Instant) -> Plan {
        let mut orphans: Vec<u32> =
            self.groups.keys().copied().filter(|group| !self.owners.contains_key(group)).collect();
        orphans.sort_unstable();
        let mut plan = Plan::default();
        for group in orphans {
            self.drop_group(group, now, &mut plan);
        }
        plan
    }
}

/// Of slots, to compare them with others without keeping them.
pub(super) fn digest(ids: &[u32]) -> u64 {
    let mut hasher = FxHasher::default();
    ids.iter().for_each(|id| hasher.write_u32(*id));
    hasher.finish()
}
