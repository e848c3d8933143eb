//! What each file of the directory said last, and whether it is worth reading again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::hash::RandomState;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::desired::{Desired, Gathering};
use super::file_name;
use super::manifest::{self, Found, Language, Manifest, Said};
use crate::update::ObjectName;

/// A file that was written to so short a time ago may be written to still, and its time may not tell two writes apart.
const STILL: Duration = Duration::from_millis(50);
/// A file that is gone may be about to come back: editors put a new one in the place of the old.
const GONE: Duration = Duration::from_millis(200);
/// Nothing is waited for longer: a file that never stands still, or that was emptied and not filled.
const PATIENCE: Duration = Duration::from_secs(5);
/// A larger file is no manifest.
const LARGEST: u64 = 256 << 20;

/// The directory as it was last looked at.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    node: String,
    files: BTreeMap<Arc<str>, Known>,
    /// Kinds that were warned of.
    ignored: BTreeSet<String>,
    hasher: RandomState,
    /// A file was read, came, or went since the last look.
    changed: bool,
}

/// A file.
#[derive(Debug, Default)]
struct Known {
    /// The file as it was when it was read.
    stamp: Option<Stamp>,
    manifest: Manifest,
    /// What the file held before it became unreadable.
    held: BTreeMap<Arc<ObjectName>, Arc<Said>>,
    /// Why it could not be read at all.
    trouble: Option<String>,
    /// Since when it is waited for: not still, or not there.
    waiting: Option<Instant>,
    gone: bool,
}

/// Device, inode, length and times: a file with the same ones says the same.
type Stamp = (u64, u64, u64, i64, i64);

/// What looking came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// Device and inode of the directory.
    pub(super) identity: (u64, u64),
    /// Every file was read as it is now; otherwise look again soon.
    pub(super) settled: bool,
    /// A file was read, came, or went.
    pub(super) changed: bool,
}

impl Folder {
    pub(super) fn new(path: PathBuf, node: String) -> Self {
        Self {
            path,
            node,
            files: BTreeMap::new(),
            ignored: BTreeSet::new(),
            hasher: RandomState::new(),
            changed: false,
        }
    }

    /// Reads what is new or has changed.
    ///
    /// # Errors
    /// The directory cannot be read; then everything stays as it was.
    pub(super) fn look(&mut self) -> io::Result<Looked> {
        let directory = fs::metadata(&self.path)?;
        let mut present = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if let Some((name, language)) = manifest_name(&path) {
                present.insert(name.to_owned(), (path.clone(), language));
            }
        }
        let mut settled = true;
        for (name, (path, language)) in &present {
            settled &= self.look_at(name, path, *language);
        }
        let mut changed = std::mem::take(&mut self.changed);
        self.files.retain(|name, known| {
            if present.contains_key(&**name) && !known.gone {
                return true;
            }
            changed |= known.miss();
            let is_held = known.waiting.is_some_and(|since| since.elapsed() < GONE);
            settled &= !is_held;
            changed |= !is_held;
            is_held
        });
        Ok(Looked { identity: (directory.dev(), directory.ino()), settled, changed })
    }

    /// Reads one file if it has changed; false if it should be looked at again soon.
    fn look_at(&mut self, name: &str, path: &Path, language: Language) -> bool {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            // Gone since the directory was read, a link to nowhere, or no file at all: as if it were not there.
            _ => {
                self.changed |= self.files.get_mut(name).is_some_and(Known::miss);
                return true;
            }
        };
        let known = self.files.entry(name.into()).or_default();
        if std::mem::take(&mut known.gone) {
            known.waiting = None;
            self.changed = true;
        }
        let stamp = stamp(&metadata);
        if known.stamp == Some(stamp) {
            known.waiting = None;
            return true;
        }
        let waited = known.waiting.get_or_insert_with(Instant::now).elapsed();
        if waited < PATIENCE && !is_still(&metadata, known.stamp.is_some()) {
            return false;
        }
        known.waiting = None;
        known.stamp = Some(stamp);
        self.changed = true;
        match read(path, &metadata) {
            Ok(text) => {
                let manifest = manifest::read(language, &text, &self.node, &known.manifest, &self.hasher);
                known.take(manifest);
            }
            Err(reason) => known.trouble = Some(reason),
        }
        for (line, found) in known.manifest.found() {
            if let Found::Ignored(kind) = found
                && self.ignored.insert(kind.clone())
            {
                tracing::warn!(file = name, line, kind, "objects of this kind mean nothing here and are left out");
            }
        }
        true
    }

    /// What all files say together.
    pub(super) fn desired(&mut self) -> Desired {
        let gathered = self.gather();
        if gathered.lacking().is_empty() {
            return gathered.finish();
        }
        for name in gathered.lacking() {
            self.read_again(name);
        }
        self.gather().finish()
    }

    /// Reads a file as if nothing of it were known. One that has changed meanwhile is left to the next look.
    fn read_again(&mut self, name: &str) {
        let path = self.path.join(name);
        let Some(((_, language), known)) = manifest_name(&path).zip(self.files.get_mut(name)) else { return };
        let Ok(metadata) = fs::metadata(&path) else { return };
        if known.stamp == Some(stamp(&metadata))
            && let Ok(text) = read(&path, &metadata)
        {
            known.manifest = manifest::read(language, &text, &self.node, &Manifest::default(), &self.hasher);
        }
    }

    fn gather(&self) -> Gathering {
        let mut gathering = Gathering::default();
        for (name, known) in self.files.iter().filter(|(_, known)| !known.gone) {
            for (line, found) in known.manifest.found() {
                match found {
                    Found::Object(object, said) => gathering.object(name, line, object, said),
                    Found::Unreadable(reason) => gathering.trouble(name, Some(line), reason),
                    Found::Ignored(_) => {}
                }
            }
            if let Some(reason) = &known.trouble {
                gathering.trouble(name, None, reason);
            }
        }
        for known in self.files.values() {
            let said = known.manifest.found().filter(|_| known.gone).filter_map(|(_, found)| good(found));
            let held = known.held.iter();
            held.chain(said).for_each(|(object, said)| gathering.held(object, said));
        }
        gathering
    }
}

impl Known {
    /// The file is not there; true if it was until now.
    fn miss(&mut self) -> bool {
        let is_news = !std::mem::replace(&mut self.gone, true);
        if is_news {
            self.waiting = Some(Instant::now());
        }
        is_news
    }

    /// The file says something new. If a part of it cannot be read, that part may be any object the file held before
    /// and does not name now: those stay.
    fn take(&mut self, manifest: Manifest) {
        let before = std::mem::replace(&mut self.manifest, manifest);
        self.trouble = None;
        if !self.manifest.is_partly_unreadable() {
            self.held.clear();
            return;
        }
        self.held.extend(
            before.found().filter_map(|(_, found)| good(found)).map(|(name, said)| (name.clone(), said.clone())),
        );
        for (_, found) in self.manifest.found() {
            if let Found::Object(name, _) = found {
                self.held.remove(name);
            }
        }
    }
}

fn good(found: &Found) -> Option<(&Arc<ObjectName>, &Arc<Said>)> {
    match found {
        Found::Object(name, Ok(said)) => Some((name, said)),
        _ => None,
    }
}

/// The name and language of a manifest; `None` for other files, hidden ones among them.
fn manifest_name(path: &Path) -> Option<(&str, Language)> {
    let name = file_name(path)?;
    let (stem, extension) = name.rsplit_once('.')?;
    let language = match extension {
        "yaml" | "yml" => Language::Yaml,
        "json" => Language::Json,
        _ => return None,
    };
    (!stem.is_empty() && !stem.starts_with(['.', '#'])).then_some((name, language))
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// True if nobody seems to be writing the file. A file without a byte was most likely emptied in order to be filled.
fn is_still(metadata: &Metadata, is_known: bool) -> bool {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    // A time in the future tells nothing; it was set by hand.
    let Ok(age) = SystemTime::now().duration_since(modified) else { return true };
    age >= if metadata.len() == 0 && is_known { PATIENCE } else { STILL }
}

fn read(path: &Path, metadata: &Metadata) -> Result<String, String> {
    if metadata.len() > LARGEST {
        return Err(format!("it has {} MiB; a manifest has at most {}", metadata.len() >> 20, LARGEST >> 20));
    }
    fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"))
}
