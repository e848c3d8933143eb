//! The kernel's side of the tables: pinned maps, opened by name, and the steps carried out on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use fairlead_abi::{Backend, Counter, Range, ServiceKey, ServiceValue, map};

use crate::error::DatapathError;
use crate::sys::MappedWords;
use crate::tables::{Capacity, Step, Tables};

/// Words of a [`fairlead_abi::Group`] and of a [`Backend`]. Slots take one each: the kernel pads entries to eight bytes.
const GROUP_WORDS: usize = 2;
const BACKEND_WORDS: usize = 2;

/// The maps user space reads and writes.
pub(crate) struct Kernel {
    capacity: Capacity,
    services: HashMap<MapData, ServiceKey, ServiceValue>,
    netns: HashMap<MapData, u64, u32>,
    uplinks: HashMap<MapData, u32, [u8; 4]>,
    counters: PerCpuArray<MapData, u64>,
    groups: MappedWords,
    slots: MappedWords,
    backends: MappedWords,
}

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
            services: typed(dir, map::SERVICES)?,
            netns: typed(dir, map::NETNS)?,
            uplinks: typed(dir, map::UPLINKS)?,
            counters: typed(dir, map::COUNTERS)?,
            groups,
            slots,
            backends,
        })
    }

    /// What the tables hold now.
    pub(crate) fn tables(&self) -> Result<Tables, DatapathError> {
        let mut keys = Vec::new();
        for entry in self.services.iter() {
            keys.push(entry.map_err(failed(map::SERVICES))?);
        }
        Ok(Tables::adopt(
            self.capacity,
            keys,
            |group| {
                let word = group as usize * GROUP_WORDS;
                (Range(self.groups.load(word)), Range(self.groups.load(word + 1)))
            },
            |slot| self.slots.load(slot as usize) as u32,
            |id| {
                let word = id as usize * BACKEND_WORDS;
                backend_from(self.backends.load(word), self.backends.load(word + 1))
            },
        ))
    }

    /// Carries out one step.
    pub(crate) fn apply(&mut self, step: &Step) -> Result<(), DatapathError> {
        match step {
            Step::Backend(id, backend) => {
                let word = *id as usize * BACKEND_WORDS;
                let [address, life] = backend_words(backend);
                self.backends.store(word, address);
                self.backends.store(word + 1, life);
            }
            Step::Slots(start, ids) => {
                for (slot, id) in (*start as usize..).zip(ids) {
                    self.slots.store(slot, u64::from(*id));
                }
            }
            Step::List(group, range) => self.groups.store(*group as usize * GROUP_WORDS, range.0),
            Step::Ring(group, range) => self.groups.store(*group as usize * GROUP_WORDS + 1, range.0),
            Step::Put(key, value) => self.services.insert(key, value, 0).map_err(failed(map::SERVICES))?,
            Step::Drop(key) => absent_is_fine(self.services.remove(key)).map_err(failed(map::SERVICES))?,
        }
        Ok(())
    }

    /// Lets the sockets of a network namespace be translated.
    pub(crate) fn put_netns(&mut self, cookie: u64) -> Result<(), DatapathError> {
        self.netns.insert(cookie, 1, 0).map_err(failed(map::NETNS))
    }

    /// Lets them be.
    pub(crate) fn drop_netns(&mut self, cookie: u64) -> Result<(), DatapathError> {
        absent_is_fine(self.netns.remove(&cookie)).map_err(failed(map::NETNS))
    }

    /// Network namespaces whose sockets are translated.
    pub(crate) fn netns(&self) -> Result<Vec<u64>, DatapathError> {
        self.netns.keys().collect::<Result<_, _>>().map_err(failed(map::NETNS))
    }

    /// Masquerades pods behind this address when they leave by this interface.
    pub(crate) fn put_uplink(&mut self, ifindex: u32, address: Ipv4Addr) -> Result<(), DatapathError> {
        self.uplinks.insert(ifindex, address.octets(), 0).map_err(failed(map::UPLINKS))
    }

    /// No longer does.
    pub(crate) fn drop_uplink(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        absent_is_fine(self.uplinks.remove(&ifindex)).map_err(failed(map::UPLINKS))
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
}

fn failed(map: &'static str) -> impl Fn(aya::maps::MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source: Box::new(source) }
}

fn absent_is_fine(removed: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match removed {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

fn pinned(dir: &Path, name: &'static str) -> Result<MapData, DatapathError> {
    MapData::from_pin(dir.join(name)).map_err(failed(name))
}

fn typed<M>(dir: &Path, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    Map::from_map_data(pinned(dir, name)?).and_then(M::try_from).map_err(failed(name))
}

/// A mapped array and its number of entries.
fn words(dir: &Path, name: &'static str, per_entry: usize) -> Result<(MappedWords, u32), DatapathError> {
    let data = pinned(dir, name)?;
    let entries = data.info().map_err(failed(name))?.max_entries();
    let words = MappedWords::new(data.fd().as_fd(), entries as usize * per_entry)
        .map_err(|source| DatapathError::Io { action: "map the BPF array", path: dir.join(name), source })?;
    Ok((words, entries))
}

/// The address never changes while anybody looks; life and group are one word, so they change together.
fn backend_words(backend: &Backend) -> [u64; 2] {
    let [a, b, c, d] = backend.addr;
    let [p, q] = backend.port;
    [
        u64::from_ne_bytes([a, b, c, d, p, q, backend.proto, backend.pad]),
        u64::from(backend.life) | u64::from(backend.group) << 32,
    ]
}

fn backend_from(address: u64, life: u64) -> Backend {
    let [a, b, c, d, p, q, proto, pad] = address.to_ne_bytes();
    Backend { addr: [a, b, c, d], port: [p, q], proto, pad, life: life as u32, group: (life >> 32) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_survives_its_words() {
        let backend = Backend { addr: [10, 244, 0, 9], port: [31, 144], proto: 6, pad: 0, life: 0x501, group: 77 };
        let [address, life] = backend_words(&backend);
        assert_eq!(backend_from(address, life), backend);
        // As the programs read it.
        assert_eq!(address.to_ne_bytes()[..4], [10, 244, 0, 9]);
        assert_eq!(life.to_ne_bytes()[..4], 0x501u32.to_ne_bytes());
    }
}
