//! What a process inside a container could not do, as it is sent to the process outside.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason for which a container's process never ran its program.
///
/// The texts are runc's, because clients choose exit codes 126 and 127 by them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The program could not be run.
    Exec {
        /// The first argument, as given.
        program: String,
        /// Why not.
        fault: ExecFault,
    },
    /// A step of the set-up failed in the kernel.
    Step {
        /// What was tried, to what.
        doing: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// A step was refused because going on would be unsafe or impossible.
    Refused {
        /// What is wrong, with what, and what to do.
        what: String,
    },
}

/// Why a program could not be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecFault {
    /// A name without a slash is in no directory of `PATH`.
    NotInPath,
    /// `stat` of the path failed.
    Stat(i32),
    /// The file may not be executed.
    Denied,
    /// The path is a directory.
    Directory,
    /// `execve` failed.
    Execve(i32),
}

impl Failure {
    /// A failed step: what was being done, and the error it met.
    pub fn step(doing: impl Into<String>, error: &std::io::Error) -> Self {
        Self::Step { doing: doing.into(), errno: error.raw_os_error().unwrap_or(0) }
    }

    /// The exit code by which a shell or `docker run` reports this failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exec { fault: ExecFault::NotInPath, .. } => 127,
            Self::Exec { fault: ExecFault::Stat(errno) | ExecFault::Execve(errno), .. }
                if *errno == wharf_sys::errno::NOENT =>
            {
                127
            }
            Self::Exec { .. } => 126,
            Self::Step { .. } | Self::Refused { .. } => 125,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { program, fault } => match fault {
                ExecFault::NotInPath => {
                    write!(f, "exec: {program:?}: executable file not found in $PATH")
                }
                ExecFault::Stat(errno) => {
                    write!(
                        f,
                        "exec: {program:?}: stat {program}: {}",
                        wharf_sys::errno::text(*errno)
                    )
                }
                ExecFault::Denied => write!(f, "exec: {program:?}: permission denied"),
                ExecFault::Directory => write!(f, "exec: {program:?}: is a directory"),
                ExecFault::Execve(errno) => {
                    write!(f, "exec {program}: {}", wharf_sys::errno::text(*errno))
                }
            },
            Self::Step { doing, errno: 0 } => f.write_str(doing),
            Self::Step { doing, errno } => write!(f, "{doing}: {}", wharf_sys::errno::text(*errno)),
            Self::Refused { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}
