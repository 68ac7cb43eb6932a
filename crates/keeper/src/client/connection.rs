//! One conversation with a keeper, driven by tokio.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::Interest;
use tokio::net::UnixStream;
use wharf_sys::channel;

use crate::client::KeeperError;
use crate::protocol::{Reply, Request, SOCKET};
use crate::wire::{self, Packet};

/// A packet socket. Dropping it ends the conversation, never the container.
///
/// tokio's stream is only the registration with its reactor: packets are sent and received by `wire`.
#[derive(Debug)]
pub(crate) struct Connection(UnixStream);

impl Connection {
    /// Connects to the keeper of `dir`. Must be called inside a tokio runtime, as must `from_fd`.
    pub(crate) fn open(dir: &Path) -> Result<Connection, KeeperError> {
        match channel::connect(dir, SOCKET) {
            Ok(fd) => Ok(Connection::from_fd(fd)?),
            Err(e) if gone(&e) => Err(KeeperError::Gone),
            Err(e) => Err(KeeperError::Io(e)),
        }
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Connection> {
        channel::set_nonblocking(&fd, true)?;
        Ok(Connection(UnixStream::from_std(fd.into())?))
    }

    pub(crate) async fn send(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperError> {
        self.write(|fd| wire::send(fd, request, fds)).await
    }

    pub(crate) async fn send_empty(&self) -> Result<(), KeeperError> {
        self.write(|fd| wire::send_empty(fd)).await
    }

    /// Sends the empty packet if that is possible at once.
    pub(crate) fn try_send_empty(&self) -> bool {
        wire::send_empty(&self.0).is_ok()
    }

    async fn write(
        &self,
        mut send: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<(), KeeperError> {
        loop {
            self.0.writable().await?;
            match self.0.try_io(Interest::WRITABLE, || send(self.0.as_fd())) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done.map_err(lost),
            }
        }
    }

    /// The next reply. Cancel-safe: a packet is taken whole or not at all.
    pub(crate) async fn reply(&self) -> Result<Reply, KeeperError> {
        let packet = loop {
            self.0.readable().await?;
            match self.0.try_io(Interest::READABLE, || wire::recv::<Reply>(&self.0)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                got => break got.map_err(lost)?,
            }
        };
        match packet {
            Packet::Message(Reply::Refused(why), _) => Err(KeeperError::Refused(why)),
            Packet::Message(Reply::Unsupported(version), _) => {
                Err(KeeperError::Unsupported(version))
            }
            Packet::Message(reply, _) => Ok(reply),
            Packet::Foreign { version } => Err(KeeperError::Unsupported(version)),
            Packet::Empty => Err(KeeperError::Confused("an empty packet")),
            Packet::Closed => Err(KeeperError::Gone),
        }
    }

    /// Sends `request` and awaits its one reply.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply, KeeperError> {
        self.send(request, fds).await?;
        self.reply().await
    }
}

fn lost(e: io::Error) -> KeeperError {
    if gone(&e) { KeeperError::Gone } else { KeeperError::Io(e) }
}

/// Whether an error means that nobody is at the other end.
pub(crate) fn gone(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::NotFound | K::ConnectionRefused | K::ConnectionReset | K::BrokenPipe | K::NotConnected
    )
}
