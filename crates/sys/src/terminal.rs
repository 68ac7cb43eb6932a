//! The terminal: its size, and raw mode that ends with its guard.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Rows and columns, or nothing when this is no terminal.
pub fn size(fd: impl AsFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(fd).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Raw mode for as long as it lives, also through a panic.
pub struct Raw {
    fd: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Puts the terminal into raw mode: no echo, no signals from keys, every byte at once.
    pub fn enter(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &raw)?;
        Ok(Self { fd, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        tcsetattr(&self.fd, OptionalActions::Now, &self.before).unwrap_or_default();
    }
}

/// Reads a line without showing it, as for a password.
pub struct NoEcho {
    fd: OwnedFd,
    before: Termios,
}

impl NoEcho {
    /// Stops the terminal from showing what is typed.
    pub fn enter(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&fd)?;
        let mut silent = before.clone();
        silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
        tcsetattr(&fd, OptionalActions::Now, &silent)?;
        Ok(Self { fd, before })
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        tcsetattr(&self.fd, OptionalActions::Now, &self.before).unwrap_or_default();
    }
}
