//! Cache mounts: directories that outlive builds, and who may use them at the same time.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use wharf_base::clock::Clock;
use wharf_base::fs::{Durability, private_dir, write_atomic};
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_spec::dockerfile::Sharing;
use wharf_sys::root::Root;

use crate::cache::CacheEntry;
use crate::error::BuildError;

/// What ids of cache mounts begin with where they are listed beside steps.
pub(crate) const ID_PREFIX: &str = "mount:";
/// Instances of one private cache.
const MAX_INSTANCES: usize = 256;

/// All cache mounts of a builder.
pub(crate) struct Mounts {
    root: PathBuf,
    clock: Clock,
    locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
    /// Held while a directory is looked for and made: two builds that share a new one must not both make it.
    making: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A cache mount in use.
pub(crate) struct CacheMount {
    /// The directory to bind.
    pub(crate) path: PathBuf,
    _guard: Guard,
}

/// Held for the life of a use.
enum Guard {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

/// Which cache mount, and how it looks when it is made.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Namespace and id.
    pub(crate) id: String,
    pub(crate) sharing: Sharing,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    id: String,
    created: i64,
    used: i64,
    uses: u64,
}

impl Mounts {
    pub(crate) fn open(root: PathBuf, clock: Clock) -> Result<Mounts, BuildError> {
        private_dir(&root).map_err(BuildError::io(format!("create {}", root.display())))?;
        Ok(Mounts { root, clock, locks: Mutex::default(), making: Mutex::default() })
    }

    /// The directory, made if it is new: then `seed` fills it.
    pub(crate) async fn take(
        &self,
        wanted: &Wanted,
        seed: impl FnOnce(&Root) -> Result<(), BuildError> + Send + 'static,
    ) -> Result<CacheMount, BuildError> {
        let name = Digest::sha256(wanted.id.as_bytes()).hex().to_owned();
        let (name, guard) = self.lock(name, wanted.sharing).await?;
        let dir = self.root.join(&name);
        let making = {
            let mut all = self.making.lock();
            // Those that nobody waits for.
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            all.entry(name).or_default().clone()
        };
        let one_at_a_time = making.lock_owned().await;
        let (wanted, now) = (wanted.clone(), self.clock.unix_nanos());
        let made = tokio::task::spawn_blocking(move || {
            // As long as the work takes, also if nobody waits for it any more.
            let _alone = one_at_a_time;
            provide(&dir, &wanted, now, seed)
        });
        let made = made.await;
        let path = made.map_err(|_| BuildError::Invalid("a task of the build died".into()))??;
        Ok(CacheMount { path, _guard: guard })
    }

    async fn lock(&self, name: String, sharing: Sharing) -> Result<(String, Guard), BuildError> {
        let lock = |name: &str| self.locks.lock().entry(name.to_owned()).or_default().clone();
        match sharing {
            Sharing::Shared => {
                let guard = lock(&name).read_owned().await;
                Ok((name, Guard::Shared { _guard: guard }))
            }
            Sharing::Locked => {
                let guard = lock(&name).write_owned().await;
                Ok((name, Guard::Alone { _guard: guard }))
            }
            Sharing::Private => {
                for n in 0..MAX_INSTANCES {
                    let instance = if n == 0 { name.clone() } else { format!("{name}.{n}") };
                    if let Ok(guard) = lock(&instance).try_write_owned() {
                        return Ok((instance, Guard::Alone { _guard: guard }));
                    }
                }
                Err(BuildError::Invalid(format!("a private cache mount has {MAX_INSTANCES} users")))
            }
        }
    }

    /// Whether there is one of this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        let name = Digest::sha256(id.as_bytes());
        read_facts(&self.root.join(name.hex())).is_some_and(|f| f.uses > 0)
    }

    /// For `du` and `prune`.
    pub(crate) fn list(&self) -> Vec<CacheEntry> {
        let Ok(dirs) = fs::read_dir(&self.root) else { return Vec::new() };
        let entry = |dir: fs::DirEntry| {
            let name = dir.file_name().to_string_lossy().into_owned();
            let facts = read_facts(&dir.path())?;
            let in_use = self.locks.lock().get(&name).is_some_and(|l| l.try_write().is_err());
            Some(CacheEntry {
                id: format!("{ID_PREFIX}{name}"),
                parent: None,
                kind: "exec.cachemount",
                description: format!("cached mount {}", facts.id),
                in_use,
                shared: false,
                size: tree_size(&dir.path().join("data")).unwrap_or(0),
                created: facts.created,
                used: facts.used,
                uses: facts.uses,
            })
        };
        dirs.flatten().filter_map(entry).collect()
    }

    /// Removes one that nobody uses; false if somebody does.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, BuildError> {
        let lock = self.locks.lock().entry(name.to_owned()).or_default().clone();
        let Ok(_alone) = lock.try_write() else { return Ok(false) };
        let root = Root::open(&self.root).and_then(|r| r.top());
        // Untrusted content: nothing in it is followed.
        let gone = root.and_then(|top| top.remove_all(name.as_ref()));
        gone.map_err(BuildError::io("remove a cache mount"))?;
        Ok(true)
    }

    /// The file system that they are on, for its free space.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

fn provide(
    dir: &Path,
    wanted: &Wanted,
    now: i64,
    seed: impl FnOnce(&Root) -> Result<(), BuildError>,
) -> Result<PathBuf, BuildError> {
    let failed = || BuildError::io(format!("make the cache mount {}", wanted.id));
    let data = dir.join("data");
    let mut facts = read_facts(dir).unwrap_or(Facts {
        id: wanted.id.clone(),
        created: now,
        used: now,
        uses: 0,
    });
    if facts.uses == 0 {
        // Nothing, or what a crash left half made.
        drop(fs::remove_dir_all(dir));
        fs::create_dir(dir).and_then(|()| fs::create_dir(&data)).map_err(failed())?;
        let root = Root::open(dir).map_err(failed())?;
        seed(&Root::open(&data).map_err(failed())?)?;
        let top = root.top().map_err(failed())?;
        top.set_owner("data".as_ref(), wanted.owner.0, wanted.owner.1).map_err(failed())?;
        top.set_mode("data".as_ref(), wanted.mode).map_err(failed())?;
    }
    facts.used = now;
    facts.uses += 1;
    let text = serde_json::to_vec(&facts).unwrap_or_default();
    write_atomic(&dir.join("facts.json"), &text, 0o600, Durability::Process).map_err(failed())?;
    Ok(data)
}

fn read_facts(dir: &Path) -> Option<Facts> {
    serde_json::from_slice(&fs::read(dir.join("facts.json")).ok()?).ok()
}

fn tree_size(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { tree_size(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(sharing: Sharing) -> Wanted {
        Wanted { id: "x".into(), sharing, mode: 0o750, owner: (0, 0) }
    }

    #[tokio::test]
    async fn sharing_decides_who_gets_which_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts::open(dir.path().join("m"), Clock::system()).unwrap();
        let none = |_: &Root| Ok(());
        let one = mounts.take(&wanted(Sharing::Shared), none).await.unwrap();
        let two = mounts.take(&wanted(Sharing::Shared), none).await.unwrap();
        assert_eq!(one.path, two.path);
        let private = mounts.take(&wanted(Sharing::Private), none).await.unwrap();
        assert_ne!(private.path, one.path);
        assert!(mounts.list().iter().all(|e| e.in_use));
        drop((one, two, private));
        let locked = mounts.take(&wanted(Sharing::Locked), none).await.unwrap();
        let again = mounts.take(&wanted(Sharing::Private), none).await.unwrap();
        assert_ne!(locked.path, again.path);
        drop((locked, again));
        for entry in mounts.list() {
            assert!(mounts.remove(entry.id.strip_prefix(ID_PREFIX).unwrap()).unwrap());
        }
        assert!(mounts.list().is_empty());
    }

    /// Whoever comes second must find what the first has put there, not an empty directory of its own.
    #[tokio::test(flavor = "multi_thread")]
    async fn builds_that_share_a_new_cache_make_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Arc::new(Mounts::open(dir.path().join("m"), Clock::system()).unwrap());
        let seeded = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let takers: Vec<_> = (0..8)
            .map(|n| {
                let (mounts, seeded) = (mounts.clone(), seeded.clone());
                tokio::spawn(async move {
                    let seed = move |_: &Root| {
                        seeded.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok(())
                    };
                    let taken = mounts.take(&wanted(Sharing::Shared), seed).await.unwrap();
                    let file = taken.path.join(n.to_string());
                    write_atomic(&file, b"x", 0o600, Durability::Process).unwrap();
                    taken
                })
            })
            .collect();
        let mut all = Vec::new();
        for taker in takers {
            all.push(taker.await.unwrap());
        }
        assert_eq!(seeded.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(fs::read_dir(&all[0].path).unwrap().count(), 8);
    }

    #[tokio::test]
    async fn a_new_cache_is_seeded_once() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts::open(dir.path().join("m"), Clock::system()).unwrap();
        let seed = |root: &Root| {
            root.top().and_then(|t| t.make_dir("s".as_ref(), 0o755)).map_err(BuildError::io("seed"))
        };
        let path = mounts.take(&wanted(Sharing::Shared), seed).await.unwrap().path.clone();
        assert!(path.join("s").is_dir());
        fs::remove_dir(path.join("s")).unwrap();
        mounts.take(&wanted(Sharing::Shared), seed).await.unwrap();
        assert!(!path.join("s").exists());
    }
}
