//! One conversation with the daemon, from the keeper's side.

use std::os::fd::OwnedFd;

use crate::protocol::Reply;
use crate::wire;

/// A connection and what it has come to be about.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u32,
    pub(super) socket: OwnedFd,
    pub(super) topic: Topic,
}

/// What a connection waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// Its request.
    Nothing,
    /// The container's end.
    Container,
    /// The end of an attachment.
    Attachment,
    /// The end of the exec of this name.
    Exec(String),
    /// Growth of the log.
    Log(Follow),
}

/// What a follower of the log knows. Its request to be told may be on its way while the log grows, so growth
/// is remembered until it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// It has been told of all growth.
    UpToDate,
    /// It has not, and has not asked.
    Behind,
    /// It is told of the next growth at once.
    Armed,
}

impl Connection {
    /// Sends a reply. `false` if the peer is gone, or does not read what it asked for.
    pub(super) fn reply(&self, reply: &Reply) -> bool {
        wire::send(&self.socket, reply, &[]).is_ok()
    }
}
