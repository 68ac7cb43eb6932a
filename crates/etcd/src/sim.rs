//! A disk that crashes: everything that was not synced may be there, in part or not at all.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use wharf_base::sync::Mutex;

use crate::disk::{Disk, DiskFile};

/// Writes reach a disk in sectors.
const SECTOR: usize = 512;

/// A disk of which clones are the same.
#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Names as programs see them, and as a crash would leave them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    /// Operations that change something, since the disk was made.
    operations: u64,
    fail: Option<Fail>,
}

/// What an operation asks of the disk.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Room that a full disk does not have.
    Grow,
    /// A change in place.
    Change,
    Sync,
}

/// What happens at an operation.
#[derive(Clone, Copy)]
pub(crate) enum Fail {
    /// The machine stops there: this operation and all later ones are errors.
    Crash { at: u64 },
    /// The disk is full from there on, up to and without `until`.
    Full { at: u64, until: u64 },
    /// A sync fails, once.
    Sync { at: u64 },
}

#[derive(Default, Clone)]
struct Content {
    seen: Vec<u8>,
    /// What the last sync made sure of.
    durable: Vec<u8>,
}

impl SimDisk {
    pub(crate) fn fail(&self, fail: Option<Fail>) {
        self.0.lock().fail = fail;
    }

    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The disk as a crash now would leave it: of each sector and name that was not synced, `keep` says
    /// whether it made it.
    pub(crate) fn after_crash(&self, mut keep: impl FnMut() -> bool) -> SimDisk {
        let state = self.0.lock();
        let files = state.files.iter().map(|content| {
            let survived = survive(content, &mut keep);
            Content { seen: survived.clone(), durable: survived }
        });
        let files = files.collect();
        let mut names = state.durable_names.clone();
        let changed = state.names.keys().chain(state.durable_names.keys());
        for name in changed.collect::<std::collections::BTreeSet<_>>() {
            if state.names.get(name) == state.durable_names.get(name) || !keep() {
                continue;
            }
            match state.names.get(name) {
                Some(file) => names.insert(name.clone(), *file),
                None => names.remove(name),
            };
        }
        let durable_names = names.clone();
        SimDisk(Arc::new(Mutex::new(State { names, durable_names, files, ..State::default() })))
    }

    /// Changes a byte of a file, as a bad disk does.
    pub(crate) fn flip(&self, name: &str, at: usize, bits: u8) {
        let mut state = self.0.lock();
        let file = state.names[name];
        state.files[file].seen[at] ^= bits;
        state.files[file].durable[at] ^= bits;
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock();
        state.files[state.names[name]].seen.clone()
    }

    fn act<T>(&self, kind: Kind, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock();
        state.operations += 1;
        let now = state.operations;
        match state.fail {
            Some(Fail::Crash { at }) if now >= at => return Err(io::Error::other("crashed")),
            Some(Fail::Full { at, until }) if kind == Kind::Grow && now >= at && now < until => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Some(Fail::Sync { at }) if kind == Kind::Sync && now >= at => {
                state.fail = None;
                return Err(io::Error::other("sync failed"));
            }
            _ => (),
        }
        act(&mut state)
    }
}

/// A file's content when some of its unsynced sectors are lost. Lost ones are as they were, or zero.
fn survive(content: &Content, keep: &mut impl FnMut() -> bool) -> Vec<u8> {
    if content.seen == content.durable {
        return content.durable.clone();
    }
    // The new length may be lost as well; then nothing behind the old one is there.
    let len = if keep() { content.seen.len() } else { content.durable.len() };
    let mut bytes = vec![0; len];
    for (n, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        let at = n * SECTOR;
        let (seen, durable) = (content.seen.get(at..), content.durable.get(at..));
        let (seen, durable) = (seen.unwrap_or_default(), durable.unwrap_or_default());
        let old = &durable[..durable.len().min(sector.len())];
        let new = &seen[..seen.len().min(sector.len())];
        let source = if old == new || keep() { new } else { old };
        sector[..source.len()].copy_from_slice(source);
    }
    bytes
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.act(Kind::Grow, |state| {
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.files.push(Content::default());
            let file = state.files.len() - 1;
            state.names.insert(name.to_owned(), file);
            Ok(())
        })?;
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = *self.0.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.act(Kind::Grow, |state| {
            let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.0.lock().names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.act(Kind::Change, |state| {
            state.names.remove(name);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.act(Kind::Sync, |state| {
            state.durable_names = state.names.clone();
            Ok(())
        })
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.disk.0.lock();
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let bytes = state.files[self.file].seen.get(at..at + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let file = self.file;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        // What is written over has its place already, on a full disk too.
        let grows = at + bytes.len() > self.disk.0.lock().files[file].seen.len();
        let kind = if grows { Kind::Grow } else { Kind::Change };
        self.disk.act(kind, |state| {
            let seen = &mut state.files[file].seen;
            if seen.len() < at + bytes.len() {
                seen.resize(at + bytes.len(), 0);
            }
            seen[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let file = self.file;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // Cutting a file needs no space, so a full disk lets it.
        self.disk.act(Kind::Change, |state| {
            state.files[file].seen.resize(len, 0);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = self.file;
        self.disk.act(Kind::Sync, |state| {
            state.files[file].durable = state.files[file].seen.clone();
            Ok(())
        })
    }
}
