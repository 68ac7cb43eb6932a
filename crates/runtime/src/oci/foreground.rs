//! A container in the foreground: its terminal joined to ours, our signals passed on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use wharf_sys::events::{next_signal, signal_fd};
use wharf_sys::{process, tty};

use super::OciError;
use crate::create::{Exit, Init};

/// Catches signals from before the start, so that none is lost.
pub(super) struct Supervisor {
    signals: OwnedFd,
}

const SIGWINCH: i32 = 28;

/// What a person or a service manager sends to stop, reload or resize.
const PASSED: [i32; 9] = [1, 2, 3, 10, 12, 15, 18, SIGWINCH, 20];

fn fail(doing: &'static str) -> impl FnOnce(io::Error) -> OciError {
    move |source| OciError::Sys { doing, source }
}

impl Supervisor {
    pub(super) fn new() -> Result<Self, OciError> {
        Ok(Self { signals: signal_fd(&PASSED).map_err(fail("catch signals"))? })
    }

    /// Serves the terminal until the container ends.
    pub(super) fn wait(self, init: &Init, console: Option<OwnedFd>) -> Result<Exit, OciError> {
        let raw = match &console {
            Some(_) if tty::is_terminal(io::stdin()) => {
                Some(tty::Raw::enter(io::stdin()).map_err(fail("set the terminal raw"))?)
            }
            _ => None,
        };
        let exit = self.serve(init, console.map(File::from));
        drop(raw);
        exit
    }

    fn serve(&self, init: &Init, console: Option<File>) -> Result<Exit, OciError> {
        let stdin = io::stdin();
        let mut input_open = console.is_some();
        if let Some(console) = &console {
            resize(console);
        }
        loop {
            let mut fds = vec![init.pidfd.as_fd(), self.signals.as_fd()];
            if let Some(console) = &console {
                fds.push(console.as_fd());
                if input_open {
                    fds.push(stdin.as_fd());
                }
            }
            let ready = process::poll_readable(&fds, -1).map_err(fail("wait for the container"))?;
            if ready[1] {
                self.pass_signal(init, console.as_ref())?;
            }
            let mut console_done = false;
            if let Some(console) = &console {
                if ready[2] {
                    // An error is the end: the other side is closed.
                    console_done = copy(console, io::stdout()).unwrap_or(0) == 0;
                }
                if ready.get(3) == Some(&true) {
                    input_open = copy(&mut io::stdin(), console).unwrap_or(0) > 0;
                }
            }
            // The rest of the output comes before the end.
            if ready[0] && (console.is_none() || !ready[2] || console_done) {
                return init.wait().map_err(fail("wait for the container"));
            }
            if console_done {
                return self.serve(init, None);
            }
        }
    }

    fn pass_signal(&self, init: &Init, console: Option<&File>) -> Result<(), OciError> {
        while let Some(signal) = next_signal(&self.signals).map_err(fail("read a signal"))? {
            match console {
                Some(console) if signal == SIGWINCH => resize(console),
                // The container may just have ended; then there is nobody to tell.
                _ => drop(process::pidfd_signal(init.pidfd.as_fd(), signal)),
            }
        }
        Ok(())
    }
}

fn copy(mut from: impl io::Read, mut to: impl io::Write) -> io::Result<usize> {
    let mut buffer = [0; 8192];
    let length = from.read(&mut buffer)?;
    to.write_all(&buffer[..length])?;
    to.flush()?;
    Ok(length)
}

/// Without a terminal of our own there is no size to pass on.
fn resize(console: &File) {
    if let Ok((rows, cols)) = tty::size(io::stdin()) {
        drop(tty::set_size(console, rows, cols));
    }
}
