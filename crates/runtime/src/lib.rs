//! One container: created, started, kept, entered, signalled, accounted and deleted.
//!
//! A [`Plan`] is compiled from an OCI spec before any process exists. [`create`] turns it into a
//! process that waits at a gate, [`Created::start`] opens the gate, [`exec`] adds a process later.
//! Everything here blocks and expects a caller with one thread: the container's first process is
//! made by `clone3` from the calling process and goes on in its memory until `execve`.
#![forbid(unsafe_code)]

pub mod cgroup;
mod channel;
mod copy;
pub mod create;
pub mod exec;
pub mod failure;
mod hooks;
pub mod host;
mod init;
pub mod oci;
pub mod plan;
mod rootfs;
pub mod seccomp;
mod tree;

pub use create::{ConsoleSize, CreateError, Created, Exit, Init, Io, StartError, create};
pub use exec::{ExecPlan, ExecProcess, Target, exec};
pub use failure::Failure;
pub use host::HostFacts;
pub use plan::{Plan, PlanContext, PlanError, Root};
