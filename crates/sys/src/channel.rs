//! Messages with file descriptors over unix sockets that keep message boundaries.
//!
//! Every descriptor made here is close-on-exec. Paths are reached through `/proc/self/fd`, so that a directory
//! deeper than the 108 bytes of a socket address works.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors that one message may carry.
pub const MAX_FDS: usize = 64;

/// What [`recv`] found.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message; 0 with no descriptors means that the peer has gone.
    pub len: usize,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// The message did not fit and lost bytes or descriptors.
    pub truncated: bool,
}

/// Two connected ends that keep message boundaries. Both block.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    socketpair(SocketType::SEQPACKET, SocketFlags::empty())
}

/// Two connected ends of a byte stream. Both are non-blocking.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    socketpair(SocketType::STREAM, SocketFlags::NONBLOCK)
}

fn socketpair(ty: SocketType, flags: SocketFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, ty, flags | SocketFlags::CLOEXEC, None)?)
}

/// Listens, without blocking, on the new socket file `name` in `dir`. A left-over file is replaced.
///
/// The file gets mode 0600; the caller's umask is changed for the moment of the bind, so call
/// this from a single-threaded process.
pub fn listen(dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let at = open_dir(dir)?;
    match rustix::fs::unlinkat(&at, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address(&at, name)?);
    rustix::process::umask(before);
    bound?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Connects to the socket file `name` in `dir`. The connection blocks.
pub fn connect(dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let at = open_dir(dir)?;
    rustix::net::connect(&socket, &address(&at, name)?)?;
    Ok(socket)
}

/// The next connection of a listener, non-blocking.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// The user id of the process that connected.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// Sends one message with `fds` attached. Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` on a full non-blocking socket; `InvalidInput` for more than [`MAX_FDS`] descriptors.
pub fn send(socket: impl AsFd, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = retry(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == body.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message into `body`.
pub fn recv(socket: impl AsFd, body: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(body)];
    let got =
        retry(|| rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let lost = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    Ok(Received { len: got.bytes, fds, truncated: got.flags.intersects(lost) })
}

/// Makes reads and writes on the open file behind `fd` return `WouldBlock` instead of waiting.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(&fd)?;
    flags.set(OFlags::NONBLOCK, on);
    Ok(rustix::fs::fcntl_setfl(fd, flags)?)
}

/// Tells the peer that no more bytes will come; it may still send.
pub fn shutdown_write(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?)
}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn address(at: &OwnedFd, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", at.as_raw_fd()))?)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[test]
    fn carries_bytes_and_descriptors() {
        let (a, b) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        send(&a, b"hello", &[file.as_fd()]).unwrap();
        drop(file);
        let mut body = [0; 16];
        let got = recv(&b, &mut body).unwrap();
        assert_eq!((&body[..got.len], got.truncated), (&b"hello"[..], false));
        let mut file = std::fs::File::from(got.fds.into_iter().next().unwrap());
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
    }

    #[test]
    fn long_directories_have_sockets_too() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        let listener = listen(&dir, "s").unwrap();
        let client = connect(&dir, "s").unwrap();
        let server = accept(&listener).unwrap();
        send(&client, b"x", &[]).unwrap();
        assert_eq!(recv(&server, &mut [0; 4]).unwrap().len, 1);
        assert_eq!(peer_uid(&server).unwrap(), rustix::process::getuid().as_raw());
        drop(client);
        assert_eq!(recv(&server, &mut [0; 4]).unwrap().len, 0);
    }

    #[test]
    fn a_message_that_does_not_fit_says_so() {
        let (a, b) = pair().unwrap();
        send(&a, b"longer than four", &[]).unwrap();
        assert!(recv(&b, &mut [0; 4]).unwrap().truncated);
    }
}
