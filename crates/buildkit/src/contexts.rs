//! What clients sent, kept on disk by its shared key: a client sends again only what has changed.
//!
//! A build fills a directory of its own, with hard links to files of the last tree of the same key. When the build
//! has ended well, its directory becomes the last tree. Directories of trees are named `ctx-KEY-RANDOM`,
//! those that are being filled `new-KEY-RANDOM`; at the start the latter go.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use wharf_base::Id;
use wharf_base::clock::Clock;
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_sys::root::Root;

/// Trees that are kept; beyond that the one that was not used for longest goes.
const MOST: usize = 64;
const TREE: &str = "ctx-";
const FRESH: &str = "new-";

/// All that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Contexts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    trees: Mutex<HashMap<String, Arc<Tree>>>,
    clock: Clock,
}

/// A complete tree on disk. It goes when it was replaced and nobody uses it.
#[derive(Debug)]
pub(crate) struct Tree {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    replaced: AtomicBool,
}

/// One kept tree, for people.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// Its key, as a digest.
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) used: SystemTime,
    /// A build links to it now.
    pub(crate) busy: bool,
}

impl Contexts {
    /// What is kept in `dir`, which is made if it is missing. Blocks.
    pub(crate) fn open(dir: PathBuf, clock: Clock) -> io::Result<Contexts> {
        wharf_base::fs::private_dir(&dir)?;
        let mut trees: HashMap<String, Arc<Tree>> = HashMap::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let key = name.strip_prefix(TREE).and_then(|n| n.split('-').next()).map(str::to_owned);
            let Some(key) = key.filter(|k| !trees.contains_key(k)) else {
                remove(&entry.path());
                continue;
            };
            let (used, bytes) = (entry.metadata()?.modified()?, size(&entry.path())?);
            let replaced = AtomicBool::new(false);
            trees.insert(key, Arc::new(Tree { path: entry.path(), bytes, used, replaced }));
        }
        Ok(Contexts(Arc::new(Inner { dir, trees: Mutex::new(trees), clock })))
    }

    /// A fresh directory for files of `key`; without a key it is of no use to others. Blocks.
    pub(crate) fn begin(&self, key: Option<&str>) -> io::Result<Snapshot> {
        let key = key.map(hashed);
        let base = key.as_ref().and_then(|key| self.0.trees.lock().get(key).cloned());
        self.fresh(key, base)
    }

    fn fresh(&self, key: Option<String>, base: Option<Arc<Tree>>) -> io::Result<Snapshot> {
        let name = format!("{FRESH}{}-{}", key.as_deref().unwrap_or("once"), Id::random().short());
        let path = self.0.dir.join(name);
        wharf_base::fs::private_dir(&path)?;
        let (whole, bytes) = (AtomicBool::new(false), OnceLock::new());
        Ok(Snapshot { contexts: self.clone(), key, path, base, whole, bytes })
    }

    /// The last tree of that key.
    pub(crate) fn last(&self, key: &str) -> Option<Arc<Tree>> {
        self.0.trees.lock().get(&hashed(key)).cloned()
    }

    /// The last tree of the key itself, to be changed in place: nobody else has it from now on. A fresh directory if there is
    /// none, or somebody uses it. Blocks.
    pub(crate) fn resume(&self, key: &str) -> io::Result<Snapshot> {
        let fresh = self.fresh(Some(hashed(key)), None)?;
        let mut trees = self.0.trees.lock();
        let last = trees.remove(&hashed(key));
        match last.map(Arc::try_unwrap) {
            // An empty directory gives way to a rename.
            Some(Ok(last)) => fs::rename(&last.path, &fresh.path)?,
            Some(Err(used)) => drop(trees.insert(hashed(key), used)),
            None => (),
        }
        Ok(fresh)
    }

    /// What is kept.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        let trees = self.0.trees.lock();
        let usage = |(key, tree): (&String, &Arc<Tree>)| Usage {
            key: key.clone(),
            bytes: tree.bytes,
            used: tree.used,
            busy: Arc::strong_count(tree) > 1,
        };
        trees.iter().map(usage).collect()
    }

    /// Bytes that are free where trees are kept, which is where everything else of builds is. Blocks, hardly.
    pub(crate) fn free_bytes(&self) -> io::Result<i64> {
        let free = Root::open(&self.0.dir)?.free_bytes()?;
        Ok(i64::try_from(free).unwrap_or(i64::MAX))
    }

    /// Forgets the tree of that key.
    pub(crate) fn remove(&self, key: &str) {
        if let Some(tree) = self.0.trees.lock().remove(key) {
            tree.replaced.store(true, Ordering::Relaxed);
        }
    }

    fn keep(&self, key: &str, tree: Tree) {
        let mut trees = self.0.trees.lock();
        let mut gone: Vec<Arc<Tree>> =
            trees.insert(key.to_owned(), Arc::new(tree)).into_iter().collect();
        while trees.len() > MOST {
            let oldest = trees.iter().min_by_key(|(_, t)| t.used).map(|(k, _)| k.clone());
            gone.extend(oldest.and_then(|k| trees.remove(&k)));
        }
        drop(trees);
        for tree in gone {
            tree.replaced.store(true, Ordering::Relaxed);
        }
    }
}

fn hashed(key: &str) -> String {
    Digest::sha256(key.as_bytes()).hex()[..32].to_owned()
}

impl Tree {
    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if *self.replaced.get_mut() {
            let path = std::mem::take(&mut self.path);
            aside(move || remove(&path));
        }
    }
}

/// A directory that one build fills. Dropped, it replaces the last tree of its key, if it is complete.
#[derive(Debug)]
pub(crate) struct Snapshot {
    contexts: Contexts,
    key: Option<String>,
    path: PathBuf,
    base: Option<Arc<Tree>>,
    /// It is worth keeping.
    whole: AtomicBool,
    /// What its files measure, if that is known without looking.
    bytes: OnceLock<u64>,
}

impl Snapshot {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last tree of the key.
    pub(crate) fn base(&self) -> Option<&Path> {
        self.base.as_ref().map(|t| t.path.as_path())
    }

    /// Says what its files measure.
    pub(crate) fn set_bytes(&self, bytes: u64) {
        // Only the first says it.
        let _already = self.bytes.set(bytes);
    }

    /// Says whether what is in it is complete as far as it was asked for.
    pub(crate) fn set_whole(&self, whole: bool) {
        self.whole.store(whole, Ordering::Relaxed);
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let Some(key) = self.key.take().filter(|_| *self.whole.get_mut()) else {
            let path = std::mem::take(&mut self.path);
            return aside(move || remove(&path));
        };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let to = self.path.with_file_name(name.replacen(FRESH, TREE, 1));
        if let Err(error) = fs::rename(&self.path, &to) {
            tracing::warn!(path = %self.path.display(), %error, "a context cannot be kept");
            return remove(&self.path);
        }
        let known = self.bytes.get().copied();
        let bytes = known.unwrap_or_else(|| size(&to).unwrap_or_default());
        let (used, replaced) = (self.contexts.0.clock.now(), AtomicBool::new(false));
        self.contexts.keep(&key, Tree { path: to, bytes, used, replaced });
    }
}

/// Bytes of the files below a directory.
fn size(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "a context cannot be removed");
    }
}

/// Does blocking work where it blocks nobody.
fn aside(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().to_string_lossy()[..4].to_owned()).collect()
    }

    #[test]
    fn the_last_complete_tree_of_a_key_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::open(dir.path().to_owned(), Clock::system()).unwrap();
        let first = contexts.begin(Some("k")).unwrap();
        assert_eq!(first.base(), None);
        fs::write(first.path().join("f"), "12345").unwrap();
        first.set_whole(true);
        drop(first);
        let failed = contexts.begin(Some("k")).unwrap();
        assert!(failed.base().unwrap().join("f").exists());
        failed.set_whole(true);
        failed.set_whole(false);
        drop(failed);
        assert_eq!(names(dir.path()), [TREE]);
        let second = contexts.begin(Some("k")).unwrap();
        let old = second.base().unwrap().to_owned();
        second.set_whole(true);
        drop(second);
        assert!(!old.exists());
        assert_eq!(contexts.usage().len(), 1);
        drop(contexts);
        let again = Contexts::open(dir.path().to_owned(), Clock::system()).unwrap();
        assert!(again.begin(Some("k")).unwrap().base().is_some());
        assert!(again.begin(Some("other")).unwrap().base().is_none());
        let key = again.usage()[0].key.clone();
        again.remove(&key);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_tree_in_use_outlives_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::open(dir.path().to_owned(), Clock::system()).unwrap();
        contexts.begin(Some("k")).unwrap().set_whole(true);
        let user = contexts.begin(Some("k")).unwrap();
        contexts.begin(Some("k")).unwrap().set_whole(true);
        assert!(user.base().unwrap().exists());
        let old = user.base().unwrap().to_owned();
        drop(user);
        assert!(!old.exists());
    }

    #[test]
    fn what_was_being_filled_goes_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("new-key-1")).unwrap();
        Contexts::open(dir.path().to_owned(), Clock::system()).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
