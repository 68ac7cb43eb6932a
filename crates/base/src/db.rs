//! The state database: named tables in memory, and a journal that makes every batch atomic.
//!
//! Names, tags, containers, networks and volumes are a few kilobytes each and are read far more
//! often than they change, so all of them live in memory. A change is one appended record. A record
//! is whole (its checksum holds) or it is as if it had never been written, so a batch is atomic; once
//! [`Db::write`] returns, the record is in the kernel and outlives the process. A general embedded
//! store was measured first: it costs an fsync, 3 to 6 ms, for what is a memory copy here, and
//! starting a container takes several such steps.
//!
//! On disk: `journal`, a header followed by records `length, crc32, payload`. When dead records
//! outweigh live ones the journal is rewritten to a temporary name and renamed over the old one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use crate::fs::Durability;
use crate::fs::{private_dir, sync_parent, temp_beside};
use crate::sync::Mutex;

/// The database. Clones share it.
#[derive(Clone, Debug)]
pub struct Db(Arc<Mutex<State>>);

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// A file operation failed.
    #[error("{action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has the database open.
    #[error("{path} is in use by another wharf daemon; give this one its own --data-root")]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// The file is not a journal, or is of a newer wharf.
    #[error("{path} is not a journal that this wharf can read")]
    Format {
        /// The journal.
        path: PathBuf,
    },
    /// A value could not be written as or read from JSON.
    #[error("record {table}/{key}")]
    Value {
        /// Its table.
        table: String,
        /// Its key.
        key: String,
        /// What the codec says.
        source: serde_json::Error,
    },
    /// An earlier write could not be undone, so memory and disk might differ.
    #[error("the state database failed earlier and takes no more writes; restart the daemon")]
    Broken,
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<Change>);

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets `table/key` to `value`.
    pub fn put<T: Serialize + ?Sized>(
        &mut self,
        table: &str,
        key: &str,
        value: &T,
    ) -> Result<(), DbError> {
        let bytes = serde_json::to_vec(value).map_err(|source| value_error(table, key, source))?;
        let value = String::from_utf8(bytes).map_err(|_| DbError::Broken)?;
        self.0.push(Change { t: table.into(), k: key.into(), v: Some(value) });
        Ok(())
    }

    /// Removes `table/key`; no error if it is absent.
    pub fn delete(&mut self, table: &str, key: &str) {
        self.0.push(Change { t: table.into(), k: key.into(), v: None });
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Db {
    /// Opens the database in `dir`, creating it if there is none, and replays the journal.
    ///
    /// A torn last record (the process or the machine died while appending) is dropped.
    pub fn open(dir: &Path) -> Result<Db, DbError> {
        private_dir(dir).map_err(io_error("create", dir))?;
        let path = dir.join("journal");
        let mut file = open_journal(&path)?;
        file.try_lock().map_err(|_| DbError::Locked { path: path.clone() })?;
        let (tables, good, records) = replay(&mut file, &path)?;
        file.set_len(good).map_err(io_error("truncate", &path))?;
        file.seek(SeekFrom::End(0)).map_err(io_error("seek in", &path))?;
        let live = tables.values().map(BTreeMap::len).sum();
        let state = State { path, file, tables, records, live, end: good, broken: false };
        Ok(Db(Arc::new(Mutex::new(state))))
    }

    /// The value at `table/key`.
    pub fn get<T: DeserializeOwned>(&self, table: &str, key: &str) -> Result<Option<T>, DbError> {
        let Some(text) = self.0.lock().tables.get(table).and_then(|t| t.get(key)).cloned() else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|e| value_error(table, key, e))
    }

    /// Every record of `table` in key order.
    pub fn scan<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<(String, T)>, DbError> {
        let rows = self.0.lock().tables.get(table).cloned().unwrap_or_default();
        rows.into_iter()
            .map(|(key, text)| match serde_json::from_str(&text) {
                Ok(value) => Ok((key, value)),
                Err(e) => Err(value_error(table, &key, e)),
            })
            .collect()
    }

    /// Applies `batch`. When this returns `Ok`, all of it survives what `how` names; when it
    /// returns an error, none of it happened. One exception: if the disk refuses to sync, nobody
    /// can tell what it holds, so the database takes no more writes and says so.
    pub fn write(&self, batch: Batch, how: Durability) -> Result<(), DbError> {
        if batch.is_empty() {
            return Ok(());
        }
        {
            let mut state = self.0.lock();
            state.append(&batch.0)?;
            state.apply(batch.0);
            state.compact_if_worth_it();
        }
        match how {
            Durability::Process => Ok(()),
            Durability::Power => self.sync(),
        }
    }

    /// Makes everything written so far survive the loss of power.
    ///
    /// Runs outside the lock: readers and other writers go on, and concurrent syncs share one flush.
    pub fn sync(&self) -> Result<(), DbError> {
        let (file, path) = {
            let state = self.0.lock();
            (state.file.try_clone(), state.path.clone())
        };
        file.and_then(|f| f.sync_data()).map_err(|source| {
            self.0.lock().broken = true;
            DbError::Io { action: "sync", path, source }
        })
    }
}

const MAGIC: &[u8; 8] = b"wharfdb1";
/// No single batch comes near this; a larger length in the file is damage.
const MAX_RECORD: u32 = 64 << 20;
/// Below this many records a rewrite saves nothing worth the work.
const COMPACT_FROM: usize = 4096;

type Tables = BTreeMap<String, BTreeMap<String, Arc<str>>>;

#[derive(Debug, Serialize, Deserialize)]
struct Change {
    t: String,
    k: String,
    v: Option<String>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    tables: Tables,
    /// Changes in the file, dead ones included.
    records: usize,
    /// Keys alive.
    live: usize,
    /// Where the next record goes.
    end: u64,
    broken: bool,
}

impl State {
    fn append(&mut self, changes: &[Change]) -> Result<(), DbError> {
        if self.broken {
            return Err(DbError::Broken);
        }
        let record = encode(changes).map_err(|e| value_error("batch", "", e))?;
        let start = self.end;
        if let Err(source) = self.file.write_all(&record) {
            self.undo_append(start);
            return Err(DbError::Io { action: "append to", path: self.path.clone(), source });
        }
        self.end = start + record.len() as u64;
        self.records += changes.len();
        Ok(())
    }

    /// Cuts a half-written record off, so that the next one starts where replay will look for it.
    fn undo_append(&mut self, start: u64) {
        let cut = self.file.set_len(start).and_then(|()| self.file.seek(SeekFrom::Start(start)));
        self.broken |= cut.is_err();
        self.end = start;
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.live = self.live.wrapping_add_signed(apply(&mut self.tables, change));
        }
    }

    /// Rewrites the journal when most of it is dead. Failing to is not an error: the old journal
    /// stays valid, and the next write tries again.
    fn compact_if_worth_it(&mut self) {
        if self.records < COMPACT_FROM || self.records < self.live * 4 {
            return;
        }
        match self.rewrite() {
            Ok((file, end)) => {
                (self.file, self.end, self.records) = (file, end, self.live);
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "journal was not compacted");
            }
        }
    }

    fn rewrite(&self) -> io::Result<(File, u64)> {
        let temp = temp_beside(&self.path);
        let result = self.write_live(&temp).and_then(|done| {
            std::fs::rename(&temp, &self.path)?;
            sync_parent(&self.path)?;
            Ok(done)
        });
        if result.is_err() {
            drop(std::fs::remove_file(&temp));
        }
        result
    }

    fn write_live(&self, temp: &Path) -> io::Result<(File, u64)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(temp)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut out = io::BufWriter::new(&mut file);
        out.write_all(MAGIC)?;
        let mut end = MAGIC.len() as u64;
        for (table, rows) in &self.tables {
            for (key, value) in rows {
                let change =
                    Change { t: table.clone(), k: key.clone(), v: Some(value.to_string()) };
                let record = encode(&[change]).map_err(io::Error::other)?;
                out.write_all(&record)?;
                end += record.len() as u64;
            }
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        Ok((file, end))
    }
}

/// Returns how the number of live keys changed.
fn apply(tables: &mut Tables, change: Change) -> isize {
    let rows = tables.entry(change.t).or_default();
    match change.v {
        Some(v) => isize::from(rows.insert(change.k, v.into()).is_none()),
        None => -isize::from(rows.remove(&change.k).is_some()),
    }
}

fn open_journal(path: &Path) -> Result<File, DbError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))
}

/// Reads every whole record. Returns the tables, where the good part ends, and how many changes it holds.
fn replay(file: &mut File, path: &Path) -> Result<(Tables, u64, usize), DbError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
        return start_journal(file, path);
    }
    if !bytes.starts_with(MAGIC) {
        return Err(DbError::Format { path: path.into() });
    }
    let (mut tables, mut records, mut at) = (Tables::new(), 0, MAGIC.len());
    while let Some((payload, next)) = record_at(&bytes, at) {
        let Ok(changes) = serde_json::from_slice::<Vec<Change>>(payload) else { break };
        records += changes.len();
        changes.into_iter().for_each(|c| _ = apply(&mut tables, c));
        at = next;
    }
    if at < bytes.len() {
        tracing::warn!(path = %path.display(), dropped = bytes.len() - at, "torn journal tail dropped");
    }
    Ok((tables, at as u64, records))
}

fn start_journal(file: &mut File, path: &Path) -> Result<(Tables, u64, usize), DbError> {
    file.seek(SeekFrom::Start(0)).map_err(io_error("seek in", path))?;
    file.write_all(MAGIC).map_err(io_error("write", path))?;
    Ok((Tables::new(), MAGIC.len() as u64, 0))
}

fn encode(changes: &[Change]) -> Result<Vec<u8>, serde_json::Error> {
    let mut record = vec![0; 8];
    serde_json::to_writer(&mut record, changes)?;
    let length = u32::try_from(record.len() - 8).ok().filter(|n| *n <= MAX_RECORD);
    let length = length.ok_or_else(|| serde::ser::Error::custom("batch larger than 64 MiB"))?;
    let crc = crc32(&record[8..]);
    record[..4].copy_from_slice(&length.to_le_bytes());
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(record)
}

/// The payload of the record at `at` and where the next one starts; `None` if it is not whole.
fn record_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..at + 8)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?);
    let crc = u32::from_le_bytes(head[4..].try_into().ok()?);
    if length > MAX_RECORD {
        return None;
    }
    let end = at + 8 + length as usize;
    let payload = bytes.get(at + 8..end)?;
    (crc32(payload) == crc).then_some((payload, end))
}

/// CRC-32 (IEEE 802.3), bitwise by table.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc_table();
    !bytes.iter().fold(!0, |crc, b| TABLE[((crc ^ u32::from(*b)) & 0xff) as usize] ^ (crc >> 8))
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "i is below 256")]
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DbError + 'a {
    move |source| DbError::Io { action, path: path.into(), source }
}

fn value_error(table: &str, key: &str, source: serde_json::Error) -> DbError {
    DbError::Value { table: table.into(), key: key.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(db: &Db, table: &str, key: &str, value: u32) {
        let mut b = Batch::new();
        b.put(table, key, &value).unwrap();
        db.write(b, Durability::Process).unwrap();
    }

    #[test]
    fn survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        put(&db, "a", "x", 1);
        put(&db, "a", "y", 2);
        put(&db, "a", "x", 3);
        drop(db);
        let db = Db::open(dir.path()).unwrap();
        assert_eq!(db.scan::<u32>("a").unwrap(), [("x".into(), 3), ("y".into(), 2)]);
        assert_eq!(db.get::<u32>("a", "z").unwrap(), None);
    }

    #[test]
    fn second_opener_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _db = Db::open(dir.path()).unwrap();
        assert!(matches!(Db::open(dir.path()), Err(DbError::Locked { .. })));
    }

    #[test]
    fn foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("journal")).unwrap().write_all(b"something else").unwrap();
        assert!(matches!(Db::open(dir.path()), Err(DbError::Format { .. })));
    }

    #[test]
    fn a_batch_cut_anywhere_never_happened() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        put(&db, "t", "before", 1);
        let path = dir.path().join("journal");
        let good = std::fs::metadata(&path).unwrap().len();
        let mut b = Batch::new();
        b.put("t", "left", &2).unwrap();
        b.put("t", "right", &3).unwrap();
        db.write(b, Durability::Power).unwrap();
        drop(db);
        let whole = std::fs::read(&path).unwrap();
        for cut in usize::try_from(good).unwrap()..whole.len() {
            File::create(&path).unwrap().write_all(&whole[..cut]).unwrap();
            let db = Db::open(dir.path()).unwrap();
            assert_eq!(db.scan::<u32>("t").unwrap(), [("before".into(), 1)], "cut at {cut}");
            put(&db, "t", "after", 4);
            drop(db);
            let db = Db::open(dir.path()).unwrap();
            assert_eq!(db.get::<u32>("t", "after").unwrap(), Some(4), "cut at {cut}");
        }
    }

    #[test]
    fn compaction_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        for i in 0..u32::try_from(COMPACT_FROM * 2).unwrap() {
            put(&db, "t", &format!("k{}", i % 7), i);
        }
        let expected = db.scan::<u32>("t").unwrap();
        let size = std::fs::metadata(dir.path().join("journal")).unwrap().len();
        assert!(size < 200_000, "journal was not compacted: {size} bytes");
        drop(db);
        assert_eq!(Db::open(dir.path()).unwrap().scan::<u32>("t").unwrap(), expected);
    }

    #[test]
    fn checksum_matches_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn any_history_reads_back(ops in prop::collection::vec((0u8..5, prop::option::of(any::<u32>())), 0..80)) {
            let dir = tempfile::tempdir().unwrap();
            let mut model = BTreeMap::new();
            let db = Db::open(dir.path()).unwrap();
            for (key, value) in &ops {
                let (key, mut b) = (format!("k{key}"), Batch::new());
                match value {
                    Some(v) => { b.put("t", &key, v).unwrap(); model.insert(key, *v); }
                    None => { b.delete("t", &key); model.remove(&key); }
                }
                db.write(b, Durability::Process).unwrap();
            }
            drop(db);
            let db = Db::open(dir.path()).unwrap();
            prop_assert_eq!(db.scan::<u32>("t").unwrap(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
