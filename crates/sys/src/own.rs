//! wharf's own program, executed so that no container can reach the file it came from.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::OpenTreeFlags;

/// This process's program on a read-only mount of its own that has no place in any directory tree.
///
/// A container that gets hold of `/proc/<pid>/exe` of a process started from it finds a read-only file system and
/// cannot overwrite the host's binary (CVE-2019-5736). The page cache is that of the original, so it costs no memory.
#[derive(Debug)]
pub struct OwnProgram(OwnedFd);

impl OwnProgram {
    /// Makes the mount; needs `CAP_SYS_ADMIN` and Linux 5.12.
    pub fn open() -> io::Result<OwnProgram> {
        OwnProgram::of(Path::new("/proc/self/exe"))
    }

    fn of(file: &Path) -> io::Result<OwnProgram> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = rustix::mount::open_tree(CWD, file, flags)?;
        make_read_only(&mount)?;
        Ok(OwnProgram(mount))
    }

    /// Replaces this process by the same program on that mount, with the same arguments and
    /// environment. Returns only with the reason why not.
    pub fn become_it(&self) -> io::Error {
        let text = |s: std::ffi::OsString| CString::new(s.into_vec()).unwrap_or_default();
        let args: Vec<CString> = std::env::args_os().map(text).collect();
        let pair = |(mut k, v): (std::ffi::OsString, std::ffi::OsString)| {
            k.push("=");
            k.push(v);
            text(k)
        };
        let env: Vec<CString> = std::env::vars_os().map(pair).collect();
        crate::process::fexecve(self.0.as_fd(), &args, &env)
    }

    /// What to execute. Good while this value lives, in this process and in a child up to its exec.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Whether this process's program lies on a read-only mount, so that nobody who finds it through
/// `/proc` can write to it.
pub fn is_read_only() -> io::Result<bool> {
    let own =
        rustix::fs::openat(CWD, "/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fstatvfs(own)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn make_read_only(mount: &OwnedFd) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: rustix has no mount_setattr. The path is an empty C string and the structure, whose size is
    // given, is only read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_can_be_read_but_not_written() {
        OwnProgram::open().unwrap();
        // A file that does not run: the kernel refuses to write to one that does for that reason already.
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = OwnProgram::of(file.path()).unwrap();
        std::fs::File::open(own.path()).unwrap();
        let e = std::fs::OpenOptions::new().append(true).open(own.path()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
