//! A directory tree copied by descriptor, for a tmpfs that begins with what the image has there.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use wharf_sys::fs::{self, FileType, Mode, OFlags};

/// Copies what is in `from` into `to`: directories, files, links and nodes with mode and owner.
pub(crate) fn tree(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for name in fs::names(from)? {
        let name = Path::new(std::str::from_utf8(name.to_bytes()).map_err(io::Error::other)?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stat = fs::fstat(fs::openat(from, name, flags, Mode::empty())?)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                fs::mkdirat(to, name, mode)?;
                let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = fs::openat(to, name, open, Mode::empty())?;
                tree(&fs::openat(from, name, open, Mode::empty())?, &below)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut source = File::from(fs::openat(from, name, read, Mode::empty())?);
                let mut copy = File::from(fs::openat(to, name, write, mode)?);
                io::copy(&mut source, &mut copy)?;
            }
            FileType::Symlink => {
                let target = fs::readlinkat(from, name, Vec::new())?;
                fs::symlinkat(target.as_c_str(), to, name)?;
            }
            kind => fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        fs::chown_nofollow(to, name, stat.st_uid, stat.st_gid)?;
    }
    Ok(())
}
