//! What a long-running process asks of its start and of its heap: inherited sockets, a heap that gives memory back.

use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;

use rustix::io::FdFlags;
use rustix::net::AddressFamily;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// A listening socket that the service manager opened.
#[derive(Debug)]
pub enum Inherited {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

/// First descriptor of sd_listen_fds(3).
const FIRST: RawFd = 3;

/// Takes over the sockets that the environment announces (`LISTEN_PID`, `LISTEN_FDS`), each with its name.
///
/// Empty if there are none or they are meant for another process. Call it once, before anything else
/// opens descriptors: a second call would own the same ones again.
pub fn inherited_sockets() -> io::Result<Vec<(String, Inherited)>> {
    let number = |key: &str| std::env::var(key).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = RawFd::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    (FIRST..FIRST.saturating_add(count))
        .map(|fd| Ok((names.next().unwrap_or_default(), take(fd)?)))
        .collect()
}

fn take(fd: RawFd) -> io::Result<Inherited> {
    // SAFETY: the number is only borrowed to ask whether it is open; the kernel answers EBADF if not.
    let probe = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(probe, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and by the protocol of LISTEN_FDS nothing else in this process owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    match rustix::net::getsockname(&socket)?.address_family() {
        AddressFamily::UNIX => Ok(Inherited::Unix(socket.into())),
        AddressFamily::INET | AddressFamily::INET6 => Ok(Inherited::Tcp(socket.into())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a unix or TCP socket")),
    }
}

/// The limit of open files that this process was started with.
static FILE_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Lets this process open as many files as it may: each container costs a daemon a few descriptors, and the
/// usual soft limit of 1024 exists for programs that call `select`.
pub fn raise_file_limit() -> io::Result<()> {
    let given = *FILE_LIMIT.get_or_init(|| getrlimit(Resource::Nofile));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: given.maximum, ..given })?)
}

/// Gives process `pid`, a child, the limit that this process had before [`raise_file_limit`]: what
/// containers inherit must not depend on when their launcher was started.
pub fn restore_file_limit(pid: u32) -> io::Result<()> {
    let (Some(given), Some(pid)) =
        (FILE_LIMIT.get(), i32::try_from(pid).ok().and_then(Pid::from_raw))
    else {
        return Ok(());
    };
    prlimit(Some(pid), Resource::Nofile, *given)?;
    Ok(())
}

/// Makes the heap small and give memory back: two arenas, and blocks of 64 KiB and more straight from the kernel.
///
/// Without it glibc makes an arena of up to 64 MiB per thread and raises its thresholds with use, so that
/// one big request keeps its memory for ever.
pub fn tune_heap() {
    const BLOCK: libc::c_int = 64 << 10;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 2),
        (libc::M_MMAP_THRESHOLD, BLOCK),
        (libc::M_TRIM_THRESHOLD, 2 * BLOCK),
    ] {
        // SAFETY: integers only. A parameter that this libc does not know is refused, which is harmless.
        let _accepted = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back to the kernel what this process has but does not need while it waits: free heap and code pages.
pub fn rest() {
    crate::child::trim_heap();
    crate::scratch::forget_code();
}
