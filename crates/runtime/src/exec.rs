//! A further process in a running container.

use std::io;
use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::create::{Exit, Io, StartError};
use crate::failure::Failure;
use crate::host::HostFacts;
use crate::plan::{Plan, PlanError};

/// A running container, as far as another process needs it.
#[derive(Debug)]
pub struct Target {
    /// The container's first process.
    pub pid: i32,
    /// The same, for good.
    pub pidfd: OwnedFd,
    /// Where the new process is accounted.
    pub cgroup: Cgroup,
}

/// A process to add to a container, resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecPlan {}

/// A process that [`exec`] started. It is a child of the caller.
#[derive(Debug)]
pub struct ExecProcess {
    /// The process id, as the caller sees it.
    pub pid: i32,
    /// Refers to the process for good; readable when it has ended.
    pub pidfd: OwnedFd,
    /// The terminal's master side, when [`Io::console`] asked for a terminal.
    pub console: Option<OwnedFd>,
}

impl ExecPlan {
    /// Resolves `process` for the container that `container` made.
    pub fn compile(
        _process: &Process,
        _container: &Plan,
        _host: &HostFacts,
    ) -> Result<Self, PlanError> {
        Ok(Self {})
    }
}

/// Starts a process in the container of `target`; returns when its program runs or could not be run.
pub fn exec(_target: &Target, _plan: &ExecPlan, _io: Io) -> Result<ExecProcess, StartError> {
    Err(StartError::Init(Failure::Refused { what: "not built yet".into() }))
}

impl ExecProcess {
    /// Waits for the end of the process and reaps it.
    pub fn wait(&self) -> io::Result<Exit> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
