//! A terminal for programs that want one.

use crate::program::Talk;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

/// A program on a pseudo terminal of its own. Sees what a person would see.
pub struct Terminal {
    master: File,
    talk: Talk,
}

impl Terminal {
    /// Starts `program args…` on a terminal of 24 rows and 80 columns.
    pub fn start(c: &Command) -> Terminal {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let master = File::from(master);
        let slave = || Stdio::from(OpenOptions::new().read(true).write(true).open(&name).unwrap());
        size(&master, 24, 80);
        // setsid(1) makes the terminal the controlling one, so that SIGWINCH and ^C arrive.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--"]).arg(c.get_program()).args(c.get_args()).env_clear();
        session.envs(c.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let child =
            session.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("start setsid");
        // The command holds our copies of the slave; the end is seen only when they are closed.
        drop(session);
        let (input, output) = (master.try_clone().unwrap(), master.try_clone().unwrap());
        Terminal { master, talk: Talk::over(child, input, output) }
    }

    /// Changes the window's size, as dragging its corner does.
    pub fn resize(&self, rows: u16, columns: u16) {
        size(&self.master, rows, columns);
    }

    /// Waits for the program's end; gives its exit code and all of its output.
    #[track_caller]
    pub fn finish(self) -> (i32, String) {
        self.talk.finish()
    }
}

impl Deref for Terminal {
    type Target = Talk;
    fn deref(&self) -> &Talk {
        &self.talk
    }
}

impl DerefMut for Terminal {
    fn deref_mut(&mut self) -> &mut Talk {
        &mut self.talk
    }
}

fn size(master: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}
