//! Watching files and directories, whatever is made in them later included, by the kernel's events.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};
use wharf_sys::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// A batch is over when nothing has changed for so long: an editor that saves all its files makes one.
const QUIET: Duration = Duration::from_millis(150);

/// A batch is over after so long however much goes on.
const LONGEST: Duration = Duration::from_secs(2);

/// Watched paths.
pub(super) struct Tree<F> {
    queue: AsyncFd<OwnedFd>,
    /// The watched directories by the kernel's number for them.
    dirs: HashMap<i32, PathBuf>,
    roots: Vec<PathBuf>,
    /// Whether a directory is worth watching.
    enters: F,
}

impl<F: Fn(&Path) -> bool> Tree<F> {
    /// Watches files and directories. Whoever wants a directory below them to be left alone says
    /// so by `enters`.
    pub(super) fn new(roots: Vec<PathBuf>, enters: F) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "the queue is owned by what is registered, so it stays open")]
        let queue = AsyncFd::new(queue)?;
        let mut tree = Self { queue, dirs: HashMap::new(), roots: roots.clone(), enters };
        for root in roots {
            tree.await_root(&root, &mut BTreeSet::new())?;
        }
        Ok(tree)
    }

    /// Watches what there is of a root: all of it, or the directory in which it will appear.
    fn await_root(&mut self, root: &Path, changed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        if root.is_dir() {
            return self.watch_all(root, changed);
        }
        if root.exists() {
            changed.insert(root.to_owned());
        }
        // Whoever replaces a file by another replaces the file's inode.
        let above = root.ancestors().skip(1).find(|a| a.is_dir());
        self.watch(above.unwrap_or(Path::new("/")))
    }

    /// The next changes, grouped. A path is a file that was written, made or removed, or a directory
    /// that was made or removed.
    pub(super) async fn batch(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        while changed.is_empty() {
            self.read(&mut changed).await?;
        }
        let last = Instant::now() + LONGEST;
        loop {
            let until = last.min(Instant::now() + QUIET);
            match timeout_at(until, self.read(&mut changed)).await {
                Ok(result) => result?,
                Err(_) => return Ok(changed),
            }
        }
    }

    /// Waits for events and takes those that are there.
    async fn read(&mut self, changed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let events = loop {
            let mut ready = self.queue.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 16 << 10];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            let mut events = Vec::new();
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|n| n.to_string_lossy().into_owned());
                        events.push((event.wd(), event.events(), name));
                    }
                    Err(e) if io::Error::from(e).kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e.into()),
                }
            }
            ready.clear_ready();
            if !events.is_empty() {
                break events;
            }
        };
        events.into_iter().try_for_each(|(wd, what, name)| self.take(wd, what, name, changed))
    }

    fn take(
        &mut self,
        wd: i32,
        what: ReadFlags,
        name: Option<String>,
        changed: &mut BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            // What was lost is not known, so everything counts as changed.
            return self.roots.clone().iter().try_for_each(|r| self.watch_all(r, changed));
        }
        if what.contains(ReadFlags::IGNORED) {
            self.dirs.remove(&wd);
            return Ok(());
        }
        let (Some(dir), Some(name)) = (self.dirs.get(&wd), name) else { return Ok(()) };
        let path = dir.join(name);
        let is_dir = what.contains(ReadFlags::ISDIR);
        if is_dir && what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            changed.insert(path.clone());
            return self.watch_all(&path, changed);
        }
        if is_dir && what.contains(ReadFlags::MOVED_FROM) {
            self.forget(&path);
        }
        if !is_dir || !what.contains(ReadFlags::ATTRIB) {
            changed.insert(path);
        }
        Ok(())
    }

    /// Watches a directory and what is below it; its files count as changed, since they may have been
    /// made before anybody watched.
    fn watch_all(&mut self, path: &Path, changed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        if path.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
            changed.insert(path.to_owned());
            return Ok(());
        }
        if !(self.enters)(path) {
            let roots = self.roots.clone();
            let below = roots.iter().filter(|r| r.starts_with(path) && *r != path);
            return below.into_iter().try_for_each(|root| self.await_root(root, changed));
        }
        match self.watch(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        let entries = match path.read_dir() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => self.watch_all(&entry.path(), changed)?,
                false => {
                    changed.insert(entry.path());
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, dir: &Path) -> io::Result<()> {
        let what = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let wd = inotify::add_watch(self.queue.get_ref(), dir, what).map_err(|e| {
            let e = io::Error::from(e);
            match e.raw_os_error() {
                // ENOSPC: inotify_add_watch(2).
                Some(28) => io::Error::other(format!(
                    "cannot watch {}: too many directories are watched: raise fs.inotify.max_user_watches",
                    dir.display()
                )),
                _ => e,
            }
        })?;
        self.dirs.insert(wd, dir.to_owned());
        Ok(())
    }

    /// A directory that has moved away is watched under a name that is no longer its own.
    fn forget(&mut self, path: &Path) {
        let gone: Vec<i32> =
            self.dirs.iter().filter(|(_, d)| d.starts_with(path)).map(|(wd, _)| *wd).collect();
        for wd in gone {
            self.dirs.remove(&wd);
            // It may have been removed meanwhile, and its watch with it.
            inotify::remove_watch(self.queue.get_ref(), wd).ok();
        }
    }
}

/// The files at a path and below it, as far as `enters` agrees.
pub(super) fn files(path: &Path, enters: &impl Fn(&Path) -> bool) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if !path.symlink_metadata()?.is_dir() {
            found.insert(path);
            continue;
        }
        if enters(&path) {
            for entry in path.read_dir()? {
                open.push(entry?.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write files as editors do")]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn what_is_made_in_a_new_directory_is_seen() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("skipped")).unwrap();
            let enters = |path: &Path| !path.ends_with("skipped");
            let mut tree = Tree::new(vec![dir.path().to_owned()], enters).unwrap();
            std::fs::write(dir.path().join("skipped/x"), "x").unwrap();
            std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
            std::fs::write(dir.path().join("a/b/c"), "c").unwrap();
            let changed = tree.batch().await.unwrap();
            assert!(changed.contains(&dir.path().join("a/b/c")), "{changed:?}");
            assert!(!changed.contains(&dir.path().join("skipped/x")));
            std::fs::remove_file(dir.path().join("a/b/c")).unwrap();
            let changed = tree.batch().await.unwrap();
            assert_eq!(changed, BTreeSet::from([dir.path().join("a/b/c")]));
        });
    }

    #[test]
    fn what_is_not_there_yet_is_awaited() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("later/deep");
            let own = root.clone();
            let enters = move |path: &Path| path.starts_with(&own);
            let mut tree = Tree::new(vec![root.clone()], enters).unwrap();
            for file in ["a", "b"] {
                std::fs::create_dir_all(&root).unwrap();
                std::fs::write(root.join(file), file).unwrap();
                assert!(tree.batch().await.unwrap().contains(&root.join(file)), "{file}");
            }
        });
    }

    #[test]
    fn a_file_is_seen_however_it_is_replaced() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            std::fs::write(&file, "1").unwrap();
            let mut tree = Tree::new(vec![file.clone()], |_: &Path| true).unwrap();
            for text in ["2", "3"] {
                std::fs::write(dir.path().join("new"), text).unwrap();
                std::fs::rename(dir.path().join("new"), &file).unwrap();
                assert!(tree.batch().await.unwrap().contains(&file));
            }
        });
    }
}
