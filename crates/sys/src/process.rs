//! Processes: made by `clone3`, moved between namespaces, turned into programs, waited for.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub use rustix::process::{
    chdir, chroot, fchdir, getcwd, getegid, geteuid, getgid, getpid, getuid, pivot_root, setsid,
    umask,
};
pub use rustix::thread::set_no_new_privs;

/// A new mount namespace.
pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
/// A new cgroup namespace.
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// A new UTS namespace.
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
/// A new IPC namespace.
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
/// A new user namespace.
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
/// A new pid namespace.
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// A new network namespace.
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
/// A new time namespace.
pub const NEWTIME: u64 = 0x80;
/// The new process becomes a sibling of the caller.
pub const PARENT: u64 = libc::CLONE_PARENT as u64;

const INTO_CGROUP: u64 = 0x2_0000_0000;

/// The two returns of [`clone3`].
#[derive(Debug)]
pub enum Fork {
    /// In the new process.
    Child,
    /// In the old process.
    Parent {
        /// The new process.
        pid: i32,
        /// Refers to it for good.
        pidfd: OwnedFd,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It returned a code.
    Code(u8),
    /// It was killed by a signal.
    Signal(u8),
}

unsafe extern "C" {
    /// Zero once the C library has ever started a thread.
    static __libc_single_threaded: libc::c_char;
}

/// Whether this process has never had a second thread.
pub fn is_single_threaded() -> bool {
    // SAFETY: glibc defines this byte for exactly this question; a read cannot race usefully, as
    // only this process's own calls change it. Safe Rust has no view of it.
    unsafe { std::ptr::read_volatile(&raw const __libc_single_threaded) != 0 }
}

/// Makes a process that goes on from here with a copy of the memory, in new namespaces (`flags`)
/// and, when given, directly in a v2 cgroup.
///
/// Refuses to work in a process with several threads, whose locks the copy would inherit held.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    if !is_single_threaded() {
        return Err(io::Error::other("a process with several threads cannot make a container"));
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero is the documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    if flags & PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(fd) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: without CLONE_VM this is fork: the child has its own copy of everything, and the
    // check above makes that copy consistent. `args` and `pidfd` outlive the call.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent { pid, pidfd })
}

/// Replaces this process by a program. Returns only with the reason why not.
pub fn execve(path: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    let argv = pointers(argv);
    let envp = pointers(envp);
    // SAFETY: both arrays end in null and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by the program that `fd` refers to.
pub fn fexecve(fd: BorrowedFd<'_>, argv: &[CString], envp: &[CString]) -> io::Error {
    let argv = pointers(argv);
    let envp = pointers(envp);
    // SAFETY: both arrays end in null and point to strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends this process at once, running no exit handlers of the program it was copied from.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit has no preconditions; std's exit would run the parent's handlers here.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Joins the namespace a descriptor refers to, or the listed ones of a pidfd's process.
pub fn setns(fd: BorrowedFd<'_>, kinds: u64) -> io::Result<()> {
    let kinds = i32::try_from(kinds).map_err(io::Error::other)?;
    // SAFETY: setns takes integers only; the descriptor is borrowed for the call.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into()).map(drop)
}

/// Moves this process into new namespaces (children only, for pid and time).
pub fn unshare(kinds: u64) -> io::Result<()> {
    let kinds = i32::try_from(kinds).map_err(io::Error::other)?;
    // SAFETY: integers only; descriptors stay shared with nobody, as CLONE_FILES is never asked for.
    check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

/// Takes a user and group identity for good: real, effective and saved.
pub fn set_identity(uid: u32, gid: u32) -> io::Result<()> {
    // The raw calls: glibc's wrappers signal other threads, of which there are none.
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets the supplementary groups.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and length describe one slice of gid_t.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Whether capabilities survive a change from user 0 to another.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0).map(drop)
}

/// Whether other processes of the same user may look into this one.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on), 0).map(drop)
}

/// Makes orphaned descendants children of this process.
pub fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// Has the kernel send `signal` to this process when its parent ends; 0 turns it off.
pub fn parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, u64::try_from(signal).unwrap_or(0), 0).map(drop)
}

pub(crate) fn prctl(option: i32, a: u64, b: u64) -> io::Result<i64> {
    // SAFETY: the options this crate uses take integers, never pointers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0u64, 0u64) })
}

/// Refers to a process for good.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    own(fd)
}

/// Sends a signal to the process a pidfd refers to.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means an ordinary kill.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Sends a signal to a process by number. Signal 0 only asks whether it exists.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Waits for a child by pidfd and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        match waitid(pidfd, libc::WEXITED) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => return Err(io::Error::other("waitid returned without an ended child")),
            Err(e) => return Err(e),
        }
    }
}

/// Reaps a child if it has ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    waitid(pidfd, libc::WEXITED | libc::WNOHANG)
}

/// Tells whether a child has ended without reaping it.
pub fn peek_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    waitid(pidfd, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

fn waitid(pidfd: BorrowedFd<'_>, options: i32) -> io::Result<Option<Ended>> {
    // SAFETY: siginfo_t is plain data, for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: `info` is a valid place for the answer.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) }.into())?;
    // SAFETY: waitid fills the child fields, or leaves them zero when nothing has ended.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let status = u8::try_from(status & 0xff).unwrap_or(u8::MAX);
    Ok(Some(if info.si_code == libc::CLD_EXITED {
        Ended::Code(status)
    } else {
        Ended::Signal(status & 0x7f)
    }))
}

/// Waits until one of the descriptors is readable or hung up; tells which are.
pub fn poll_readable(fds: &[BorrowedFd<'_>], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let count = libc::nfds_t::try_from(polled.len()).map_err(io::Error::other)?;
    // SAFETY: pointer and count describe `polled`.
    while unsafe { libc::poll(polled.as_mut_ptr(), count, timeout_ms) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled.iter().map(|p| p.revents != 0).collect())
}

/// Gives every signal its default action and unblocks all of them. Rust ignores SIGPIPE, and an
/// ignored signal stays ignored across `execve`.
pub fn reset_signals() {
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP && !(32..34).contains(&signal) {
            // SAFETY: SIG_DFL is no function of ours that could run.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    // SAFETY: a zeroed set is an empty set on Linux.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` outlives the call; the old set is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

pub(crate) fn check(ret: libc::c_long) -> io::Result<i64> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

pub(crate) fn own(fd: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the caller passes a descriptor the kernel has just returned to it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Makes three descriptors 0, 1 and 2 of this process, without close-on-exec.
pub fn become_stdio(stdin: impl AsFd, stdout: impl AsFd, stderr: impl AsFd) -> io::Result<()> {
    // Out of the way first, so that no source is overwritten before it is used.
    let sources = [
        dup_above(stdin.as_fd(), 10)?,
        dup_above(stdout.as_fd(), 10)?,
        dup_above(stderr.as_fd(), 10)?,
    ];
    for (source, target) in sources.iter().zip(0..) {
        // SAFETY: descriptors 0 to 2 have no owner in Rust; replacing them is this call's purpose.
        check(unsafe { libc::dup2(source.as_raw_fd(), target) }.into())?;
    }
    Ok(())
}

/// A close-on-exec copy of a descriptor with a number of at least `least`.
pub fn dup_above(fd: BorrowedFd<'_>, least: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and returns a new descriptor.
    own(check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }.into())?)
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: CLOEXEC closes nothing now, so no owner loses its descriptor.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// Closes every descriptor from `first` on. To be called before this program opens any: nobody may own one of them.
pub fn close_inherited(first: u32) -> io::Result<()> {
    // SAFETY: whoever started the program left these open, and nothing in it refers to them yet.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Takes over a descriptor that was passed to this program by number.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: the caller says that the number was passed to the program and is its to own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives way for a moment, where the kernel offers no event to wait for.
pub fn pause_for(time: std::time::Duration) {
    let request = rustix::thread::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    // An interrupted pause is a shorter one, and the caller looks again anyway.
    match rustix::thread::nanosleep(&request) {
        rustix::thread::NanosleepRelativeResult::Ok => (),
        other => tracing::trace!(?other, "pause cut short"),
    }
}
