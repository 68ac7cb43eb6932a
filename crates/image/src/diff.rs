//! What a container changed: its overlay upper directory as a tar with OCI whiteouts, or as a list.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use wharf_sys::root::{Dir, Kind, Metadata, Root};

use crate::body::{self, ByteStream};
use crate::tarball::{self, Meta};

/// One changed path, as `docker diff` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is in a lower layer too.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// The tar of an overlay upper directory, with deletions as OCI whiteouts. Entries are sorted, so equal
/// trees give equal tars.
pub fn diff_tar(upper: &Path) -> ByteStream {
    let upper = upper.to_owned();
    body::stream(move |out| write_tar(&upper, out, Marks::Whiteouts))
}

/// The tar of a whole file tree, as `docker export` sends it.
pub fn tree_tar(root: &Path) -> ByteStream {
    let root = root.to_owned();
    body::stream(move |out| write_tar(&root, out, Marks::Plain))
}

/// The tar of everything below an open root.
pub fn root_tar(root: Root) -> ByteStream {
    body::stream(move |out| write_root(&root, out, Marks::Plain, &BTreeSet::new()))
}

/// The changes of `upper` over `lowers` (top first), sorted by path.
pub fn changes(upper: &Path, lowers: &[PathBuf]) -> io::Result<Vec<Change>> {
    let lowers: io::Result<Vec<Root>> = lowers.iter().map(|dir| Root::open(dir)).collect();
    let mut found = Vec::new();
    list(&Root::open(upper)?.top()?, Path::new(""), &lowers?, false, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether overlayfs' marks are translated, or the tree is taken as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    Whiteouts,
    Plain,
}

/// Writes the tar of `dir` and its end marker.
pub(crate) fn write_tar(dir: &Path, out: &mut impl Write, marks: Marks) -> io::Result<()> {
    write_tar_without(dir, out, marks, &BTreeSet::new())
}

/// The same without the paths in `omit` and what is below them.
pub(crate) fn write_tar_without(
    dir: &Path,
    out: &mut impl Write,
    marks: Marks,
    omit: &BTreeSet<PathBuf>,
) -> io::Result<()> {
    write_root(&Root::open(dir)?, out, marks, omit)
}

fn write_root(
    root: &Root,
    out: &mut impl Write,
    marks: Marks,
    omit: &BTreeSet<PathBuf>,
) -> io::Result<()> {
    let mut walk = Walk { out, marks, omit, links: HashMap::new() };
    walk.dir(&root.top()?, Path::new(""))?;
    tarball::end(walk.out)
}

struct Walk<'a, W> {
    out: &'a mut W,
    marks: Marks,
    omit: &'a BTreeSet<PathBuf>,
    /// First path of files with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Walk<'_, W> {
    fn dir(&mut self, dir: &Dir, path: &Path) -> io::Result<()> {
        let mut names = dir.entries()?;
        names.sort();
        for name in names {
            let path = path.join(&name);
            if self.omit.contains(&path) {
                continue;
            }
            match dir.lstat(&name) {
                Ok(found) => self.entry(dir, &name, &path, found)?,
                // Removed while we walk: as if it had never been.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, name: &OsStr, path: &Path, found: Metadata) -> io::Result<()> {
        if found.is_whiteout() && self.marks == Marks::Whiteouts {
            let meta = Meta { mtime: found.mtime, ..Meta::default() };
            return tarball::file(self.out, &path.with_file_name(prefixed(name)), b"", &meta);
        }
        let meta = meta(dir, name, found)?;
        if found.kind != Kind::Dir && found.nlink > 1 {
            if let Some(first) = self.links.get(&(found.dev, found.ino)) {
                return tarball::header(self.out, path, tarball::Kind::HardLink(first), &meta);
            }
            self.links.insert((found.dev, found.ino), path.to_owned());
        }
        let (major, minor) = found.device();
        match found.kind {
            Kind::Dir => self.subdir(dir, name, path, &meta),
            Kind::File => self.file(dir, name, path, found.size, &meta),
            Kind::Symlink => {
                let target = PathBuf::from(dir.read_link(name)?);
                tarball::header(self.out, path, tarball::Kind::Symlink(&target), &meta)
            }
            Kind::CharDevice => {
                tarball::header(self.out, path, tarball::Kind::CharDevice(major, minor), &meta)
            }
            Kind::BlockDevice => {
                tarball::header(self.out, path, tarball::Kind::BlockDevice(major, minor), &meta)
            }
            Kind::Fifo => tarball::header(self.out, path, tarball::Kind::Fifo, &meta),
            // A socket means nothing without the process that listens.
            Kind::Socket => Ok(()),
        }
    }

    fn subdir(&mut self, dir: &Dir, name: &OsStr, path: &Path, meta: &Meta) -> io::Result<()> {
        tarball::header(self.out, path, tarball::Kind::Dir, meta)?;
        if self.marks == Marks::Whiteouts && is_opaque(dir, name)? {
            let mark = Meta { mtime: meta.mtime, ..Meta::default() };
            tarball::file(self.out, &path.join(".wh..wh..opq"), b"", &mark)?;
        }
        self.dir(&dir.dir(name)?, path)
    }

    /// A file that grows meanwhile is cut at the size in its header, one that shrinks is filled up with zeros: the
    /// archive stays well formed.
    fn file(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        size: u64,
        meta: &Meta,
    ) -> io::Result<()> {
        let file = dir.read(name)?;
        tarball::header(self.out, path, tarball::Kind::File(size), meta)?;
        let written = io::copy(&mut file.take(size), self.out)?;
        io::copy(&mut io::repeat(0).take(size - written), self.out)?;
        tarball::pad(self.out, size)
    }
}

fn meta(dir: &Dir, name: &OsStr, found: Metadata) -> io::Result<Meta> {
    let mut xattrs = Vec::new();
    for key in dir.xattr_keys(name)? {
        if is_portable(&key)
            && let Some(value) = dir.xattr(name, &key)?
        {
            xattrs.push((key, value));
        }
    }
    xattrs.sort();
    let Metadata { mode, uid, gid, mtime, .. } = found;
    Ok(Meta { mode, uid, gid, mtime, xattrs })
}

/// Attributes that belong to the file rather than to this machine.
fn is_portable(key: &OsStr) -> bool {
    let key = key.as_encoded_bytes();
    key == b"security.capability" || key.starts_with(b"user.") && !key.starts_with(b"user.overlay.")
}

fn is_opaque(dir: &Dir, name: &OsStr) -> io::Result<bool> {
    let value = dir.xattr(name, OsStr::new("trusted.overlay.opaque"))?;
    Ok(value.is_some_and(|v| v == b"y"))
}

fn prefixed(name: &OsStr) -> OsString {
    let mut whole = OsString::from(".wh.");
    whole.push(name);
    whole
}

fn list(
    dir: &Dir,
    path: &Path,
    lowers: &[Root],
    hidden: bool,
    found: &mut Vec<Change>,
) -> io::Result<()> {
    for name in dir.entries()? {
        let Ok(meta) = dir.lstat(&name) else { continue };
        let path = path.join(&name);
        let below = !hidden && is_below(lowers, &path);
        let kind = match (meta.is_whiteout(), below) {
            (true, _) => ChangeKind::Deleted,
            (false, true) => ChangeKind::Modified,
            (false, false) => ChangeKind::Added,
        };
        found.push(Change { path: Path::new("/").join(&path), kind });
        if meta.kind == Kind::Dir {
            let hidden = hidden || !below || is_opaque(dir, &name)?;
            list(&dir.dir(&name)?, &path, lowers, hidden, found)?;
        }
    }
    Ok(())
}

/// Whether the lower layers together show something at `path`: the first that has it, or hides it, decides.
fn is_below(lowers: &[Root], path: &Path) -> bool {
    for root in lowers {
        let mut here = PathBuf::new();
        let mut hides = false;
        for part in path.components() {
            let parent = root.dir_without_symlinks(&here);
            here.push(part);
            let name = part.as_os_str();
            match parent.and_then(|p| p.lstat(name).map(|m| (p, m))) {
                Ok((_, meta)) if meta.is_whiteout() => return false,
                Ok((_, _)) if here == path => return true,
                Ok((parent, meta)) if meta.kind == Kind::Dir => {
                    hides |= is_opaque(&parent, name).unwrap_or(false);
                }
                Ok(_) => return false,
                Err(_) => break,
            }
        }
        if hides {
            return false;
        }
    }
    false
}
