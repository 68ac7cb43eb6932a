//! The build cache: what each step gave, by the step's key; what it costs, and what of it goes.
//!
//! A key covers everything that a step's result depends on: what it does, the chain id of the files it works on
//! and the content that it copies. Entries live in the state database and so survive restarts; each pins its layers
//! in the image store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_base::clock::Clock;
use wharf_base::db::{Batch, Db, Durability};
use wharf_base::sync::Mutex;
use wharf_image::{ImageStore, Layer, Lease};
use wharf_spec::digest::Digest;

use crate::error::BuildError;
use crate::mounts::{ID_PREFIX, Mounts};

const TABLE: &str = "build-cache";
/// What web servers said of files that were fetched.
const WEB: &str = "build-web";
/// How stale a stored time of last use may be: a build that finds everything cached then writes nothing.
const USE_PRECISION: i64 = 60_000_000_000;

/// What a step gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The new layer; `None` if the step changed no file.
    pub(crate) layer: Option<Layer>,
    /// What that layer is on, base first.
    pub(crate) below: Vec<Layer>,
    /// The instruction, for people.
    pub(crate) description: String,
    /// Nanoseconds since 1970.
    pub(crate) created: i64,
    pub(crate) used: i64,
    pub(crate) uses: u64,
}

/// A file of a web server as it was last seen: asked again, the server may say that it is still the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// Without a password.
    pub(crate) address: String,
    /// `ETag`
    pub(crate) tag: Option<String>,
    /// `Last-Modified` as it came.
    pub(crate) date: Option<String>,
    pub(crate) digest: Digest,
    /// The same in seconds since 1970.
    pub(crate) modified: Option<i64>,
}

/// One line of `docker builder du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its key, or `mount:` and the id of a cache mount.
    pub id: String,
    /// The key of the entry below it, if that is cached.
    pub parent: Option<String>,
    /// `regular`, `internal` for a step that changed no file, or `exec.cachemount`.
    pub kind: &'static str,
    /// The instruction, or the cache mount.
    pub description: String,
    /// A build uses it now.
    pub in_use: bool,
    /// An image has its layer: removing the entry frees nothing.
    pub shared: bool,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Nanoseconds since 1970.
    pub used: i64,
    /// How often.
    pub uses: u64,
}

/// What to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneCache {
    /// Also what an image shares, and what was used a moment ago.
    pub all: bool,
    /// Only what was not used for so long.
    pub unused_for: Option<Duration>,
    /// Only these, by id or its beginning; empty is all.
    pub ids: Vec<String>,
    /// Only these kinds; empty is all.
    pub kinds: Vec<String>,
    /// Only what stands on one of these; empty is all.
    pub parents: Vec<String>,
    /// Only what images share, or only what they do not.
    pub shared: Option<bool>,
    /// Text that a description must contain; empty is all.
    pub description: String,
    /// Stop when so little is left.
    pub keep_bytes: Option<u64>,
    /// Stop when so much of the disk is free.
    pub min_free: Option<u64>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedCache {
    /// Ids.
    pub deleted: Vec<String>,
    /// Bytes that became free.
    pub reclaimed: u64,
}

/// The cache of one builder.
pub(crate) struct Cache {
    db: Db,
    store: ImageStore,
    clock: Clock,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Keys that builds work on or hold, with how many do.
    busy: Mutex<HashMap<String, usize>>,
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) mounts: Mounts,
}

/// Keeps an entry while a build uses it.
pub(crate) struct Hold {
    cache: Arc<Cache>,
    key: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut busy = self.cache.busy.lock();
        if let Some(n) = busy.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                busy.remove(&self.key);
            }
        }
    }
}

impl Cache {
    /// Reads the entries; those whose layers are gone go.
    pub(crate) fn open(
        db: Db,
        store: ImageStore,
        clock: Clock,
        mounts: Mounts,
    ) -> Result<Arc<Cache>, BuildError> {
        let mut entries = BTreeMap::new();
        let mut gone = Batch::new();
        for (key, entry) in db.scan::<Entry>(TABLE).map_err(wharf_image::StoreError::from)? {
            match store.pin_layers(&owner(&key), &entry.stack()) {
                Ok(()) => _ = entries.insert(key, entry),
                Err(_) => gone.delete(TABLE, &key),
            }
        }
        db.write(gone, Durability::Process).map_err(wharf_image::StoreError::from)?;
        let (entries, busy, flights) = (Mutex::new(entries), Mutex::default(), Mutex::default());
        Ok(Arc::new(Cache { db, store, clock, entries, busy, flights, mounts }))
    }

    /// The present, in nanoseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.clock.unix_nanos()
    }

    /// Only one build works on a key at a time; who waited finds the result in the cache.
    pub(crate) async fn flight(&self, key: &Digest) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut flights = self.flights.lock();
            // Those that nobody waits for.
            flights.retain(|_, lock| Arc::strong_count(lock) > 1);
            flights.entry(key.hex().to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Marks the entry as used by a build that runs.
    pub(crate) fn hold(self: &Arc<Self>, key: &Digest) -> Hold {
        *self.busy.lock().entry(key.hex().to_owned()).or_default() += 1;
        Hold { cache: self.clone(), key: key.hex().to_owned() }
    }

    /// What the step gave, with its layers leased.
    pub(crate) fn find(&self, key: &Digest) -> Option<(Entry, Lease)> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key.hex())?;
        let lease = self.store.lease_layers(&entry.stack()).ok()?;
        let now = self.clock.unix_nanos();
        entry.uses += 1;
        if now - entry.used > USE_PRECISION {
            entry.used = now;
            let mut batch = Batch::new();
            // A time of use that is lost makes the entry look older, no more.
            if batch.put(TABLE, key.hex(), entry).is_ok() {
                drop(self.db.write(batch, Durability::Process));
            }
        }
        Some((entry.clone(), lease))
    }

    /// Remembers what a step gave; returns the time that it is said to be made.
    pub(crate) fn store(
        &self,
        key: &Digest,
        below: &[Layer],
        layer: Option<Layer>,
        description: &str,
    ) -> Result<i64, BuildError> {
        let now = self.clock.unix_nanos();
        let below = if layer.is_some() { below.to_vec() } else { Vec::new() };
        let description = description.to_owned();
        let entry = Entry { layer, below, description, created: now, used: now, uses: 1 };
        self.store.pin_layers(&owner(key.hex()), &entry.stack())?;
        let mut batch = Batch::new();
        batch.put(TABLE, key.hex(), &entry).map_err(wharf_image::StoreError::from)?;
        self.db.write(batch, Durability::Process).map_err(wharf_image::StoreError::from)?;
        self.entries.lock().insert(key.hex().to_owned(), entry);
        Ok(now)
    }

    /// What is known of the file at an address.
    pub(crate) fn fetched(&self, address: &str) -> Option<Fetched> {
        let key = Digest::sha256(address.as_bytes());
        let found = self.db.get::<Fetched>(WEB, key.hex()).ok().flatten();
        found.filter(|f| f.address == address)
    }

    /// Remembers a file, if its server will be able to say that it is the same.
    pub(crate) fn remember_fetched(&self, file: &Fetched) -> Result<(), BuildError> {
        let key = Digest::sha256(file.address.as_bytes());
        let mut batch = Batch::new();
        match file.tag.is_some() || file.date.is_some() {
            true => batch.put(WEB, key.hex(), file).map_err(wharf_image::StoreError::from)?,
            false => batch.delete(WEB, key.hex()),
        }
        self.db.write(batch, Durability::Process).map_err(wharf_image::StoreError::from)?;
        Ok(())
    }

    /// Whether some step gave the last of `layers`.
    pub(crate) fn made(&self, layers: &[Layer]) -> bool {
        let Some(last) = layers.last() else { return false };
        let entries = self.entries.lock();
        entries.values().filter_map(|e| e.layer.as_ref()).any(|l| l.diff_id == last.diff_id)
    }

    /// Everything in the cache, cache mounts included, oldest use first.
    pub(crate) fn list(&self) -> Vec<CacheEntry> {
        let images: BTreeSet<Digest> = self
            .store
            .list()
            .iter()
            .flat_map(|s| s.image.layers().iter().map(|l| l.chain_id.clone()).collect::<Vec<_>>())
            .collect();
        let entries = self.entries.lock().clone();
        let busy = self.busy.lock();
        let by_chain: HashMap<&Digest, &String> = entries
            .iter()
            .filter_map(|(k, e)| e.layer.as_ref().map(|l| (&l.chain_id, k)))
            .collect();
        let row = |(key, e): (&String, &Entry)| CacheEntry {
            id: key.clone(),
            parent: e.below.last().and_then(|l| by_chain.get(&l.chain_id)).map(|k| (*k).clone()),
            kind: if e.layer.is_some() { "regular" } else { "internal" },
            description: e.description.clone(),
            in_use: busy.contains_key(key),
            shared: e.layer.as_ref().is_some_and(|l| images.contains(&l.chain_id)),
            size: e.layer.as_ref().map_or(0, |l| l.size + l.blob_size),
            created: e.created,
            used: e.used,
            uses: e.uses,
        };
        let mut all: Vec<CacheEntry> = entries.iter().map(row).collect();
        all.extend(self.mounts.list());
        all.sort_by_key(|e| (e.used, e.created));
        all
    }

    /// Removes what `what` selects, what was used longest ago first.
    pub(crate) fn prune(&self, what: &PruneCache) -> Result<PrunedCache, BuildError> {
        let all = self.list();
        let now = self.clock.unix_nanos();
        let mut left: u64 = all.iter().filter(|e| !e.shared).map(|e| e.size).sum();
        let mut pruned = PrunedCache::default();
        for entry in all.iter().filter(|e| what.selects(e, now)) {
            if what.keep_bytes.is_some_and(|keep| left <= keep) || self.is_roomy(what) {
                break;
            }
            if !self.remove(entry)? {
                continue;
            }
            pruned.deleted.push(entry.id.clone());
            if !entry.shared {
                pruned.reclaimed += entry.size;
                left = left.saturating_sub(entry.size);
            }
        }
        Ok(pruned)
    }

    fn is_roomy(&self, what: &PruneCache) -> bool {
        let free = || wharf_sys::root::Root::open(self.mounts.root()).and_then(|r| r.free_bytes());
        what.min_free.is_some_and(|wanted| free().is_ok_and(|free| free >= wanted))
    }

    fn remove(&self, entry: &CacheEntry) -> Result<bool, BuildError> {
        if let Some(id) = entry.id.strip_prefix(ID_PREFIX) {
            return self.mounts.remove(id);
        }
        if self.busy.lock().contains_key(&entry.id) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.delete(TABLE, &entry.id);
        self.db.write(batch, Durability::Process).map_err(wharf_image::StoreError::from)?;
        self.entries.lock().remove(&entry.id);
        self.store.unpin(&owner(&entry.id))?;
        Ok(true)
    }
}

impl Entry {
    fn stack(&self) -> Vec<Layer> {
        self.below.iter().chain(&self.layer).cloned().collect()
    }
}

impl PruneCache {
    fn selects(&self, e: &CacheEntry, now: i64) -> bool {
        let idle = u64::try_from(now.saturating_sub(e.used)).unwrap_or(0);
        !e.in_use
            && (self.all || !e.shared)
            && self.unused_for.is_none_or(|d| u128::from(idle) >= d.as_nanos())
            && (self.ids.is_empty() || self.ids.iter().any(|id| e.id.starts_with(id.as_str())))
            && self.shared.is_none_or(|shared| shared == e.shared)
            && (self.parents.is_empty()
                || self.parents.iter().any(|p| e.parent.as_ref() == Some(p)))
            && (self.kinds.is_empty() || self.kinds.iter().any(|k| k == e.kind))
            && e.description.contains(&self.description)
    }
}

fn owner(key: &str) -> String {
    format!("build:{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, used: i64, shared: bool) -> CacheEntry {
        CacheEntry {
            id: id.into(),
            parent: None,
            kind: "regular",
            description: "RUN make".into(),
            in_use: false,
            shared,
            size: 1,
            created: 0,
            used,
            uses: 1,
        }
    }

    #[test]
    fn selection_follows_the_filters() {
        let what =
            PruneCache { unused_for: Some(Duration::from_nanos(5)), ..PruneCache::default() };
        assert!(what.selects(&entry("a", 0, false), 5));
        assert!(!what.selects(&entry("a", 1, false), 5));
        assert!(!what.selects(&entry("a", 0, true), 5));
        let own = PruneCache { all: true, shared: Some(false), ..PruneCache::default() };
        assert!(own.selects(&entry("ab", 1, false), 10) && !own.selects(&entry("ab", 1, true), 10));
        let all = PruneCache { all: true, ids: vec!["ab".into()], ..PruneCache::default() };
        assert!(all.selects(&entry("abc", 0, true), 5) && !all.selects(&entry("b", 0, true), 5));
        let busy = CacheEntry { in_use: true, ..entry("abc", 0, false) };
        assert!(!all.selects(&busy, 5));
    }
}
