//! A file tree that nobody gets out of: every lookup stays below one directory.
//!
//! [`Root`] takes whole paths and resolves them in the kernel with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`: `..` stops at the root and an absolute symlink starts
//! again at it, also while someone else renames directories. [`Dir`] is one directory, held open; its
//! operations take one name, never a path, and never follow a symlink. Whoever works on many files
//! of a directory looks the directory up once.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};

/// Everything below one directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// One directory, held open.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What `stat` says, in the types of this crate.
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits: `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Device number, for devices.
    pub rdev: u64,
    /// File system it is on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Names it has.
    pub nlink: u64,
    /// Disk space in units of 512 bytes; less than the size for a sparse file.
    pub blocks: u64,
}

impl Metadata {
    /// Major and minor device number.
    pub fn device(&self) -> (u32, u32) {
        (rustix::fs::major(self.rdev), rustix::fs::minor(self.rdev))
    }

    /// Whether this is how overlayfs marks a deleted name: a character device 0/0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == 0
    }
}

/// Seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds; before 1970 negative.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

impl Root {
    /// The tree below `dir`, which the caller trusts.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, dir, flags, Mode::empty())?))
    }

    /// The tree below an open directory.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The top directory.
    pub fn top(&self) -> io::Result<Dir> {
        self.dir(Path::new("."))
    }

    /// The directory at `path`; symlinks are followed inside the tree.
    pub fn dir(&self, path: &Path) -> io::Result<Dir> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY).map(Dir)
    }

    /// The absolute path, without links, of what is at `path`. Symlinks are followed; one that leads out of the tree is
    /// an error ([`io::ErrorKind::CrossesDevices`]), as is `..` that does.
    pub fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = open2(self.0.as_fd(), rooted(path), flags, Mode::empty(), how)?;
        std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }

    /// The directory at `path`, which must be reached without any symlink (`ELOOP` otherwise).
    pub fn dir_without_symlinks(&self, path: &Path) -> io::Result<Dir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        open2(self.0.as_fd(), rooted(path), flags, Mode::empty(), how).map(Dir)
    }

    /// The directory that holds the last component of `path`, and that component. The last component is
    /// not looked at. `None` for the top itself.
    pub fn parent<'a>(&self, path: &'a Path) -> io::Result<Option<(Dir, &'a OsStr)>> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(Some((self.dir(parent)?, name))),
            // `a/..` and the like: no name to create, so nothing to confine.
            _ if path.components().any(|c| c == Component::ParentDir) => {
                Err(io::Error::from(io::ErrorKind::InvalidInput))
            }
            _ => Ok(None),
        }
    }

    /// Makes every missing directory of `path` with `mode`, following symlinks inside the tree, and
    /// returns the last one.
    pub fn make_dirs(&self, path: &Path, mode: u32) -> io::Result<Dir> {
        let mut here = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else {
                if part == Component::ParentDir {
                    here.push("..");
                }
                continue;
            };
            let parent = self.dir(&here)?;
            here.push(name);
            match parent.make_dir(name, mode) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.dir(&here)
    }

    /// Opens the file at `path` for reading; symlinks are followed inside the tree. Never blocks on
    /// a named pipe.
    pub fn read(&self, path: &Path) -> io::Result<File> {
        self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map(File::from)
    }

    /// What is at `path`, following symlinks inside the tree.
    pub fn stat(&self, path: &Path) -> io::Result<Metadata> {
        metadata(&rustix::fs::fstat(self.resolve(path, OFlags::PATH)?)?)
    }

    /// What is at `path`; a symlink in last place is not followed.
    pub fn lstat(&self, path: &Path) -> io::Result<Metadata> {
        metadata(&rustix::fs::fstat(self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)?)?)
    }

    /// Flushes the whole file system that the tree is on.
    pub fn sync_file_system(&self) -> io::Result<()> {
        // An O_PATH descriptor cannot be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::syncfs(rustix::fs::openat(&self.0, ".", flags, Mode::empty())?)?)
    }

    /// Bytes that may still be written on the file system that the tree is on.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let info = rustix::fs::fstatvfs(&self.0)?;
        Ok(info.f_bavail.saturating_mul(info.f_frsize))
    }

    /// Size of the file system that the tree is on.
    pub fn total_bytes(&self) -> io::Result<u64> {
        let info = rustix::fs::fstatvfs(&self.0)?;
        Ok(info.f_blocks.saturating_mul(info.f_frsize))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        open2(self.0.as_fd(), rooted(path), flags | OFlags::CLOEXEC, Mode::empty(), how)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// The directory `name`, which must be one itself, not a symlink to one.
    pub fn dir(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(&self.0, one(name)?, flags, Mode::empty())?))
    }

    /// Another handle to the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Makes the directory `name`; `mode` is subject to the umask.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, one(name)?, Mode::from_raw_mode(mode))?)
    }

    /// Makes the file `name`, which must not exist, for writing; `mode` is subject to the umask.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::openat(&self.0, one(name)?, flags | OFlags::CLOEXEC, mode)?.into())
    }

    /// Opens the regular file `name` for reading: never a symlink, a device or a pipe.
    pub fn read(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(&self.0, one(name)?, flags | OFlags::CLOEXEC, Mode::empty())?;
        match metadata(&rustix::fs::fstat(&fd)?)?.kind {
            Kind::File => Ok(fd.into()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Makes the symlink `name` with any content.
    pub fn symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, one(name)?)?)
    }

    /// The content of the symlink `name`.
    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.0, one(name)?, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Makes `name` another name of `old` in `from`; a symlink gets the name itself.
    pub fn hard_link(&self, name: &OsStr, from: &Self, old: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.0, one(old)?, &self.0, one(name)?, AtFlags::empty())?)
    }

    /// Makes the device, pipe or socket `name`; `mode` is subject to the umask.
    pub fn make_node(
        &self,
        name: &OsStr,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> io::Result<()> {
        let kind = match kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::File | Kind::Dir | Kind::Symlink => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        };
        let device = rustix::fs::makedev(device.0, device.1);
        Ok(rustix::fs::mknodat(&self.0, one(name)?, kind, Mode::from_raw_mode(mode), device)?)
    }

    /// Renames `old` to `name` in `to`, replacing what is there.
    pub fn rename(&self, old: &OsStr, to: &Self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, one(old)?, &to.0, one(name)?)?)
    }

    /// Renames `old` to `name` in `to`, which must not exist.
    pub fn rename_new(&self, old: &OsStr, to: &Self, name: &OsStr) -> io::Result<()> {
        let how = RenameFlags::NOREPLACE;
        Ok(rustix::fs::renameat_with(&self.0, one(old)?, &to.0, one(name)?, how)?)
    }

    /// Removes `name`, which is not a directory.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, one(name)?, AtFlags::empty())?)
    }

    /// Removes the empty directory `name`.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, one(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes `name` and everything below it, following nothing; no error if it is not there.
    pub fn remove_all(&self, name: &OsStr) -> io::Result<()> {
        match self.unlink(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EISDIR) => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
        let dir = self.dir(name)?;
        for entry in dir.entries()? {
            dir.remove_all(&entry)?;
        }
        self.remove_dir(name)
    }

    /// The names in the directory, in no order, without `.` and `..`.
    pub fn entries(&self) -> io::Result<Vec<OsString>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        Ok(names)
    }

    /// What the directory itself is.
    pub fn metadata(&self) -> io::Result<Metadata> {
        metadata(&rustix::fs::fstat(&self.0)?)
    }

    /// What `name` is, without following it.
    pub fn lstat(&self, name: &OsStr) -> io::Result<Metadata> {
        metadata(&rustix::fs::statat(&self.0, one(name)?, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the owner of `name`, also of a symlink itself. Clears set-id bits: set the mode after.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let how = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(&self.0, one(name)?, Some(uid), Some(gid), how)?)
    }

    /// Sets the mode of `name`. A symlink has none: the call fails rather than follow it.
    pub fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        // chmod(2) follows symlinks, so hold the thing itself first and go through the descriptor.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, one(name)?, flags, Mode::empty())?;
        if metadata(&rustix::fs::fstat(&fd)?)?.kind == Kind::Symlink {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        Ok(rustix::fs::chmod(fd_path(fd.as_fd()), Mode::from_raw_mode(mode))?)
    }

    /// Sets access and modification time of `name`, also of a symlink itself.
    pub fn set_times(&self, name: &OsStr, time: Time) -> io::Result<()> {
        let how = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(&self.0, one(name)?, &timestamps(time), how)?)
    }

    /// Sets an extended attribute of `name`, also of a symlink itself.
    pub fn set_xattr(&self, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::lsetxattr(self.entry_path(name)?, key, value, XattrFlags::empty())?)
    }

    /// The value of an extended attribute of `name`; `None` if it has none of that key.
    pub fn xattr(&self, name: &OsStr, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let path = self.entry_path(name)?;
        let mut value = vec![0; 256];
        loop {
            match rustix::fs::lgetxattr(&path, key, &mut value[..]) {
                Ok(n) => {
                    value.truncate(n);
                    return Ok(Some(value));
                }
                Err(rustix::io::Errno::RANGE) => value.resize(value.len() * 4, 0),
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The keys of all extended attributes of `name`.
    pub fn xattr_keys(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        let path = self.entry_path(name)?;
        let mut list = vec![0; 1024];
        let n = loop {
            match rustix::fs::llistxattr(&path, &mut list[..]) {
                Ok(n) => break n,
                Err(rustix::io::Errno::RANGE) => list.resize(list.len() * 4, 0),
                Err(rustix::io::Errno::OPNOTSUPP) => break 0,
                Err(e) => return Err(e.into()),
            }
        };
        let keys = list[..n].split(|b| *b == 0).filter(|k| !k.is_empty());
        Ok(keys.map(|k| OsStr::from_bytes(k).to_owned()).collect())
    }

    /// Sets owner, mode and times of the directory itself.
    pub fn set_own_attributes(&self, uid: u32, gid: u32, mode: u32, time: Time) -> io::Result<()> {
        let path = fd_path(self.0.as_fd());
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::empty())?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
        Ok(rustix::fs::utimensat(CWD, &path, &timestamps(time), AtFlags::empty())?)
    }

    /// Sets an extended attribute of the directory itself.
    pub fn set_own_xattr(&self, key: &OsStr, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::setxattr(fd_path(self.0.as_fd()), key, value, XattrFlags::empty())?)
    }

    /// There is no `lsetxattrat` before Linux 6.13. Going through our own descriptor pins the
    /// directory; the last component is not followed.
    fn entry_path(&self, name: &OsStr) -> io::Result<PathBuf> {
        Ok(fd_path(self.0.as_fd()).join(one(name)?))
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.0
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sets owner of an open file. Clears set-id bits: set the mode after.
pub fn set_file_owner(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// Sets mode of an open file, set-id bits included.
pub fn set_file_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Sets access and modification time of an open file.
pub fn set_file_times(file: &File, time: Time) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(time))?)
}

/// Sets an extended attribute of an open file.
pub fn set_file_xattr(file: &File, key: &OsStr, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, key, value, XattrFlags::empty())?)
}

/// Data extents of a file from `from` on: start and end of the next one; `None` when only a hole is left.
pub fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?;
    Ok(Some((start, end)))
}

/// Gives the calling thread a umask of its own, 0, so that modes come out as they are written. Other threads
/// keep theirs. For threads that end with their work.
pub fn clear_thread_umask() -> io::Result<()> {
    // SAFETY: CLONE_FS only copies the thread's root, working directory and umask; no memory or
    // descriptor that other code relies on changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Refuses what is not exactly one component: the kernel would walk it.
fn one(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(name)
}

/// openat2 wants a path that is not empty.
fn rooted(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The kernel answers EAGAIN when a rename raced with `..`; another try settles it.
fn open2(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, how) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if tries < 128 => tries += 1,
            other => return Ok(other?),
        }
    }
}

fn timestamps(time: Time) -> Timestamps {
    let at = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: at, last_modification: at }
}

fn metadata(stat: &Stat) -> io::Result<Metadata> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mtime = Time {
        seconds: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    };
    Ok(Metadata {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        mtime,
        rdev: stat.st_rdev,
        dev: stat.st_dev,
        ino: stat.st_ino,
        nlink: stat.st_nlink,
        blocks: u64::try_from(stat.st_blocks).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        let root = Root::open(&inside).unwrap();
        (dir, root)
    }

    #[test]
    fn lookups_stay_inside() {
        let (dir, root) = tree();
        let inside = dir.path().join("root");
        File::create(dir.path().join("secret")).unwrap().write_all(b"outside").unwrap();
        File::create(inside.join("secret")).unwrap().write_all(b"inside").unwrap();
        symlink("../../../secret", inside.join("up")).unwrap();
        symlink("/secret", inside.join("abs")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        for path in ["up", "abs", "../secret", "/../../secret", "etc/../../secret"] {
            let mut text = String::new();
            root.read(Path::new(path)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
        assert!(root.dir(Path::new("magic")).is_err());
        assert!(root.dir_without_symlinks(Path::new("up")).is_err());
    }

    #[test]
    fn magic_links_are_refused_even_inside() {
        let root = Root::open(Path::new("/proc")).unwrap();
        assert!(root.dir(Path::new("self/root")).is_err());
        assert!(root.dir(Path::new("self/cwd/x")).is_err());
    }

    #[test]
    fn names_are_one_component() {
        let (_dir, root) = tree();
        let top = root.top().unwrap();
        for bad in ["", ".", "..", "a/b", "/a", "../x"] {
            let error = top.make_dir(name(bad), 0o755).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn nothing_follows_a_symlink_in_last_place() {
        let (dir, root) = tree();
        let outside = dir.path().join("outside");
        File::create(&outside).unwrap();
        let before = std::fs::metadata(&outside).unwrap();
        let top = root.top().unwrap();
        top.symlink(name("l"), outside.as_os_str()).unwrap();
        assert!(top.create(name("l"), 0o600).is_err());
        assert!(top.read(name("l")).is_err());
        assert!(top.dir(name("l")).is_err());
        assert!(top.set_mode(name("l"), 0o777).is_err());
        top.set_owner(name("l"), 7, 8).unwrap();
        top.set_times(name("l"), Time { seconds: 5, nanos: 6 }).unwrap();
        let link = top.lstat(name("l")).unwrap();
        assert_eq!((link.uid, link.gid, link.mtime), (7, 8, Time { seconds: 5, nanos: 6 }));
        let after = std::fs::metadata(&outside).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        assert_eq!(before.permissions(), after.permissions());
        assert_eq!(top.read_link(name("l")).unwrap(), outside.as_os_str());
    }

    #[test]
    fn removing_a_tree_leaves_what_links_point_to() {
        let (dir, root) = tree();
        let kept = dir.path().join("kept");
        std::fs::create_dir_all(kept.join("deep")).unwrap();
        let doomed = root.make_dirs(Path::new("a/b/c"), 0o755).unwrap();
        doomed.symlink(name("out"), kept.as_os_str()).unwrap();
        doomed.make_node(name("pipe"), Kind::Fifo, 0o600, (0, 0)).unwrap();
        root.top().unwrap().remove_all(name("a")).unwrap();
        root.top().unwrap().remove_all(name("a")).unwrap();
        assert!(kept.join("deep").exists());
        assert_eq!(root.lstat(Path::new("a")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn attributes_and_nodes_come_back_as_set() {
        let (_dir, root) = tree();
        let top = root.top().unwrap();
        let file = top.create(name("f"), 0o600).unwrap();
        set_file_owner(&file, 1, 2).unwrap();
        set_file_mode(&file, 0o4755).unwrap();
        set_file_xattr(&file, name("user.k"), b"v").unwrap();
        let meta = top.lstat(name("f")).unwrap();
        assert_eq!((meta.kind, meta.mode, meta.uid, meta.gid), (Kind::File, 0o4755, 1, 2));
        assert_eq!(top.xattr(name("f"), name("user.k")).unwrap().unwrap(), b"v");
        assert_eq!(top.xattr(name("f"), name("user.none")).unwrap(), None);
        assert!(top.xattr_keys(name("f")).unwrap().contains(&"user.k".into()));
        top.make_node(name("wh"), Kind::CharDevice, 0, (0, 0)).unwrap();
        assert!(top.lstat(name("wh")).unwrap().is_whiteout());
        top.make_node(name("null"), Kind::CharDevice, 0o666, (1, 3)).unwrap();
        assert_eq!(top.lstat(name("null")).unwrap().device(), (1, 3));
        top.hard_link(name("g"), &top, name("f")).unwrap();
        assert_eq!(top.lstat(name("g")).unwrap().nlink, 2);
        assert!(top.rename_new(name("g"), &top, name("f")).is_err());
    }

    #[test]
    fn a_thread_may_drop_its_umask_alone() {
        let (_dir, root) = tree();
        let top = root.top().unwrap();
        let before = rustix::process::umask(Mode::from_raw_mode(0o022));
        std::thread::scope(|s| {
            s.spawn(|| {
                clear_thread_umask().unwrap();
                top.create(name("open"), 0o666).unwrap();
            });
        });
        top.create(name("masked"), 0o666).unwrap();
        assert_eq!(top.lstat(name("open")).unwrap().mode, 0o666);
        assert_eq!(top.lstat(name("masked")).unwrap().mode, 0o644);
        rustix::process::umask(before);
    }

    /// CVE-2018-15664's race: a directory and a symlink trade places while paths are resolved.
    #[test]
    fn a_swapped_symlink_never_leads_outside() {
        let (dir, root) = tree();
        let inside = dir.path().join("root");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        File::create(dir.path().join("etc/shadow")).unwrap().write_all(b"outside").unwrap();
        File::create(inside.join("etc/shadow")).unwrap().write_all(b"inside").unwrap();
        symlink("../..", inside.join("evil")).unwrap();
        std::fs::create_dir(inside.join("good")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let (a, b) = (inside.join("evil"), inside.join("good"));
                while !done.load(Ordering::Relaxed) {
                    let how = RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &a, CWD, &b, how).unwrap();
                }
            });
            for _ in 0..2000 {
                if let Ok(mut file) = root.read(Path::new("good/../evil/etc/shadow")) {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
