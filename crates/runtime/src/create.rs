//! The outside of a container's birth: clone, identity maps, cgroups, hooks, the gate.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupError;
use crate::failure::Failure;
use crate::plan::Plan;

/// The descriptors a container's process gets; a missing one is `/dev/null`.
#[derive(Debug, Default)]
pub struct Io {
    /// Becomes descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Becomes descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Becomes descriptor 2.
    pub stderr: Option<OwnedFd>,
    /// When set, the process gets a terminal of the container's own devpts in place of the three.
    pub console: Option<ConsoleSize>,
}

/// The size of a terminal in characters; zero leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// A container whose first process waits at the gate.
#[derive(Debug)]
pub struct Created {
    pid: i32,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
}

/// A container's first process, running its program.
#[derive(Debug)]
pub struct Init {
    /// The process id, as the caller sees it.
    pub pid: i32,
    /// Refers to the process for good; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned a code.
    Code(u8),
    /// It was killed by a signal.
    Signal(u8),
}

/// Why a container could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The container's own process met an error.
    #[error(transparent)]
    Init(#[from] Failure),
    /// The cgroup could not be made or limited.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call of the creating process failed.
    #[error("{doing}")]
    Sys {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Why a process did not come to run its program.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process reported what it could not do.
    #[error(transparent)]
    Init(#[from] Failure),
    /// The cgroup could not be entered.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call of the starting process failed.
    #[error("{doing}")]
    Sys {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes the container's namespaces, file system and cgroup, and its first process waiting to run.
///
/// On an error nothing is left: the process is ended and reaped and the cgroup removed.
pub fn create(_plan: &Plan, _io: Io) -> Result<Created, CreateError> {
    Err(CreateError::Init(Failure::Refused { what: "not built yet".into() }))
}

impl Created {
    /// The first process, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Refers to the first process for good; readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The terminal's master side, once, when [`Io::console`] asked for a terminal.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Opens the gate, and returns when the program runs or could not be run.
    pub fn start(self) -> Result<Init, StartError> {
        Err(StartError::Init(Failure::Refused { what: "not built yet".into() }))
    }
}

impl Init {
    /// Waits for the end of the process and reaps it. Only its parent may.
    pub fn wait(&self) -> io::Result<Exit> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
