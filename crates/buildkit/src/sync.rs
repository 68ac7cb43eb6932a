//! Contexts of wharf's own command line: it lists what there is, and sends only what a kept tree lacks.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use wharf_build::Tree;
use wharf_spec::listing::Listed;
use wharf_sys::root::{Dir, Kind, Metadata, Root, Time};

use crate::contexts::Contexts;
use crate::kit::BuildKit;

/// Entries that one list may have, and its bytes.
const MAX_ENTRIES: usize = 4_000_000;
const MAX_LIST: u64 = 1 << 30;
const NANOS: i64 = 1_000_000_000;
/// Of directories that are not listed.
const DIR_MODE: u32 = 0o755;

/// Why a context could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The list makes no sense.
    #[error("list of the build context: {0}")]
    List(String),
    /// What came is not what was listed: send all of it.
    #[error("the build context changed on its way: {0:?} is not as it was listed")]
    Changed(String),
    /// The archive is broken.
    #[error("the build context: {0}")]
    Archive(String),
    /// Files could not be stored here.
    #[error("keep the build context")]
    Io(#[from] io::Error),
}

impl BuildKit {
    /// Forgets the contexts that no build uses; gives their ids and bytes. Blocks.
    pub fn forget_contexts(&self) -> (Vec<String>, u64) {
        let contexts = self.contexts().usage().into_iter().filter(|c| !c.busy);
        let gone: Vec<_> = contexts.inspect(|c| self.contexts().remove(&c.key)).collect();
        let bytes = gone.iter().map(|c| c.bytes).sum();
        (gone.into_iter().map(|c| c.key).collect(), bytes)
    }

    /// Places, in a list that comes as JSON, of the files that the kept tree of `key` lacks. Blocks.
    pub fn missing(&self, key: &str, list: impl Read) -> Result<Vec<usize>, SyncError> {
        let list = parse(serde_json::from_reader(BufReader::new(list.take(MAX_LIST))))?;
        match self.contexts().last(&own(key)) {
            None => Ok((0..list.len()).filter(|n| list[*n].size.is_some()).collect()),
            Some(tree) => {
                let mut lists = Lists::of(&list, false);
                lists.look(&Root::open(tree.path())?.top()?, "")?;
                Ok(lists.lacking().filter(|n| list[*n].size.is_some()).collect())
            }
        }
    }

    /// The context of `key`: `upload` is a list as one line of JSON, and behind it an archive of the files that were
    /// missing. Blocks. The tree is kept, also a part of it, when its last clone is dropped.
    pub fn synced(&self, key: &str, upload: impl Read + Send) -> Result<Tree, SyncError> {
        let mut upload = BufReader::with_capacity(256 << 10, upload);
        let mut line = Vec::new();
        (&mut upload).take(MAX_LIST).read_until(b'\n', &mut line)?;
        let list = parse(serde_json::from_slice(&line))?;
        take(self.contexts(), &own(key), &list, upload)
    }
}

/// Keys of other clients are other keys.
fn own(key: &str) -> String {
    format!("wharf:{key}")
}

fn parse(read: serde_json::Result<Vec<Listed>>) -> Result<Vec<Listed>, SyncError> {
    let list = read.map_err(|e| SyncError::List(e.to_string()))?;
    if list.len() > MAX_ENTRIES {
        return Err(SyncError::List(format!("more than {MAX_ENTRIES} entries")));
    }
    match list.iter().find(|l| !l.is_sound()) {
        Some(wrong) => Err(SyncError::List(format!("{:?} is not plain and relative", wrong.path))),
        None => Ok(list),
    }
}

fn take(
    contexts: &Contexts,
    key: &str,
    list: &[Listed],
    archive: impl Read + Send,
) -> Result<Tree, SyncError> {
    let snapshot = contexts.resume(key)?;
    // Whatever is in it is compared again before it is used again.
    snapshot.set_whole(true);
    snapshot.set_bytes(list.iter().filter_map(|l| l.size).sum());
    let root = Root::open(snapshot.path())?;
    let mut lists = Lists::of(list, true);
    lists.look(&root.top()?, "")?;
    let lacking: Vec<usize> = lists.lacking().collect();
    for n in &lacking {
        make(&root, &list[*n])?;
    }
    wharf_engine::tar_in::unpack(&root, Path::new("/"), Some((0, 0)), archive)
        .map_err(|e| SyncError::Archive(e.message().to_owned()))?;
    for n in &lacking {
        settle(&root, &list[*n])?;
    }
    // Last, because every file that is made or removed touches its directory.
    for dir in list.iter().rev().filter(|l| l.is_dir()) {
        settle_dir(&root, dir)?;
    }
    let path = snapshot.path().to_owned();
    Ok(Tree::new(path, Arc::new(snapshot))?)
}

/// A tree beside a list of what should be in it.
struct Lists<'a> {
    list: &'a [Listed],
    places: HashMap<&'a str, usize>,
    /// Directories that are not listed themselves.
    implied: HashSet<&'a str>,
    found: Vec<bool>,
    /// Remove what is not listed, or is not as it is listed.
    clean: bool,
}

impl<'a> Lists<'a> {
    fn of(list: &'a [Listed], clean: bool) -> Self {
        let places: HashMap<&str, usize> =
            list.iter().enumerate().map(|(n, l)| (l.path.as_str(), n)).collect();
        let mut implied = HashSet::new();
        for listed in list {
            let mut path = listed.path.as_str();
            while let Some((parent, _)) = path.rsplit_once('/') {
                if places.contains_key(parent) || !implied.insert(parent) {
                    break;
                }
                path = parent;
            }
        }
        Lists { list, places, implied, found: vec![false; list.len()], clean }
    }

    /// Compares what is in a directory.
    fn look(&mut self, dir: &Dir, under: &str) -> io::Result<()> {
        for name in dir.entries()? {
            let text = name.to_string_lossy();
            let path = if under.is_empty() { text.into() } else { format!("{under}/{text}") };
            let meta = dir.lstat(&name)?;
            let right = match self.places.get(path.as_str()).copied() {
                Some(n) => {
                    self.found[n] = is_like(&self.list[n], &meta, dir, &name);
                    self.found[n]
                }
                None => meta.kind == Kind::Dir && self.implied.contains(path.as_str()),
            };
            if !right {
                if self.clean {
                    dir.remove_all(&name)?;
                }
            } else if meta.kind == Kind::Dir {
                self.look(&dir.dir(&name)?, &path)?;
            }
        }
        Ok(())
    }

    /// Places of what was not found.
    fn lacking(&self) -> impl Iterator<Item = usize> {
        self.found.iter().enumerate().filter(|(_, found)| !**found).map(|(n, _)| n)
    }
}

/// As far as one can tell without reading it. What a directory's mode and time are does not matter yet.
fn is_like(listed: &Listed, meta: &Metadata, dir: &Dir, name: &OsStr) -> bool {
    match (&listed.size, &listed.target) {
        (Some(size), _) => {
            meta.kind == Kind::File
                && meta.size == *size
                && meta.mode == listed.mode
                && meta.mtime == time(listed.mtime)
        }
        (None, Some(target)) => {
            meta.kind == Kind::Symlink
                && dir.read_link(name).is_ok_and(|found| found == OsStr::new(target))
        }
        (None, None) => meta.kind == Kind::Dir,
    }
}

/// Makes what needs no bytes.
fn make(root: &Root, listed: &Listed) -> io::Result<()> {
    let Some((parent, name)) = split(&listed.path) else { return Ok(()) };
    if let Some(target) = &listed.target {
        root.make_dirs(parent, DIR_MODE)?.symlink(name, OsStr::new(target))?;
    } else if listed.size.is_none() {
        root.make_dirs(parent, DIR_MODE)?.make_dir(name, listed.mode)?;
    }
    Ok(())
}

/// Gives what has come its exact mode and time; it must be of the size that was listed.
fn settle(root: &Root, listed: &Listed) -> Result<(), SyncError> {
    let Some((parent, name)) = split(&listed.path) else { return Ok(()) };
    let changed = |_| SyncError::Changed(listed.path.clone());
    if listed.is_dir() {
        return Ok(());
    }
    let dir = root.dir_without_symlinks(parent).map_err(changed)?;
    let meta = dir.lstat(name).map_err(changed)?;
    if let Some(size) = listed.size {
        if meta.kind != Kind::File || meta.size != size {
            return Err(SyncError::Changed(listed.path.clone()));
        }
        if meta.mode != listed.mode {
            dir.set_mode(name, listed.mode)?;
        }
    }
    Ok(dir.set_times(name, time(listed.mtime))?)
}

fn settle_dir(root: &Root, listed: &Listed) -> Result<(), SyncError> {
    let Some((parent, name)) = split(&listed.path) else { return Ok(()) };
    let changed = |_| SyncError::Changed(listed.path.clone());
    let dir = root.dir_without_symlinks(parent).map_err(changed)?;
    let meta = dir.lstat(name).map_err(changed)?;
    if meta.kind != Kind::Dir {
        return Err(SyncError::Changed(listed.path.clone()));
    }
    if meta.mode != listed.mode {
        dir.set_mode(name, listed.mode)?;
    }
    if meta.mtime != time(listed.mtime) {
        dir.set_times(name, time(listed.mtime))?;
    }
    Ok(())
}

fn split(path: &str) -> Option<(&Path, &OsStr)> {
    let path = Path::new(path);
    Some((path.parent()?, path.file_name()?))
}

fn time(nanos: i64) -> Time {
    let rest = nanos.rem_euclid(NANOS);
    Time { seconds: nanos.div_euclid(NANOS), nanos: u32::try_from(rest).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use wharf_base::clock::Clock;

    fn file(path: &str, size: u64, mtime: i64) -> Listed {
        Listed { path: path.into(), mode: 0o640, mtime, size: Some(size), target: None }
    }

    fn dir(path: &str) -> Listed {
        Listed { path: path.into(), mode: 0o750, mtime: 5, size: None, target: None }
    }

    fn link(path: &str, target: &str) -> Listed {
        Listed { path: path.into(), mode: 0o777, mtime: 5, size: None, target: Some(target.into()) }
    }

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o640);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    struct Fixture {
        _dir: tempfile::TempDir,
        contexts: Contexts,
    }

    impl Fixture {
        fn new() -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let contexts = Contexts::open(dir.path().to_owned(), Clock::system()).unwrap();
            Fixture { _dir: dir, contexts }
        }

        fn lacking(&self, list: &[Listed]) -> Vec<usize> {
            let tree = self.contexts.last("k").unwrap();
            let mut lists = Lists::of(list, false);
            lists.look(&Root::open(tree.path()).unwrap().top().unwrap(), "").unwrap();
            lists.lacking().collect()
        }

        fn take(&self, list: &[Listed], files: &[(&str, &str)]) -> Result<Tree, SyncError> {
            take(&self.contexts, "k", list, &archive(files)[..])
        }
    }

    #[test]
    fn only_what_changed_is_sent_again() {
        let f = Fixture::new();
        let mut list =
            vec![dir("d"), file("d/a", 1, 7_000_000_009), file("d/b", 2, 8), link("l", "d/a")];
        let tree = f.take(&list, &[("d/a", "1"), ("d/b", "22")]).unwrap();
        let a = fs::metadata(tree.path().join("d/a")).unwrap();
        assert_eq!((a.mode() & 0o7777, a.mtime(), a.mtime_nsec()), (0o640, 7, 9));
        assert_eq!(fs::metadata(tree.path().join("d")).unwrap().mtime_nsec(), 5);
        assert_eq!(fs::read_link(tree.path().join("l")).unwrap(), Path::new("d/a"));
        let inode = a.ino();
        drop(tree);
        assert!(f.lacking(&list).is_empty());
        list[2] = file("d/b", 3, 9);
        list[3] = link("l", "d");
        list.push(file("e/new", 1, 1));
        assert_eq!(f.lacking(&list), [2, 3, 4]);
        let tree = f.take(&list, &[("d/b", "333"), ("e/new", "n")]).unwrap();
        assert_eq!(fs::read_to_string(tree.path().join("d/b")).unwrap(), "333");
        assert_eq!(fs::metadata(tree.path().join("d/a")).unwrap().ino(), inode);
        drop(tree);
        list.remove(0);
        list.remove(0);
        assert!(f.lacking(&list).is_empty());
        let tree = f.take(&list, &[]).unwrap();
        assert!(!tree.path().join("d/a").exists() && tree.path().join("d/b").exists());
    }

    #[test]
    fn a_tree_in_use_stays_as_it_is() {
        let f = Fixture::new();
        let first = f.take(&[file("a", 1, 1)], &[("a", "1")]).unwrap();
        let second = f.take(&[file("a", 1, 2)], &[("a", "2")]).unwrap();
        let read = |tree: &Tree| fs::read_to_string(tree.path().join("a")).unwrap();
        assert_eq!((read(&first), read(&second)), ("1".into(), "2".into()));
        // Its files are not those that were said to be there.
        let third = f.take(&[file("a", 1, 1)], &[]);
        assert!(matches!(third, Err(SyncError::Changed(path)) if path == "a"));
    }

    #[test]
    fn nothing_leads_out() {
        let f = Fixture::new();
        let outside = tempfile::tempdir().unwrap();
        let list = [link("l", outside.path().to_str().unwrap()), file("l/x", 1, 1)];
        assert!(f.take(&list, &[("l/x", "1")]).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let wrong = serde_json::json!([{ "p": "../x", "m": 0, "t": 0 }]).to_string();
        assert!(matches!(parse(serde_json::from_str(&wrong)), Err(SyncError::List(_))));
    }
}
