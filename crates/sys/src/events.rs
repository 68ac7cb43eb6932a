//! Waiting for many descriptors at once, and for signals as one of them.

use std::io;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// A set of descriptors, each with a token that comes back when it is ready. Level triggered.
#[derive(Debug)]
pub struct Events(OwnedFd);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Bytes to read, or the peer's end.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Only hang-up and errors, which are always reported.
    pub const HANGUP: Interest = Interest { read: false, write: false };
    /// Readable.
    pub const READ: Interest = Interest { read: true, write: false };
}

/// One ready descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// A read will not block: there are bytes, or the end.
    pub read: bool,
    /// A write will not block.
    pub write: bool,
    /// Both directions are closed, or the descriptor failed.
    pub hangup: bool,
}

impl Events {
    /// An empty set.
    pub fn new() -> io::Result<Events> {
        Ok(Events(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds `fd`; it must be removed, or its last descriptor closed, before its token is used again.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, epoll::EventData::new_u64(token), flags(interest))?)
    }

    /// Changes what is awaited of `fd`.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, epoll::EventData::new_u64(token), flags(interest))?)
    }

    /// Forgets `fd`.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits until something is ready, at most for `timeout`, and puts it into `ready`.
    ///
    /// A signal handler that runs meanwhile ends the wait with nothing ready.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 32];
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        ready.clear();
        match epoll::wait(&self.0, &mut buffer[..], timeout.as_ref()) {
            Ok((got, _)) => ready.extend(got.iter().map(|&event| happened(event))),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

fn happened(event: epoll::Event) -> Ready {
    let (data, flags) = (event.data, event.flags); // Copies: the kernel packs the structure.
    Ready {
        token: data.u64(),
        read: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP),
        write: flags.contains(epoll::EventFlags::OUT),
        hangup: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.read);
    flags.set(epoll::EventFlags::OUT, interest.write);
    flags
}

/// Blocks `signals` (numbers as in signal(7)) in this thread and makes them readable on the descriptor.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = block_signals(signals)?;
    // SAFETY: rustix has no signalfd. -1 asks for a new descriptor, `set` is initialised and outlives the call.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the number of one pending signal of a [`signal_fd`], or `None` when there is none.
pub fn next_signal(fd: impl AsFd) -> io::Result<Option<i32>> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info) {
        Ok(n) if n == info.len() => {
            let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            Ok(i32::try_from(number).ok())
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn block_signals(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the standard library has no signal sets; sigemptyset initialises the one it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set was initialised above; a bad number makes the call fail, nothing more.
        if unsafe { libc::sigaddset(set.as_mut_ptr(), signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: initialised by sigemptyset.
    let set = unsafe { set.assume_init() };
    // SAFETY: rustix does not change masks. The set is initialised, the old mask is not asked for.
    let failed =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if failed != 0 { Err(io::Error::from_raw_os_error(failed)) } else { Ok(set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_token_of_what_is_ready() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let events = Events::new().unwrap();
        events.add(&read, 7, Interest::READ).unwrap();
        let mut ready = Vec::new();
        events.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        rustix::io::write(&write, b"x").unwrap();
        events.wait(&mut ready, None).unwrap();
        assert_eq!((ready[0].token, ready[0].read, ready[0].hangup), (7, true, false));
        drop(write);
        events.wait(&mut ready, None).unwrap();
        assert!(ready[0].hangup);
    }
}
