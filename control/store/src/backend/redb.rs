//! The log in one redb file: the current entries, and the facts about the store.
//!
//! History is not written: after a restart watches resume from the revision the file stands at, and older ones get
//! `Expired`. So the file stays as large as the current state, however many leases are renewed.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

use super::{Loaded, Log, commit::Group};
use crate::{Entry, Revision, StoreError, index::Index};

/// Layout of the file. Another number is another layout.
const FORMAT: u64 = 1;

/// Key → (revision created, revision modified, value).
const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("entries");
/// Facts: `format`, `revision`.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// Facts: `id`.
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");

/// The open file.
pub(super) struct RedbLog {
    database: Database,
    path: PathBuf,
}

impl RedbLog {
    /// Opens or creates the file, and checks that it is ours and of this layout.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| open_error(path, error))?;
        Ok(Self { database, path: path.to_owned() })
    }

    fn read(&self) -> Result<Option<Loaded>, redb::Error> {
        let txn = self.database.begin_read()?;
        if txn.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let numbers = txn.open_table(NUMBERS)?;
        let format = numbers.get("format")?.map_or(0, |guard| guard.value());
        if format != FORMAT {
            return Ok(Some(Loaded { id: String::new(), revision: Revision(format), index: Index::default() }));
        }
        let revision = Revision(numbers.get("revision")?.map_or(0, |guard| guard.value()));
        let id = txn.open_table(TEXTS)?.get("id")?.map(|guard| guard.value().to_owned()).unwrap_or_default();
        let mut index = Index::default();
        for item in txn.open_table(ENTRIES)?.iter()? {
            let (key, value) = item?;
            let (created, modified, bytes) = value.value();
            index.put(Entry {
                key: key.value().into(),
                value: Bytes::copy_from_slice(bytes),
                created: Revision(created),
                modified: Revision(modified),
            });
        }
        Ok(Some(Loaded { id, revision, index }))
    }

    fn create(&self, id: &str) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut numbers = txn.open_table(NUMBERS)?;
            numbers.insert("format", FORMAT)?;
            numbers.insert("revision", 0)?;
            txn.open_table(TEXTS)?.insert("id", id)?;
            txn.open_table(ENTRIES)?;
        }
        txn.commit()?;
        Ok(())
    }

    fn write(&self, group: &Group) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut entries = txn.open_table(ENTRIES)?;
            for event in &group.events {
                match &event.after {
                    Some(after) => {
                        let value = (after.created.get(), after.modified.get(), &after.value[..]);
                        entries.insert(&*after.key, value)?;
                    }
                    None => {
                        entries.remove(event.key())?;
                    }
                }
            }
            txn.open_table(NUMBERS)?.insert("revision", group.revision.get())?;
        }
        txn.commit()?;
        Ok(())
    }

    fn error(&self, action: &'static str, error: redb::Error) -> StoreError {
        let path = self.path.clone();
        match error {
            redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => StoreError::Full { path },
            redb::Error::Corrupted(detail) => StoreError::Corrupt { path, detail },
            error @ (redb::Error::TableTypeMismatch { .. } | redb::Error::TableDoesNotExist(_)) => {
                StoreError::Corrupt { path, detail: error.to_string() }
            }
            error => StoreError::Disk { action, path, detail: error.to_string() },
        }
    }
}

impl Log for RedbLog {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        match self.read().map_err(|error| self.error("read", error))? {
            Some(Loaded { id, revision, .. }) if id.is_empty() => {
                Err(StoreError::Version { path: self.path.clone(), found: revision.to_string(), expected: FORMAT })
            }
            Some(loaded) => Ok(loaded),
            None => {
                let id = random_id().map_err(|error| self.error("name the store in", redb::Error::Io(error)))?;
                self.create(&id).map_err(|error| self.error("create", error))?;
                Ok(Loaded { id, revision: Revision(0), index: Index::default() })
            }
        }
    }

    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        self.write(group).map_err(|error| self.error("write", error))
    }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { path },
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Version { path, found: format!("of storage library version {version}"), expected: FORMAT }
        }
        DatabaseError::Storage(StorageError::Corrupted(detail)) => StoreError::Corrupt { path, detail },
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full { path },
            // The library says so of a file that does not begin with its mark.
            io::ErrorKind::InvalidData => StoreError::Corrupt { path, detail: error.to_string() },
            _ => StoreError::Disk { action: "open", path, detail: error.to_string() },
        },
        error => StoreError::Disk { action: "open", path, detail: error.to_string() },
    }
}

/// 128 random bits from the kernel.
fn random_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|text| text.trim().to_owned())
}
