//! Terminals: a pair from a given devpts, its size, and control of a session.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::process::check;

/// Unlocks a master side and opens its other side without a path.
pub fn open_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(&master, flags)?)
}

/// The index of a terminal in its devpts, from the master side.
pub fn index(master: impl AsFd) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    let fd = master.as_fd().as_raw_fd();
    // SAFETY: TIOCGPTN stores one unsigned integer.
    let done = unsafe { libc::ioctl(fd, libc::TIOCGPTN, &raw mut number) };
    check(done.into())?;
    Ok(number)
}

/// Makes a terminal the controlling one of this process's session, which it must lead.
pub fn make_controlling(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Sets a terminal's size.
pub fn set_size(terminal: impl AsFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Whether a descriptor is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// A terminal's size: rows and columns.
pub fn size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal)?;
    Ok((size.ws_row, size.ws_col))
}

/// Lets a terminal's output pass as it is: by default a carriage return is put before each new line, which who relays it to
/// another terminal gets twice.
pub fn keep_new_lines(terminal: impl AsFd) -> io::Result<()> {
    let mut settings = rustix::termios::tcgetattr(&terminal)?;
    settings.output_modes.remove(rustix::termios::OutputModes::ONLCR);
    rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &settings)?;
    Ok(())
}

/// A terminal that passes every byte on, until this is dropped.
#[derive(Debug)]
pub struct Raw<T: AsFd> {
    terminal: T,
    before: rustix::termios::Termios,
}

impl<T: AsFd> Raw<T> {
    /// Sets the terminal raw.
    pub fn enter(terminal: T) -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl<T: AsFd> Drop for Raw<T> {
    fn drop(&mut self) {
        let now = rustix::termios::OptionalActions::Now;
        if let Err(error) = rustix::termios::tcsetattr(&self.terminal, now, &self.before) {
            tracing::debug!(%error, "terminal left raw");
        }
    }
}
