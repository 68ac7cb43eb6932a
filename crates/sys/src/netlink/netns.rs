//! Network namespaces: making them, acting inside them, and writing their sysctls.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The calling thread's network namespace.
pub fn current() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?)
}

/// Moves the calling thread into a new network namespace.
pub fn unshare() -> io::Result<()> {
    // SAFETY: no other way exists to make a namespace. Only `CLONE_FILES` and `CLONE_FS` change
    // what other code may rely on, and neither is asked for.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Moves the calling thread into `ns`.
pub fn enter(ns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?)
}

/// Runs `f` in `ns` on a thread of its own, so that no other work ever sees the foreign namespace. Costs some 50 µs.
pub fn within<T: Send>(ns: BorrowedFd<'_>, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            enter(ns)?;
            Ok(f())
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("panic inside a network namespace")))
    })
}

/// Device and inode of a namespace: equal for two descriptors of one namespace.
pub fn identity(ns: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(ns)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Writes `value` to the sysctl `name` (slashes, below `/proc/sys`) of the calling thread's namespace.
///
/// The file is written only if it is on procfs: a `/proc` that somebody mounted over would turn the
/// write into one to a file of their choice (CVE-2019-16884, CVE-2025-52881).
pub fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    if !valid_name(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a sysctl"));
    }
    let path = Path::new("/proc/sys").join(name);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::open(&path, flags, Mode::empty())?);
    verify_procfs(file.as_fd())?;
    (&file).write_all(value.as_bytes())
}

/// Reads the sysctl `name` of the calling thread's namespace, without the line end.
pub fn read_sysctl(name: &str) -> io::Result<String> {
    if !valid_name(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a sysctl"));
    }
    Ok(std::fs::read_to_string(Path::new("/proc/sys").join(name))?.trim_end().to_owned())
}

fn valid_name(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn verify_procfs(fd: BorrowedFd<'_>) -> io::Result<()> {
    if rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "/proc is not procfs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_are_written_in_the_namespace_of_the_thread() {
        let home = current().unwrap();
        let inside = thread::spawn(|| {
            unshare().unwrap();
            write_sysctl("net/ipv4/ip_unprivileged_port_start", "7").unwrap();
            (current().unwrap(), read_sysctl("net/ipv4/ip_unprivileged_port_start").unwrap())
        });
        let (ns, value) = inside.join().unwrap();
        assert_eq!(value, "7");
        assert_ne!(identity(ns.as_fd()).unwrap(), identity(home.as_fd()).unwrap());
        let seen = within(ns.as_fd(), || read_sysctl("net/ipv4/ip_unprivileged_port_start"));
        assert_eq!(seen.unwrap().unwrap(), "7");
    }

    #[test]
    fn names_cannot_leave_the_tree() {
        for bad in ["../../etc/passwd", "net/../x", "/x", ""] {
            assert_eq!(write_sysctl(bad, "1").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
