//! One state made of all files, and the update between what was told and what is. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::update::{Item, ObjectName, Rejected, Update};

/// What the files say together: each object, or why it is refused. Files stand among them with what is wrong with them.
pub(super) type Desired = BTreeMap<ObjectName, Result<Arc<Item>, String>>;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    revision: u64,
    state: Desired,
}

impl Told {
    /// True once there was an update.
    pub(super) fn is_begun(&self) -> bool {
        self.revision > 0
    }

    /// What to tell next: everything the first time, then what differs, and nothing if nothing does. An object that is
    /// refused is not removed: its last good form stays with whoever was told of it.
    pub(super) fn update(&mut self, wanted: Desired) -> Option<Update> {
        let is_first = !self.is_begun();
        let mut update = Update { snapshot: is_first, first: is_first, complete: true, ..Update::default() };
        for (name, want) in &wanted {
            if self.state.get(name).is_some_and(|have| is_same(have, want)) {
                continue;
            }
            match want {
                Ok(item) => update.put.push((**item).clone()),
                Err(reason) => update.rejected.push(Rejected { object: name.clone(), reason: reason.clone() }),
            }
        }
        update.removed = self.state.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        self.state = wanted;
        if !is_first && update.put.is_empty() && update.rejected.is_empty() && update.removed.is_empty() {
            return None;
        }
        self.revision += 1;
        update.revision = self.revision;
        Some(update)
    }
}

fn is_same(have: &Result<Arc<Item>, String>, want: &Result<Arc<Item>, String>) -> bool {
    match (have, want) {
        (Ok(have), Ok(want)) => Arc::ptr_eq(have, want) || have == want,
        (Err(have), Err(want)) => have == want,
        _ => false,
    }
}

/// Puts together what the files say.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    desired: Desired,
    /// Which file an object is from.
    owners: BTreeMap<ObjectName, String>,
}

impl Gathering {
    /// An object as a file says it. Of several that say the same one the first counts.
    pub(super) fn object(&mut self, file: &str, line: usize, name: &ObjectName, item: &Result<Arc<Item>, String>) {
        match self.desired.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(item.as_ref().map(Arc::clone).map_err(|why| format!("{file}, line {line}: {why}")));
                self.owners.insert(name.clone(), file.to_owned());
            }
            Entry::Occupied(_) => {
                let owner = self.owners.get(name).map_or("", String::as_str);
                let reason = if owner == file {
                    format!("{name} is in this file already; the first counts")
                } else {
                    format!("{name} is in {owner} already, which counts")
                };
                self.trouble(file, Some(line), &reason);
            }
        }
    }

    /// An object that a file said before it became unreadable or went away. Anybody else's word goes before it.
    pub(super) fn held(&mut self, name: &ObjectName, item: &Arc<Item>) {
        self.desired.entry(name.clone()).or_insert_with(|| Ok(item.clone()));
    }

    /// Something wrong with a file. Several troubles become one line.
    pub(super) fn trouble(&mut self, file: &str, line: Option<usize>, reason: &str) {
        let text = line.map_or_else(|| reason.to_owned(), |line| format!("line {line}: {reason}"));
        match self.desired.entry(ObjectName::File(file.to_owned())) {
            Entry::Vacant(entry) => drop(entry.insert(Err(text))),
            Entry::Occupied(mut entry) => {
                if let Err(before) = entry.get_mut() {
                    before.push_str("; ");
                    before.push_str(&text);
                }
            }
        }
    }

    /// The whole.
    pub(super) fn finish(self) -> Desired {
        self.desired
    }
}
