//! One conversation with a keeper, driven by tokio.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::unix::AsyncFd;
use wharf_sys::channel;

use crate::client::KeeperError;
use crate::protocol::{Reply, Request, SOCKET};
use crate::wire::{self, Packet};

/// A packet socket. Dropping it ends the conversation, never the container.
#[derive(Debug)]
pub(crate) struct Connection(AsyncFd<OwnedFd>);

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
        Ok(Connection(AsyncFd::new(fd)?))
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

    async fn write(
        &self,
        mut send: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<(), KeeperError> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| send(fd.get_ref().as_fd())) {
                Ok(done) => return done.map_err(lost),
                Err(_would_block) => {}
            }
        }
    }

    /// The next reply. Cancel-safe: a packet is taken whole or not at all.
    pub(crate) async fn reply(&self) -> Result<Reply, KeeperError> {
        let packet = loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| wire::recv::<Reply>(fd.get_ref())) {
                Ok(got) => break got.map_err(lost)?,
                Err(_would_block) => {}
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
