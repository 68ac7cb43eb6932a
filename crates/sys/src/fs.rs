//! Files by descriptor, resolved inside a given tree; what kind of file or file system one is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags, chmodat, chownat, fchmod, fstat,
    fstatfs, fstatvfs, inotify, mkdirat, mknodat, openat, readlinkat, symlinkat, unlinkat,
};
use rustix::fs::{ResolveFlags, openat2};

/// `f_type` of a genuine procfs.
pub const PROC_MAGIC: i64 = 0x9fa0;
/// `f_type` of a cgroup v2 tree.
pub const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Opens a path as if `root` were `/`: no `..`, absolute or symbolic link leaves it, and no link
/// of procfs that jumps elsewhere is followed.
pub fn open_in_root(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> io::Result<OwnedFd> {
    // openat2 gives EAGAIN when something is renamed meanwhile; a few tries, then it is an attack.
    for _ in 0..128 {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&root, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => (),
            other => return Ok(other?),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// Opens a path strictly below `root`, on the same mount and through no symbolic link at all.
pub fn open_beneath(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_XDEV;
    Ok(openat2(root, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// The file system's type number.
pub fn fs_magic(fd: BorrowedFd<'_>) -> io::Result<i64> {
    Ok(fstatfs(fd)?.f_type)
}

/// Whether a descriptor refers to the character device `major:minor`.
pub fn is_char_device(fd: BorrowedFd<'_>, major: u32, minor: u32) -> io::Result<bool> {
    let stat = fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor))
}

/// Makes a device node.
pub fn make_node(
    dir: impl AsFd,
    name: impl AsRef<Path>,
    kind: FileType,
    mode: u32,
    (major, minor): (u32, u32),
) -> io::Result<()> {
    let device = rustix::fs::makedev(major, minor);
    Ok(mknodat(dir, name.as_ref(), kind, Mode::from_raw_mode(mode), device)?)
}

/// Whether the path is where a mount begins.
pub fn is_mount_root(path: &Path) -> io::Result<bool> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Makes a fifo.
pub fn make_fifo(path: &Path, mode: u32) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0)?)
}

/// Takes an exclusive lock on an open file, waiting for it. Closing the file releases it.
pub fn lock(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive)?)
}

/// Gives a file a new owner, a link itself and not what it points to.
pub fn chown_nofollow(dir: impl AsFd, name: &Path, uid: u32, gid: u32) -> io::Result<()> {
    use rustix::fs::{Gid, Uid, chownat};
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether this process, as it is now, may execute a file.
pub fn can_execute(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, accessat};
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// Names in an open directory, without `.` and `..`.
pub fn names(dir: impl AsFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            out.push(entry.file_name().to_owned());
        }
    }
    Ok(out)
}
