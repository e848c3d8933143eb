//! The kernel's side of the tables: pinned maps, opened by name, and the steps carried out on them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use aya::Pod as Plain;
use aya::maps::lpm_trie::{Key as TrieKey, LpmTrie};
use aya::maps::{HashMap, IterableMap, Map, MapData, MapError, PerCpuArray};
use fairlead_abi::{
    AffinityKey, AffinityValue, Backend, Counter, Group, MemberKey, Pod, Range, RangeKey, ServiceKey, ServiceValue,
    SourcePool, Trace, V4, V6, map,
};

use crate::desired::Key;
use crate::error::DatapathError;
use crate::flows::Flows;
use crate::sys::{MappedWords, update_batch};
use crate::tables::{Capacity, Found, Set, Step, Tables};

/// Words of a [`Group`] and of a [`Backend`]. Slots take one each: the kernel pads entries to eight bytes.
const GROUP_WORDS: usize = size_of::<Group>() / 8;
pub(crate) const BACKEND_WORDS: usize = size_of::<Backend>() / 8;
/// Which word of a [`Backend`] ends in its life, and which begins with its group and ends in what hooks note of it.
pub(crate) const LIFE_WORD: usize = 2;
pub(crate) const GROUP_WORD: usize = 3;

/// The maps user space reads and writes.
pub(crate) struct Kernel {
    capacity: Capacity,
    services4: HashMap<MapData, ServiceKey<V4>, ServiceValue>,
    services6: HashMap<MapData, ServiceKey<V6>, ServiceValue>,
    members: HashMap<MapData, MemberKey, u32>,
    ranges: LpmTrie<MapData, RangeKey, u32>,
    netns: HashMap<MapData, u64, Pod>,
    pods: HashMap<MapData, V6, Pod>,
    uplinks: HashMap<MapData, u32, SourcePool>,
    affinity: HashMap<MapData, AffinityKey, AffinityValue>,
    counters: PerCpuArray<MapData, u64>,
    trace: PerCpuArray<MapData, Trace>,
    groups: MappedWords,
    slots: MappedWords,
    backends: MappedWords,
    flows4: Flows,
    flows6: Flows,
    /// Addresses that are to answer, gathered for one system call; nothing while each is to answer at once.
    gathered: Option<Gathered>,
    /// System calls made so far to carry out steps.
    pub(crate) calls: usize,
}

/// Entries for the tables of services, of each family.
#[derive(Debug, Default)]
struct Gathered {
    v4: (Vec<ServiceKey<V4>>, Vec<ServiceValue>),
    v6: (Vec<ServiceKey<V6>>, Vec<ServiceValue>),
}

/// Entries written by one system call.
const BATCH: usize = 4096;

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Opens the maps pinned in this directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, DatapathError> {
        let (groups, services_len) = words(dir, map::GROUPS, GROUP_WORDS)?;
        let (slots, slots_len) = words(dir, map::SLOTS, 1)?;
        let (backends, backends_len) = words(dir, map::BACKENDS, BACKEND_WORDS)?;
        Ok(Self {
            capacity: Capacity { services: services_len, backends: backends_len, slots: slots_len },
            services4: typed(dir, map::SERVICES4)?,
            services6: typed(dir, map::SERVICES6)?,
            members: typed(dir, map::MEMBERS)?,
            ranges: typed(dir, map::RANGES)?,
            netns: typed(dir, map::NETNS)?,
            pods: typed(dir, map::PODS)?,
            uplinks: typed(dir, map::UPLINKS)?,
            affinity: typed(dir, map::AFFINITY)?,
            counters: typed(dir, map::COUNTERS)?,
            trace: typed(dir, map::TRACE)?,
            groups,
            slots,
            backends,
            flows4: Flows::open::<V4>(dir, map::FLOWS4)?,
            flows6: Flows::open::<V6>(dir, map::FLOWS6)?,
            gathered: None,
            calls: 0,
        })
    }

    /// What the tables hold now.
    pub(crate) fn tables(&self) -> Result<Tables, DatapathError> {
        let mut found = Found::default();
        for entry in self.services4.iter() {
            let (key, value) = entry.map_err(failed(map::SERVICES4))?;
            found.keys.push((Key::V4(key), value));
        }
        for entry in self.services6.iter() {
            let (key, value) = entry.map_err(failed(map::SERVICES6))?;
            found.keys.push((Key::V6(key), value));
        }
        for entry in self.members.iter() {
            found.members.push(entry.map_err(failed(map::MEMBERS))?);
        }
        for entry in self.ranges.keys() {
            let key = entry.map_err(failed(map::RANGES))?;
            found.ranges.push((key.data(), key.prefix_len()));
        }
        Ok(Tables::adopt(
            self.capacity,
            found,
            |id| self.group(id),
            |slot| self.slots.load(slot as usize) as u32,
            |id| {
                let word = id as usize * BACKEND_WORDS;
                backend_from([0, 1, 2, 3].map(|place| self.backends.load(word + place)))
            },
            Instant::now(),
        ))
    }

    fn group(&self, id: u32) -> Group {
        let word = id as usize * GROUP_WORDS;
        let [internal, cluster, ring, settings] = [0, 1, 2, 3].map(|place| self.groups.load(word + place));
        Group {
            internal: Range(internal),
            cluster: Range(cluster),
            ring: Range(ring),
            affinity: settings as u32,
            flags: (settings >> 32) as u32,
        }
    }

    /// From now on addresses answer only after [`Kernel::flush`], or before the next step that takes something away: many
    /// at once cost a third of what they do one by one.
    pub(crate) fn gather(&mut self) {
        self.gathered.get_or_insert_default();
    }

    /// Lets gathered addresses answer, and from now on each at once.
    pub(crate) fn flush(&mut self) -> Result<(), DatapathError> {
        let Some(gathered) = self.gathered.take() else { return Ok(()) };
        self.calls += put_all(&mut self.services4, &gathered.v4).map_err(failed(map::SERVICES4))?;
        self.calls += put_all(&mut self.services6, &gathered.v6).map_err(failed(map::SERVICES6))?;
        Ok(())
    }

    /// Carries out one step.
    pub(crate) fn apply(&mut self, step: &Step) -> Result<(), DatapathError> {
        match step {
            Step::Backend(id, backend) => {
                let word = *id as usize * BACKEND_WORDS;
                let words = backend_words(backend);
                // Beside the group stands what the hooks note: it is left alone while that is the same, and of another
                // generation when it is not.
                if self.backends.load(word + GROUP_WORD) as u32 != backend.group {
                    self.backends.store(word + GROUP_WORD, words[GROUP_WORD]);
                }
                // The life last: whoever finds it finds the rest.
                for place in [0, 1, LIFE_WORD] {
                    self.backends.store(word + place, words[place]);
                }
                return Ok(());
            }
            Step::Slots(start, ids) => {
                for (slot, id) in (*start as usize..).zip(ids) {
                    self.slots.store(slot, u64::from(*id));
                }
                return Ok(());
            }
            Step::Switch(group, set, range) => {
                let place = match set {
                    Set::Internal => 0,
                    Set::Cluster => 1,
                    Set::Ring => 2,
                };
                self.groups.store(*group as usize * GROUP_WORDS + place, range.0);
                return Ok(());
            }
            Step::Settings(group, affinity, flags) => {
                let word = u64::from(*affinity) | u64::from(*flags) << 32;
                self.groups.store(*group as usize * GROUP_WORDS + 3, word);
                return Ok(());
            }
            Step::Put(key, value) if self.gathered.is_some() => {
                match (self.gathered.get_or_insert_default(), key) {
                    (Gathered { v4, .. }, Key::V4(key)) => (v4.0.push(*key), v4.1.push(*value)),
                    (Gathered { v6, .. }, Key::V6(key)) => (v6.0.push(*key), v6.1.push(*value)),
                };
                return Ok(());
            }
            // What comes later may take back what was gathered, or must find it in force.
            Step::Drop(_) | Step::Deny(..) if self.gathered.is_some() => {
                self.flush()?;
                self.gather();
                self.calls += 1;
            }
            _ => self.calls += 1,
        }
        match step {
            Step::Allow(key, len) => {
                self.ranges.insert(&TrieKey::new(*len, *key), 1, 0).map_err(failed(map::RANGES))?;
            }
            Step::Deny(key, len) => {
                absent_is_fine(self.ranges.remove(&TrieKey::new(*len, *key))).map_err(failed(map::RANGES))?;
            }
            Step::Join(key, id) => self.members.insert(key, id, 0).map_err(failed(map::MEMBERS))?,
            Step::Leave(key) => absent_is_fine(self.members.remove(key)).map_err(failed(map::MEMBERS))?,
            Step::Put(Key::V4(key), value) => {
                self.services4.insert(key, value, 0).map_err(failed(map::SERVICES4))?;
            }
            Step::Put(Key::V6(key), value) => {
                self.services6.insert(key, value, 0).map_err(failed(map::SERVICES6))?;
            }
            Step::Drop(Key::V4(key)) => {
                absent_is_fine(self.services4.remove(key)).map_err(failed(map::SERVICES4))?;
            }
            Step::Drop(Key::V6(key)) => {
                absent_is_fine(self.services6.remove(key)).map_err(failed(map::SERVICES6))?;
            }
            Step::Backend(..) | Step::Slots(..) | Step::Switch(..) | Step::Settings(..) => {}
        }
        Ok(())
    }

    /// Lets the sockets of a pod's network namespace be translated.
    pub(crate) fn put_netns(&mut self, cookie: u64, pod: &Pod) -> Result<(), DatapathError> {
        self.netns.insert(cookie, pod, 0).map_err(failed(map::NETNS))
    }

    /// Lets them be.
    pub(crate) fn drop_netns(&mut self, cookie: u64) -> Result<(), DatapathError> {
        absent_is_fine(self.netns.remove(&cookie)).map_err(failed(map::NETNS))
    }

    /// Network namespaces whose sockets are translated.
    pub(crate) fn netns(&self) -> Result<Vec<u64>, DatapathError> {
        self.netns.keys().collect::<Result<_, _>>().map_err(failed(map::NETNS))
    }

    /// Tells where the pod of an address is.
    pub(crate) fn put_pod(&mut self, address: V6, pod: &Pod) -> Result<(), DatapathError> {
        self.pods.insert(address, pod, 0).map_err(failed(map::PODS))
    }

    /// No longer does.
    pub(crate) fn drop_pod(&mut self, address: V6) -> Result<(), DatapathError> {
        absent_is_fine(self.pods.remove(&address)).map_err(failed(map::PODS))
    }

    /// Addresses of pods that are known.
    pub(crate) fn pods(&self) -> Result<Vec<V6>, DatapathError> {
        self.pods.keys().collect::<Result<_, _>>().map_err(failed(map::PODS))
    }

    /// Gives flows that leave by this interface these addresses.
    pub(crate) fn put_uplink(&mut self, ifindex: u32, pool: &SourcePool) -> Result<(), DatapathError> {
        self.uplinks.insert(ifindex, pool, 0).map_err(failed(map::UPLINKS))
    }

    /// No longer does.
    pub(crate) fn drop_uplink(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        absent_is_fine(self.uplinks.remove(&ifindex)).map_err(failed(map::UPLINKS))
    }

    /// Interfaces that flows leave by.
    pub(crate) fn uplinks(&self) -> Result<Vec<u32>, DatapathError> {
        self.uplinks.keys().collect::<Result<_, _>>().map_err(failed(map::UPLINKS))
    }

    /// Verdicts, summed over CPUs.
    pub(crate) fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values = self.counters.get(&(*counter as u32), 0).map_err(failed(map::COUNTERS))?;
                Ok((counter.name(), values.iter().sum()))
            })
            .collect()
    }

    /// Empties the record of the `explain_*` programs.
    pub(crate) fn clear_trace(&mut self) -> Result<(), DatapathError> {
        let empty = self.trace.get(&0, 0).map_err(failed(map::TRACE))?;
        let cleared: Vec<Trace> = empty.iter().map(|trace| Trace { steps: 0, counter: u32::MAX, ..*trace }).collect();
        let cleared = aya::maps::PerCpuValues::try_from(cleared).map_err(|source| DatapathError::Io {
            action: "clear",
            path: map::TRACE.into(),
            source,
        })?;
        self.trace.set(0, cleared, 0).map_err(failed(map::TRACE))
    }

    /// The record of the CPU on which an `explain_*` program ran since it was emptied.
    pub(crate) fn trace(&self) -> Result<Option<Trace>, DatapathError> {
        let values = self.trace.get(&0, 0).map_err(failed(map::TRACE))?;
        Ok(values.iter().find(|trace| trace.steps != 0).copied())
    }

    /// What is remembered of a client of a group.
    pub(crate) fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.get(key, 0).ok()
    }

    /// Flows of IPv4 and IPv6 in the tables.
    pub(crate) fn flows(&self) -> (usize, usize) {
        (self.flows4.count(), self.flows6.count())
    }
}

/// Puts entries into a table, many by one system call where the kernel can do that (5.6); returns the number of calls.
fn put_all<K: Plain, V: Plain>(
    table: &mut HashMap<MapData, K, V>,
    (keys, values): &(Vec<K>, Vec<V>),
) -> Result<usize, MapError> {
    let mut calls = 0;
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        calls += 1;
        if update_batch(table.map().fd().as_fd(), keys, values).is_ok() {
            continue;
        }
        // The kernel cannot, or refused an entry: one by one it says which, and why.
        for (key, value) in keys.iter().zip(values) {
            calls += 1;
            table.insert(key, value, 0)?;
        }
    }
    Ok(calls)
}

pub(crate) fn failed(map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source: Box::new(source) }
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn pinned(dir: &Path, name: &'static str) -> Result<MapData, DatapathError> {
    MapData::from_pin(dir.join(name)).map_err(failed(name))
}

pub(crate) fn typed<M>(dir: &Path, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    Map::from_map_data(pinned(dir, name)?).and_then(M::try_from).map_err(failed(name))
}

/// A mapped array and its number of entries.
pub(crate) fn words(dir: &Path, name: &'static str, per_entry: usize) -> Result<(MappedWords, u32), DatapathError> {
    let data = pinned(dir, name)?;
    let entries = data.info().map_err(failed(name))?.max_entries();
    let words = MappedWords::new(data.fd().as_fd(), entries as usize * per_entry)
        .map_err(|source| DatapathError::Io { action: "map the BPF array", path: dir.join(name), source })?;
    Ok((words, entries))
}

/// The address never changes while anybody looks. Life, port and flags are one word, so they change together.
fn backend_words(backend: &Backend) -> [u64; BACKEND_WORDS] {
    let (high, low) = halves(&backend.addr);
    let [p, q] = backend.port;
    let [a, b, c, d] = backend.life.to_ne_bytes();
    let life = u64::from_ne_bytes([p, q, backend.proto, backend.flags, a, b, c, d]);
    [high, low, life, u64::from(backend.group)]
}

pub(crate) fn halves(addr: &V6) -> (u64, u64) {
    let (mut high, mut low) = ([0; 8], [0; 8]);
    high.copy_from_slice(&addr[..8]);
    low.copy_from_slice(&addr[8..]);
    (u64::from_ne_bytes(high), u64::from_ne_bytes(low))
}

/// What user space keeps of an endpoint: without what the hooks note of it.
fn backend_from([high, low, life, group]: [u64; BACKEND_WORDS]) -> Backend {
    let mut addr = [0; 16];
    addr[..8].copy_from_slice(&high.to_ne_bytes());
    addr[8..].copy_from_slice(&low.to_ne_bytes());
    let [p, q, proto, flags, a, b, c, d] = life.to_ne_bytes();
    let life = u32::from_ne_bytes([a, b, c, d]);
    Backend { addr, port: [p, q], proto, flags, life, group: group as u32, given: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_survives_its_words() {
        let backend = Backend {
            addr: [0x20, 1, 0xd, 0xb8, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            port: [31, 144],
            proto: 6,
            flags: Backend::IPV6,
            life: 0x501,
            group: 77,
            given: 0,
        };
        let words = backend_words(&backend);
        assert_eq!(backend_from(words), backend);
        // As the programs read it.
        assert_eq!(words[0].to_ne_bytes()[..4], [0x20, 1, 0xd, 0xb8]);
        assert_eq!(words[2].to_ne_bytes()[4..], 0x501u32.to_ne_bytes());
        assert_eq!(words[3].to_ne_bytes()[..4], 77u32.to_ne_bytes());
    }
}
