//! One state made of all files, and the update between what was told and what is. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::manifest::Said;
use crate::update::{ObjectName, Rejected, Update};

/// What the files say together: each object, or why it is refused. Files stand among them with what is wrong with them.
pub(super) type Desired = BTreeMap<Arc<ObjectName>, Result<Arc<Said>, String>>;

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
    pub(super) fn update(&mut self, mut wanted: Desired) -> Option<Update> {
        let is_first = !self.is_begun();
        let mut update = Update { snapshot: is_first, first: is_first, complete: true, ..Update::default() };
        for (name, want) in &mut wanted {
            let have = self.state.get(name);
            if have == Some(&*want) {
                // Read anew and the same as before: nobody will ask for it.
                want.iter().for_each(|said| drop(said.take()));
                continue;
            }
            match want {
                Ok(said) => match (said.take(), have) {
                    (Some(item), _) => update.put.push(item),
                    // Told before, and something else since: by a file that went, while this one's cannot be read. What
                    // was told last stays.
                    (None, Some(have)) => *want = have.clone(),
                    (None, None) => {}
                },
                Err(reason) => {
                    update.rejected.push(Rejected { object: (**name).clone(), reason: reason.clone() });
                }
            }
        }
        update.removed =
            self.state.keys().filter(|name| !wanted.contains_key(*name)).map(|name| (**name).clone()).collect();
        self.state = wanted;
        if !is_first && update.put.is_empty() && update.rejected.is_empty() && update.removed.is_empty() {
            return None;
        }
        self.revision += 1;
        update.revision = self.revision;
        Some(update)
    }
}

/// Puts together what the files say.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    desired: Desired,
    /// Which file an object is from.
    owners: BTreeMap<Arc<ObjectName>, Arc<str>>,
    /// Files that say what does not count now, and was told once: it may count again.
    lacking: BTreeSet<String>,
}

impl Gathering {
    /// An object as a file says it. Of several that say the same one the first counts.
    pub(super) fn object(
        &mut self,
        file: &Arc<str>,
        line: usize,
        name: &Arc<ObjectName>,
        said: &Result<Arc<Said>, String>,
    ) {
        match self.desired.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(said.as_ref().map(Arc::clone).map_err(|why| format!("{file}, line {line}: {why}")));
                self.owners.insert(name.clone(), file.clone());
            }
            Entry::Occupied(_) => {
                if said.as_ref().is_ok_and(|said| said.is_taken()) {
                    self.lacking.insert((**file).to_owned());
                }
                let owner = self.owners.get(name).map_or("", |owner| &**owner);
                let reason = if owner == &**file {
                    format!("{name} is in this file already; the first counts")
                } else {
                    format!("{name} is in {owner} already, which counts")
                };
                self.trouble(file, Some(line), &reason);
            }
        }
    }

    /// An object that a file said before it became unreadable or went away. Anybody else's word goes before it.
    pub(super) fn held(&mut self, name: &Arc<ObjectName>, said: &Arc<Said>) {
        self.desired.entry(name.clone()).or_insert_with(|| Ok(said.clone()));
    }

    /// Something wrong with a file. Several troubles become one line.
    pub(super) fn trouble(&mut self, file: &str, line: Option<usize>, reason: &str) {
        let text = line.map_or_else(|| reason.to_owned(), |line| format!("line {line}: {reason}"));
        match self.desired.entry(Arc::new(ObjectName::File(file.to_owned()))) {
            Entry::Vacant(entry) => drop(entry.insert(Err(text))),
            Entry::Occupied(mut entry) => {
                if let Err(before) = entry.get_mut() {
                    before.push_str("; ");
                    before.push_str(&text);
                }
            }
        }
    }

    /// Files to read anew, all of their documents: something in them does not count for now, and is not at hand for when
    /// it will.
    pub(super) fn lacking(&self) -> &BTreeSet<String> {
        &self.lacking
    }

    /// The whole.
    pub(super) fn finish(self) -> Desired {
        self.desired
    }
}
