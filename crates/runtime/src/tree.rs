//! Paths inside a container's root: found or made without ever leaving it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_sys::errno;
use wharf_sys::fs::{self, FileType, Mode, OFlags};

/// Links followed by hand before it is called a loop, as in the kernel.
const LINKS: u32 = 40;

/// What a mount point has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Dir,
    File,
}

/// Finds a path inside `root`.
pub(crate) fn find(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    fs::open_in_root(root, path, OFlags::PATH)
}

/// Finds or makes a mount point inside `root`.
pub(crate) fn find_or_make(root: BorrowedFd<'_>, path: &Path, want: Want) -> io::Result<OwnedFd> {
    match find(root, path) {
        Err(e) if e.raw_os_error() == Some(errno::NOENT) => (),
        other => return other,
    }
    if want == Want::Dir {
        return make_dirs(root, path, LINKS);
    }
    let (parent, name) = split(path)?;
    let dir = make_dirs(root, parent, LINKS)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match fs::openat(&dir, name, flags, Mode::from_raw_mode(0o755)) {
        // A dangling link: what it points to is made in its place.
        Err(e) if e.raw_os_error() == errno::LOOP => {
            let target = link_target(&dir, parent, name)?;
            let (parent, name) = split(&target)?;
            let dir = make_dirs(root, parent, LINKS)?;
            drop(fs::openat(&dir, name, flags | OFlags::EXCL, Mode::from_raw_mode(0o755))?);
        }
        other => drop(other?),
    }
    find(root, path)
}

/// Opens a directory inside `root` that must be one itself, not a link to one: `/proc`, `/sys` and
/// `/dev` of an image may be links that lead a later step astray (CVE-2023-27561, CVE-2026-41579).
pub(crate) fn plain_dir(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let fd = match fs::open_in_root(root, path, flags) {
        Err(e) if e.raw_os_error() == Some(errno::NOENT) => make_dirs(root, path, 0)?,
        other => other?,
    };
    match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
        FileType::Directory => Ok(fd),
        _ => Err(io::Error::from_raw_os_error(errno::NOTDIR)),
    }
}

fn make_dirs(root: BorrowedFd<'_>, path: &Path, links: u32) -> io::Result<OwnedFd> {
    let mut done = PathBuf::from("/");
    let mut dir = find(root, &done)?;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { continue };
        let parent = done.clone();
        done.push(name);
        dir = match find(root, &done) {
            Err(e) if e.raw_os_error() == Some(errno::NOENT) => {
                match fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                    Err(e) if e.raw_os_error() == errno::EXIST && links > 0 => {
                        let target = link_target(&dir, &parent, Path::new(name))?;
                        make_dirs(root, &target, links - 1)?
                    }
                    made => {
                        made?;
                        find(root, &done)?
                    }
                }
            }
            found => found?,
        };
    }
    Ok(dir)
}

/// Where a link points, from the root.
fn link_target(dir: &OwnedFd, parent: &Path, name: &Path) -> io::Result<PathBuf> {
    let link = fs::readlinkat(dir, name, Vec::new())?;
    let link = PathBuf::from(String::from_utf8_lossy(link.as_bytes()).into_owned());
    let mut out = if link.is_absolute() { PathBuf::from("/") } else { parent.to_owned() };
    for part in link.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => (),
        }
    }
    Ok(out)
}

/// Parent and name of a path.
pub(crate) fn split(path: &Path) -> io::Result<(&Path, &Path)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, Path::new(name))),
        _ => Err(io::Error::from_raw_os_error(errno::EXIST)),
    }
}

/// A file name below an open directory, opened for writing without following a link there.
pub(crate) fn open_to_write(dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<std::fs::File> {
    Ok(fs::open_beneath(dir, path, OFlags::WRONLY)?.into())
}
