//! The one socket between a container's process being born and the process that bears it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use wharf_sys::socket;

use crate::failure::Failure;

/// What the new process says. Its silence (the end of the socket) means that its program runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Up {
    /// An intermediate process has made the real one, which has this id.
    Born(i32),
    /// Mounts are made; hooks of the runtime may run now.
    Mounted,
    /// A terminal's master side is attached.
    Console,
    /// A seccomp notification descriptor is attached.
    Listener,
    /// All is set up; waiting at the gate.
    Ready,
    /// Something went wrong; the process ends.
    Failed(Failure),
}

/// What the bearing process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Down {
    /// Identity maps are written.
    Mapped = 1,
    /// The cgroup has its limits; the files to enter it by are attached.
    Placed = 2,
    /// Hooks of the runtime have run.
    HooksRan = 3,
    /// The descriptor has arrived.
    Taken = 4,
    /// Run the program.
    Go = 5,
}

/// The lower end.
#[derive(Debug)]
pub(crate) struct Child(OwnedFd);

/// The upper end.
#[derive(Debug)]
pub(crate) struct Parent(OwnedFd);

pub(crate) fn pair() -> io::Result<(Parent, Child)> {
    let (a, b) = socket::pair()?;
    Ok((Parent(a), Child(b)))
}

impl Child {
    pub(crate) fn say(&self, message: &Up, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
        match fd {
            Some(fd) => socket::send(&self.0, &bytes, &[fd]),
            None => socket::send(&self.0, &bytes, &[]),
        }
    }

    /// Waits for exactly that word. The end of the socket means that the parent has given up.
    pub(crate) fn hear(&self, word: Down) -> io::Result<()> {
        self.take(word).map(drop)
    }

    /// As [`Child::hear`], for a word that descriptors come with.
    pub(crate) fn take(&self, word: Down) -> io::Result<Vec<OwnedFd>> {
        let mut byte = [0];
        match socket::recv(&self.0, &mut byte)? {
            (1, fds) if byte[0] == word as u8 => Ok(fds),
            (0, _) => Err(io::Error::other("the creating process is gone")),
            _ => Err(io::Error::other(format!("word {} instead of {word:?}", byte[0]))),
        }
    }
}

impl Parent {
    pub(crate) fn say(&self, word: Down, fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        socket::send(&self.0, &[word as u8], &fds)
    }

    /// The next message; `None` at the end.
    pub(crate) fn hear(&self) -> io::Result<Option<(Up, Option<OwnedFd>)>> {
        let mut buffer = [0; 4096];
        let (length, mut fds) = match socket::recv(&self.0, &mut buffer) {
            // The other end was closed with a word of ours unread. The kernel says so once, before what came in time.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                socket::recv(&self.0, &mut buffer)?
            }
            other => other?,
        };
        if length == 0 {
            return Ok(None);
        }
        let message = postcard::from_bytes(&buffer[..length]).map_err(io::Error::other)?;
        Ok(Some((message, fds.pop())))
    }
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_heard_although_ours_were_not() {
        let (parent, child) = pair().unwrap();
        child.say(&Up::Ready, None).unwrap();
        parent.say(Down::Placed, &[]).unwrap();
        drop(child);
        assert!(matches!(parent.hear().unwrap(), Some((Up::Ready, None))));
        assert!(parent.hear().unwrap().is_none());
    }
}
