//! Children of a single-threaded process: fork, reap, adopt orphans, become a daemon.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::process::{Pid, WaitOptions, WaitStatus};

/// Which side of a [`fork`] this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The caller, with the new process's id.
    Parent(i32),
    /// The new process.
    Child,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

/// Copies this process.
///
/// # Errors
/// Refused with `Unsupported` when the process has more than one thread: the copy would hold locks
/// whose owners do not exist in it.
pub fn fork() -> io::Result<Fork> {
    if !crate::process::is_single_threaded() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "fork in a process with several threads",
        ));
    }
    // SAFETY: no safe interface forks. The process has one thread (checked above), so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends this process at once, without destructors or exit handlers: the way out of a forked child.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(status) }
}

/// Collects one child that has ended, if any, without waiting.
///
/// `None` means that no child has ended or that there is none.
pub fn reap() -> io::Result<Option<(i32, Ended)>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
            Ok(Some((pid, status))) => {
                if let Some(ended) = ended(status) {
                    return Ok(Some((pid.as_raw_nonzero().get(), ended)));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn ended(status: WaitStatus) -> Option<Ended> {
    status
        .exit_status()
        .map(Ended::Exited)
        .or_else(|| status.terminating_signal().map(Ended::Killed))
}

/// Makes orphans below this process its children, and this process the leader of a new session.
pub fn adopt_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()), // PERM: it leads one already.
        Err(e) => Err(e.into()),
    }
}

/// Whether ended children vanish by themselves (`true`) or wait to be reaped, which is the kernel's default.
pub fn ignore_children(ignore: bool) {
    let action = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler function is installed, only a disposition; SIGCHLD is a valid signal.
    unsafe { libc::signal(libc::SIGCHLD, action) };
}

/// Ends this process when the thread that started it dies.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// The name that ps and `/proc/self/comm` show, cut to 15 bytes.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    Ok(rustix::thread::set_name(&name)?)
}

/// Lets the process run only when nothing else wants the processor or the disk.
pub fn be_nice() -> io::Result<()> {
    rustix::process::setpriority_process(None, 19)?;
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: neither libc nor rustix wraps ioprio_set; it takes three integers and touches no memory.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Points standard input, output and error at `/dev/null`.
pub fn quiet_stdio() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Runs `work` in a forked child that holds no descriptor but 0, 1, 2 and `keep`; returns its pid.
///
/// Anything else that it inherited would keep pipes and sockets of its parent open. The child ends
/// with the status that `work` returns; the parent has to reap it.
pub fn detached(keep: &[BorrowedFd<'_>], work: impl FnOnce() -> i32) -> io::Result<i32> {
    match fork()? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => exit_now(match close_all_but(keep) {
            Ok(()) => work(),
            Err(_) => 1,
        }),
    }
}

pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().filter(|&fd| fd >= 3) {
        close_range(from, fd.checked_sub(1))?;
        from = fd + 1;
    }
    close_range(from, Some(u32::MAX))
}

/// Closes 0, 1 and 2, for a process that will not use them and has no `/dev/null` to put there.
pub(crate) fn close_stdio() {
    drop(close_range(0, Some(2))); // Open or not, nothing is written.
}

fn close_range(first: u32, last: Option<u32>) -> io::Result<()> {
    let Some(last) = last.filter(|&last| last >= first) else { return Ok(()) };
    // SAFETY: neither rustix nor std closes ranges. This runs in the child of `detached`, which
    // uses nothing but what it keeps, or in an init that uses none, and both end by `exit_now`: no owner
    // closes a second time.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives memory that the allocator holds free back to the kernel.
pub fn trim_heap() {
    // SAFETY: malloc_trim only releases pages that the allocator knows to be free.
    unsafe { libc::malloc_trim(0) };
}

/// A handle on the process `pid`, which stays right when the number is used again.
pub fn open_pid(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends signal number `signal` to the process behind `pidfd`.
pub fn signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: rustix refuses real-time signals, which containers may use. The descriptor is borrowed for the
    // call, and a null siginfo asks for the defaults of kill(2).
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_is_refused_in_a_threaded_process() {
        // The test harness runs every test in a thread of its own.
        assert_eq!(fork().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn names_are_visible() {
        set_name("wharf-name-test").unwrap();
        let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(own, "wharf-name-test\n");
    }
}
