//! Applies entries in order: directories, links and whiteouts here, files on the worker threads.
//!
//! Order matters only where two entries touch the same name. The parser remembers every name it has seen;
//! a new one may be created at any time, by anyone. For a name seen before, or one reached through a
//! symlink, it first waits until everything handed out is done. Hard links wait for the same moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use wharf_base::sync::Mutex;
use wharf_spec::digest::{Algorithm, Digest, Hasher};
use wharf_sys::root::{self, Dir, Kind, Root};

use super::entries::{Entries, Entry, EntryKind};
use super::feed::{Chunk, Feed};
use super::worker::{self, Attributes, Content, Job};
use super::{How, UnpackError, Unpacked};

/// Whiteout of a name: `.wh.name`.
const WHITEOUT: &[u8] = b".wh.";
/// Names that begin with it are aufs' own, except the opaque marker.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Everything of lower layers in this directory is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Open directories kept; more would press on the limit of open files.
const DIRS_MAX: usize = 128;
/// Files in a batch, and bytes: enough to make waking a thread worth it.
const BATCH_FILES: usize = 32;
const BATCH_BYTES: usize = 512 << 10;
/// Larger files are streamed to their thread.
const WHOLE_MAX: u64 = 512 << 10;
/// Content between two looks at the free space of the disk.
const SPACE_STEP: u64 = 64 << 20;
/// The longest name the kernel takes.
const PATH_MAX: usize = 4095;

/// Unpacks the plain tar `input` below `root`.
pub(super) fn run(input: impl Read, root: &Root, how: &How) -> Result<Unpacked, UnpackError> {
    let exact_modes = root::clear_thread_umask().is_ok();
    let (to_hasher, chunks) = sync_channel::<Chunk>(16);
    let (to_workers, jobs) = sync_channel::<Vec<Job>>(64);
    let (to_parser, done) = channel();
    let jobs = Mutex::new(jobs);
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || hash(&chunks));
        for _ in 0..how.threads.max(1) {
            let (jobs, done) = (&jobs, to_parser.clone());
            scope.spawn(move || worker::run(jobs, &done));
        }
        drop(to_parser);
        let result = {
            let entries = Entries::new(Feed::new(input, Some(to_hasher)));
            let mut apply = Apply::new(root, how, to_workers, done)?;
            apply.exact_modes = exact_modes;
            apply.all(entries)
        };
        let diff_id = hasher.join().map_err(|_| UnpackError::Panicked)?;
        Ok(Unpacked { diff_id, size: result? })
    })
}

/// Whether a layer may set this attribute. `trusted.*` would let it talk to overlayfs, and
/// `user.overlay.*` to an unprivileged one.
pub(super) fn keeps_xattr(key: &OsStr) -> bool {
    let key = key.as_bytes();
    !key.starts_with(b"trusted.") && !key.starts_with(b"user.overlay.")
}

fn hash(chunks: &Receiver<Chunk>) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    while let Ok(chunk) = chunks.recv() {
        hasher.update(&chunk);
    }
    hasher.finish()
}

struct Apply<'a> {
    root: &'a Root,
    how: &'a How,
    to_workers: SyncSender<Vec<Job>>,
    done: Receiver<Result<(), UnpackError>>,
    /// Batches handed out and not reported back.
    pending: usize,
    batch: Vec<Job>,
    batch_bytes: usize,
    /// Open directories by path.
    dirs: HashMap<PathBuf, Arc<Dir>>,
    /// Hashes of all names seen. A collision costs a wait, nothing else.
    seen: HashSet<u64>,
    hash: RandomState,
    /// Hard links not made yet: name and target.
    links: Vec<(PathBuf, PathBuf)>,
    /// Attributes of directories, set when nothing more is created in them.
    dir_attributes: BTreeMap<PathBuf, Attributes>,
    /// A directory was reached through a symlink, so names say no more which files are the same.
    aliased: bool,
    /// Whether modes come out as given, without a umask.
    exact_modes: bool,
    size: u64,
    entries: u64,
    space_checked: u64,
}

impl<'a> Apply<'a> {
    fn new(
        root: &'a Root,
        how: &'a How,
        to_workers: SyncSender<Vec<Job>>,
        done: Receiver<Result<(), UnpackError>>,
    ) -> Result<Self, UnpackError> {
        let top = root.top().map_err(file_error("open", Path::new("/")))?;
        Ok(Self {
            root,
            how,
            to_workers,
            done,
            pending: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            dirs: HashMap::from([(PathBuf::new(), Arc::new(top))]),
            seen: HashSet::new(),
            hash: RandomState::new(),
            links: Vec::new(),
            dir_attributes: BTreeMap::new(),
            aliased: false,
            exact_modes: false,
            size: 0,
            entries: 0,
            space_checked: 0,
        })
    }

    /// Applies everything and returns the bytes of content.
    fn all(&mut self, mut entries: Entries<impl Read>) -> Result<u64, UnpackError> {
        while let Some(entry) = entries.next()? {
            self.count(&entry)?;
            self.entry(entry, &mut entries)?;
        }
        self.settle()?;
        self.finish_dirs()?;
        entries.drain()?;
        Ok(self.size)
    }

    fn count(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let limits = &self.how.limits;
        self.entries += 1;
        if self.entries > limits.entries {
            return Err(UnpackError::Limit { what: "entries", limit: limits.entries });
        }
        let size = match entry.kind {
            EntryKind::File { size } => size,
            EntryKind::Sparse { stored, .. } => stored,
            _ => 0,
        };
        self.size = self.size.saturating_add(size);
        if self.size > limits.bytes {
            return Err(UnpackError::Limit { what: "bytes", limit: limits.bytes });
        }
        if self.size - self.space_checked.min(self.size) >= SPACE_STEP || self.entries == 1 {
            self.space_checked = self.size;
            let free = self.root.free_bytes().map_err(file_error("measure", Path::new("/")))?;
            let free = free.saturating_sub(limits.keep_free);
            if size > free {
                return Err(UnpackError::Space { path: entry.path.clone(), needed: size, free });
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, from: &mut Entries<impl Read>) -> Result<(), UnpackError> {
        if entry.path.as_os_str().len() > PATH_MAX {
            let source = io::Error::from(io::ErrorKind::InvalidFilename);
            return Err(UnpackError::File { action: "create", path: entry.path, source });
        }
        let Some(name) = entry.path.file_name().map(OsStr::to_owned) else {
            return self.top(entry);
        };
        let parent_path = entry.path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.dir(&parent_path)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&entry, &parent_path, &parent, &name);
        }
        if !self.is_new(&entry.path) {
            self.settle()?;
            if self.replace(&entry, &parent, &name)? {
                return Ok(());
            }
        }
        self.create(entry, parent, name, from)
    }

    fn create(
        &mut self,
        entry: Entry,
        parent: Arc<Dir>,
        name: OsString,
        from: &mut Entries<impl Read>,
    ) -> Result<(), UnpackError> {
        let attributes = attributes(&entry);
        let path = &entry.path;
        match entry.kind {
            EntryKind::File { size } => self.file(
                Job {
                    dir: parent,
                    name,
                    path: entry.path,
                    attributes,
                    content: Content::Whole(Vec::new()),
                    sparse: None,
                },
                size,
                from,
            ),
            EntryKind::Sparse { stored, real, pieces } => self.file(
                Job {
                    dir: parent,
                    name,
                    path: entry.path,
                    attributes,
                    content: Content::Whole(Vec::new()),
                    sparse: Some((pieces, real)),
                },
                stored,
                from,
            ),
            EntryKind::Dir => {
                parent
                    .make_dir(&name, attributes.mode & 0o777)
                    .map_err(file_error("create", path))?;
                self.dir_attributes.insert(entry.path, attributes);
                Ok(())
            }
            EntryKind::Symlink { target } => {
                parent.symlink(&name, &target).map_err(file_error("create", path))?;
                set_attributes(&parent, &name, path, &attributes, false)
            }
            EntryKind::HardLink { target } => {
                self.links.push((entry.path, target));
                Ok(())
            }
            EntryKind::CharDevice(major, minor) => {
                node(&parent, &name, path, Kind::CharDevice, (major, minor), &attributes)
            }
            EntryKind::BlockDevice(major, minor) => {
                node(&parent, &name, path, Kind::BlockDevice, (major, minor), &attributes)
            }
            EntryKind::Fifo => node(&parent, &name, path, Kind::Fifo, (0, 0), &attributes),
        }
    }

    /// Hands a file over: small ones whole, in batches; large ones as a stream.
    fn file(
        &mut self,
        mut job: Job,
        size: u64,
        from: &mut Entries<impl Read>,
    ) -> Result<(), UnpackError> {
        if size <= WHOLE_MAX {
            let mut chunks = Vec::new();
            while let Some(chunk) = from.content()? {
                self.batch_bytes += chunk.len();
                chunks.push(chunk);
            }
            job.content = Content::Whole(chunks);
            self.batch.push(job);
            if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
                self.hand_out()?;
            }
            return Ok(());
        }
        let (send, receive) = sync_channel(8);
        job.content = Content::Stream(receive, size);
        self.batch.push(job);
        self.hand_out()?;
        while let Some(chunk) = from.content()? {
            if send.send(chunk).is_err() {
                // The worker gave up; its report says why.
                return self.wait();
            }
        }
        Ok(())
    }

    fn hand_out(&mut self) -> Result<(), UnpackError> {
        self.batch_bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        self.pending += 1;
        if self.to_workers.send(std::mem::take(&mut self.batch)).is_err() {
            return Err(UnpackError::Panicked);
        }
        while let Ok(result) = self.done.try_recv() {
            self.pending -= 1;
            result?;
        }
        Ok(())
    }

    /// Waits until everything handed out is done.
    fn wait(&mut self) -> Result<(), UnpackError> {
        self.hand_out()?;
        while self.pending > 0 {
            let result = self.done.recv().map_err(|_| UnpackError::Panicked)?;
            self.pending -= 1;
            result?;
        }
        Ok(())
    }

    /// Waits, and makes the hard links.
    fn settle(&mut self) -> Result<(), UnpackError> {
        self.wait()?;
        for (path, target) in std::mem::take(&mut self.links) {
            let wrong = |source| UnpackError::File { action: "link", path: path.clone(), source };
            let (Some(name), Some(old)) = (path.file_name(), target.file_name()) else {
                return Err(wrong(io::ErrorKind::InvalidInput.into()));
            };
            let to = self.existing_dir(path.parent().unwrap_or(Path::new("")))?;
            let from = self.existing_dir(target.parent().unwrap_or(Path::new("")))?;
            to.hard_link(name, &from, old).map_err(wrong)?;
        }
        Ok(())
    }

    /// Makes way for an entry whose name was seen before. Says whether that is all there is to do: a
    /// directory that is there already only gets new attributes.
    fn replace(&mut self, entry: &Entry, parent: &Dir, name: &OsStr) -> Result<bool, UnpackError> {
        let wrong = |action| file_error(action, &entry.path);
        let there = match parent.lstat(name) {
            Ok(there) => there,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(wrong("look at")(e)),
        };
        if there.kind == Kind::Dir && entry.kind == EntryKind::Dir {
            return self.redo_dir(entry, parent, name);
        }
        // `x` linked to itself, or again to what it is linked to, is no change.
        if let EntryKind::HardLink { target } = &entry.kind
            && self.is_same_file(there, target)
        {
            return Ok(true);
        }
        self.forget_dirs(&entry.path);
        if !there.is_whiteout() {
            parent.remove_all(name).map_err(wrong("replace"))?;
        } else if entry.kind != EntryKind::Dir {
            parent.unlink(name).map_err(wrong("replace"))?;
        }
        if there.is_whiteout() && entry.kind == EntryKind::Dir {
            remake(parent, name).map_err(wrong("create"))?;
            return self.redo_dir(entry, parent, name);
        }
        Ok(false)
    }

    /// New attributes for a directory that is there.
    fn redo_dir(&mut self, entry: &Entry, parent: &Dir, name: &OsStr) -> Result<bool, UnpackError> {
        parent
            .set_mode(name, entry.mode & 0o777)
            .map_err(file_error("set the mode of", &entry.path))?;
        self.dir_attributes.insert(entry.path.clone(), attributes(entry));
        Ok(true)
    }

    fn is_same_file(&mut self, there: root::Metadata, target: &Path) -> bool {
        let Some(name) = target.file_name() else { return false };
        let parent = self.existing_dir(target.parent().unwrap_or(Path::new("")));
        let other = parent.ok().and_then(|dir| dir.lstat(name).ok());
        other.is_some_and(|o| (o.dev, o.ino) == (there.dev, there.ino))
    }

    fn whiteout(
        &mut self,
        entry: &Entry,
        parent_path: &Path,
        parent: &Dir,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let wrong = |action| file_error(action, &entry.path);
        if name.as_bytes() == OPAQUE {
            return self.opaque(parent_path).map_err(wrong("mark"));
        }
        if name.as_bytes().starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(UnpackError::Escape(entry.path.clone()));
        }
        let path = parent_path.join(hidden);
        if !self.is_new(&path) {
            self.settle()?;
            // A whiteout hides lower layers only. What this layer made stays; a directory hides by being opaque.
            match parent.lstat(hidden) {
                Ok(there) if there.kind == Kind::Dir => {
                    return set_opaque(parent, hidden).map_err(wrong("mark"));
                }
                Ok(_) => return Ok(()),
                Err(_) => {}
            }
        }
        parent.make_node(hidden, Kind::CharDevice, 0, (0, 0)).map_err(wrong("create"))
    }

    fn opaque(&mut self, dir: &Path) -> io::Result<()> {
        match (dir.parent(), dir.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = self.root.dir(parent)?;
                // Through a symlink it is the directory behind it that is opaque.
                match parent.lstat(name)?.kind {
                    Kind::Dir => set_opaque(&parent, name),
                    _ => Err(io::ErrorKind::NotADirectory.into()),
                }
            }
            _ => self.root.top()?.set_own_xattr(OsStr::new("trusted.overlay.opaque"), b"y"),
        }
    }

    /// The entry of the root directory itself.
    fn top(&mut self, entry: Entry) -> Result<(), UnpackError> {
        if entry.kind != EntryKind::Dir {
            return Err(UnpackError::Escape(PathBuf::from("/")));
        }
        let attributes = attributes(&entry);
        self.dir_attributes.insert(PathBuf::new(), attributes);
        Ok(())
    }

    /// The directory at `path`, made if it is missing. Each component is looked up by itself, so a symlink is noticed;
    /// then the kernel resolves the path inside the root.
    fn dir(&mut self, path: &Path) -> Result<Arc<Dir>, UnpackError> {
        if let Some(dir) = self.dirs.get(path) {
            return Ok(dir.clone());
        }
        let Some(name) = path.file_name() else {
            return self.existing_dir(Path::new(""));
        };
        let parent = self.dir(path.parent().unwrap_or(Path::new("")))?;
        let found = match parent.dir(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.missing_dir(path, &parent, name),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                // Whatever is behind the symlink may still be on its way.
                self.settle()?;
                if parent.lstat(name).is_ok_and(|there| there.is_whiteout()) {
                    remake(&parent, name).and_then(|()| parent.dir(name))
                } else {
                    self.aliased = true;
                    return self.root.dir(path).map(Arc::new).map_err(file_error("open", path));
                }
            }
            other => other,
        };
        let dir = Arc::new(found.map_err(file_error("open", path))?);
        self.remember(path, &dir);
        Ok(dir)
    }

    /// A directory that has no entry of its own.
    fn missing_dir(&mut self, path: &Path, parent: &Dir, name: &OsStr) -> io::Result<Dir> {
        self.is_new(path);
        parent.make_dir(name, 0o755)?;
        parent.dir(name)
    }

    fn existing_dir(&mut self, path: &Path) -> Result<Arc<Dir>, UnpackError> {
        if let Some(dir) = self.dirs.get(path) {
            return Ok(dir.clone());
        }
        let dir = self.root.dir(path).map_err(file_error("open", path))?;
        Ok(Arc::new(dir))
    }

    fn remember(&mut self, path: &Path, dir: &Arc<Dir>) {
        if self.dirs.len() >= DIRS_MAX {
            self.dirs.retain(|kept, _| path.starts_with(kept));
        }
        self.dirs.insert(path.to_owned(), dir.clone());
    }

    /// Whatever was known below `path` is not so any more.
    fn forget_dirs(&mut self, path: &Path) {
        self.dirs.retain(|kept, _| !kept.starts_with(path));
        self.dir_attributes.retain(|kept, _| !kept.starts_with(path));
    }

    /// Whether `path` was never seen; from now on it was.
    fn is_new(&mut self, path: &Path) -> bool {
        self.seen.insert(self.hash.hash_one(path.as_os_str())) && !self.aliased
    }

    fn finish_dirs(&mut self) -> Result<(), UnpackError> {
        let all = std::mem::take(&mut self.dir_attributes);
        for (path, attributes) in &all {
            let Some(name) = path.file_name() else {
                let top = self.root.top().map_err(file_error("open", path))?;
                let Attributes { mode, uid, gid, mtime, .. } = attributes;
                top.set_own_attributes(*uid, *gid, *mode, *mtime)
                    .map_err(file_error("set attributes of", Path::new("/")))?;
                continue;
            };
            let parent = self.existing_dir(path.parent().unwrap_or(Path::new("")))?;
            let mode = !self.exact_modes || attributes.mode & 0o7000 != 0;
            set_attributes(&parent, name, path, attributes, mode)?;
        }
        Ok(())
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
    }
}

fn node(
    parent: &Dir,
    name: &OsStr,
    path: &Path,
    kind: Kind,
    device: (u32, u32),
    attributes: &Attributes,
) -> Result<(), UnpackError> {
    parent
        .make_node(name, kind, attributes.mode & 0o777, device)
        .map_err(file_error("create", path))?;
    set_attributes(parent, name, path, attributes, true)
}

/// Sets what can be set without opening the thing. Owner before mode before attributes, as for files.
fn set_attributes(
    parent: &Dir,
    name: &OsStr,
    path: &Path,
    attributes: &Attributes,
    mode: bool,
) -> Result<(), UnpackError> {
    let Attributes { mode: bits, uid, gid, mtime, xattrs } = attributes;
    let is_own = *uid == 0 && *gid == 0;
    if !is_own {
        parent.set_owner(name, *uid, *gid).map_err(file_error("set the owner of", path))?;
    }
    if mode {
        parent.set_mode(name, *bits).map_err(file_error("set the mode of", path))?;
    }
    for (key, value) in xattrs.iter().filter(|(key, _)| keeps_xattr(key)) {
        parent.set_xattr(name, key, value).map_err(file_error("set an attribute of", path))?;
    }
    parent.set_times(name, *mtime).map_err(file_error("set the time of", path))
}

/// Removed below and made anew here: nothing of lower layers shows through.
fn remake(parent: &Dir, name: &OsStr) -> io::Result<()> {
    parent.unlink(name)?;
    parent.make_dir(name, 0o755)?;
    set_opaque(parent, name)
}

fn set_opaque(parent: &Dir, name: &OsStr) -> io::Result<()> {
    parent.set_xattr(name, OsStr::new("trusted.overlay.opaque"), b"y")
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError + use<> {
    let path = path.to_owned();
    move |source| UnpackError::File { action, path, source }
}
