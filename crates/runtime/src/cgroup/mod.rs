//! One container's control group, on either version of the interface.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::host::HostFacts;

mod stats;

pub use stats::{Blkio, BlkioEntry, Cpu, Memory, Pids, Stats, Throttling};

/// Where a container is limited, accounted and controlled. A value: opening one touches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {}

/// A cgroup file or directory refused.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory could not be used.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel or the layout has no means for what was asked.
    #[error("{0}")]
    Unsupported(String),
}

impl Cgroup {
    /// The cgroup of that path: absolute from the root of each hierarchy, otherwise below the caller's own.
    pub fn at(_host: &HostFacts, _path: &str) -> Self {
        Self {}
    }
    /// Makes the directories.
    pub fn create(&self) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Sets limits and weights; what `resources` does not name is left.
    pub fn apply(&self, _resources: &LinuxResources) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Moves a process in.
    pub fn attach(&self, _pid: i32) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Reads the account.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats::default())
    }
    /// Stops every process in the cgroup; returns when they have stopped.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Lets frozen processes go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Whether the processes are frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        Ok(false)
    }
    /// The processes in the cgroup and below.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        Ok(Vec::new())
    }
    /// Kills every process in the cgroup and below, frozen ones too.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Removes the directories. What is already gone is no error.
    pub fn delete(&self) -> Result<(), CgroupError> {
        Ok(())
    }
    /// A descriptor that becomes readable when the cgroup runs out of memory: an eventfd on v1, an
    /// inotify watch of `memory.events` on v2. Compare [`Cgroup::oom_kills`] before and after.
    pub fn oom_events(&self) -> Result<OwnedFd, CgroupError> {
        Err(CgroupError::Unsupported("not built yet".into()))
    }
    /// How many processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }
}
