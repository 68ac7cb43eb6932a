//! Local sockets that keep message boundaries and carry descriptors; files that leave through a socket.

use std::ffi::c_void;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with, socketpair,
};

use crate::process::check;

/// The most descriptors that one message carries.
const MOST: usize = 32;
/// Bytes of a file that are mapped at a time: a bound of what a transfer takes.
const WINDOW: u64 = 4 << 20;
/// Where mappings may begin: a multiple of any page size there is.
const PAGE: u64 = 64 << 10;

/// Two ends of a channel: each send is one receive, and a closed end reads as length zero.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Connects to a stream socket by path.
pub fn connect_stream(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// What the other end of a local stream has not read yet, in the kernel's account: more than the bytes themselves
/// while anything is left, 0 once everything has been read (`SIOCOUTQ`, unix(7)).
pub fn unread(socket: impl AsFd) -> io::Result<usize> {
    let mut left: libc::c_int = 0;
    // SAFETY: rustix has no function for it. SIOCOUTQ, which is TIOCOUTQ, writes one int.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    check(done.into())?;
    Ok(usize::try_from(left).unwrap_or(0))
}

/// Sends bytes `from` to `to` of `file`, exclusive, over a stream socket. The kernel takes them from the page cache without
/// a copy in this process; over loopback that is nearly twice as fast as `sendfile(2)`, which hands over single pages.
/// Blocks, whatever the socket does. `TimedOut`: the other end took nothing for `stall`; `UnexpectedEof`: the file is shorter.
pub fn send_file(
    socket: impl AsFd,
    file: impl AsFd,
    from: u64,
    to: u64,
    stall: Duration,
) -> io::Result<()> {
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    if size < to {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // No more than a hint.
    let _heard = fadvise(&file, from, NonZeroU64::new(to.saturating_sub(from)), Advice::Sequential);
    let mut at = from;
    while at < to {
        let window = Window::of(file.as_fd(), at, to)?;
        window.send(socket.as_fd(), stall)?;
        at += window.len as u64;
    }
    Ok(())
}

/// A part of a file in this process's addresses. Its bytes are never looked at here: if the disk fails, that would end the
/// process (`SIGBUS`), while in the kernel it is an error like any other.
struct Window {
    map: *mut c_void,
    mapped: usize,
    /// Where the part begins in the map: files are mapped from page to page.
    skip: usize,
    len: usize,
}

impl Window {
    /// What of the file comes at `at`, and ends at `to` at the latest.
    fn of(file: BorrowedFd<'_>, at: u64, to: u64) -> io::Result<Window> {
        let begin = at - at % PAGE;
        let mapped = (to - begin).min(WINDOW);
        let skip = usize::try_from(at - begin).unwrap_or(0);
        let mapped = usize::try_from(mapped).unwrap_or(0);
        // SAFETY: a mapping at an address of the kernel's choice touches no memory that anybody has; it is not turned into a
        // reference. There is no safe function for it.
        let map = unsafe {
            mmap(std::ptr::null_mut(), mapped, ProtFlags::READ, MapFlags::SHARED, file, begin)?
        };
        Ok(Window { map, mapped, skip, len: mapped - skip })
    }

    fn send(&self, socket: BorrowedFd<'_>, stall: Duration) -> io::Result<()> {
        let mut done = 0;
        while done < self.len {
            let (fd, flags) = (socket.as_raw_fd(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
            let bytes = self.map.wrapping_byte_add(self.skip + done);
            // SAFETY: the range is within the mapping, which lives as long as `self`. A safe function would need a slice, whose
            // bytes nobody may change meanwhile; the kernel alone reads them here, and fails with EFAULT where it cannot.
            let sent = unsafe { libc::send(fd, bytes, self.len - done, flags) };
            match check(sent as i64) {
                Ok(n) => done += usize::try_from(n).unwrap_or(0),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => writable(socket, stall)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and nothing refers to it after this. There is no safe function for it.
        let _unmapped = unsafe { munmap(self.map, self.mapped) };
    }
}

/// Waits until a socket takes bytes, or says that it never will.
fn writable(socket: BorrowedFd<'_>, stall: Duration) -> io::Result<()> {
    let limit = Timespec::try_from(stall).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::OUT)], Some(&limit)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sends one message with descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("more descriptors than one message carries"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => (),
            other => return Ok(other.map(drop)?),
        }
    }
}

/// Receives one message and the descriptors it carries. Length zero is the end.
pub fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let bytes = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => (),
            other => break other?.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    Ok((bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    const STALL: Duration = Duration::from_millis(50);

    #[test]
    fn a_part_of_a_file_leaves_through_a_socket_that_does_not_block() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
        file.write_all(&content).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        send_file(&ours, &file, 5, 2_999_999, Duration::from_secs(60)).unwrap();
        drop(ours);
        assert!(reader.join().unwrap() == content[5..2_999_999]);
    }

    #[test]
    fn who_takes_nothing_is_given_up_and_a_short_file_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stalled = send_file(&ours, &file, 0, 8 << 20, STALL).unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let short = send_file(&ours, &file, (8 << 20) - 1, (8 << 20) + 1, STALL).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }
}
