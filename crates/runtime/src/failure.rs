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
    /// The program is for another machine: its ELF number.
    Foreign(u16),
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
                ExecFault::Foreign(machine) => write!(
                    f,
                    "exec {program}: exec format error: {program} is for {}, this host is {}",
                    machine_name(*machine),
                    machine_name(OWN_MACHINE)
                ),
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

/// This host's number in ELF headers.
const OWN_MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// Machines by the names of image platforms.
fn machine_name(number: u16) -> String {
    match number {
        3 => "386".into(),
        8 => "mips".into(),
        21 => "ppc64le".into(),
        22 => "s390x".into(),
        40 => "arm".into(),
        62 => "amd64".into(),
        183 => "arm64".into(),
        243 => "riscv64".into(),
        258 => "loong64".into(),
        other => format!("ELF machine {other}"),
    }
}

/// The machine a program is for, when it is an ELF file for another one than this.
pub(crate) fn foreign_machine(head: &[u8]) -> Option<u16> {
    if head.len() < 20 || !head.starts_with(b"\x7fELF") {
        return None;
    }
    let bytes = [head[18], head[19]];
    let number = if head[5] == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    (number != OWN_MACHINE).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_programs_are_named() {
        let mut head = [0; 20];
        head[..4].copy_from_slice(b"\x7fELF");
        head[18] = 22;
        let machine = foreign_machine(&head).unwrap();
        let fault = ExecFault::Foreign(machine);
        let text = Failure::Exec { program: "/app".into(), fault }.to_string();
        assert!(text.starts_with("exec /app: exec format error: /app is for s390x, this host is "));
        head[18] = u8::try_from(OWN_MACHINE).unwrap();
        assert_eq!(foreign_machine(&head), None);
        assert_eq!(foreign_machine(b"#!/bin/sh"), None);
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let code = |fault| Failure::Exec { program: "x".into(), fault }.exit_code();
        assert_eq!(code(ExecFault::NotInPath), 127);
        assert_eq!(code(ExecFault::Stat(wharf_sys::errno::NOENT)), 127);
        assert_eq!(code(ExecFault::Denied), 126);
        assert_eq!(code(ExecFault::Directory), 126);
    }
}
