//! Everything about a container that can be decided before it has a process.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::host::HostFacts;

/// A container, resolved: nothing is looked up or parsed after `clone3`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The container's cgroup.
    pub cgroup: Cgroup,
}

/// What a plan needs beyond the spec.
#[derive(Debug)]
pub struct PlanContext<'a> {
    /// The container's id, for hooks and the default cgroup.
    pub id: &'a str,
    /// The directory that relative paths of the spec are relative to.
    pub bundle: &'a Path,
    /// The root file system; the spec's `root.path` is not read when this is an overlay.
    pub root: Root,
    /// What this host can do.
    pub host: &'a HostFacts,
    /// Descriptors from 3 on that the program is to inherit.
    pub preserve_fds: u32,
    /// Whether the container gets a session keyring of its own.
    pub keyring: bool,
}

impl<'a> PlanContext<'a> {
    /// A context with the usual choices: no further descriptors, a new session keyring.
    pub fn new(id: &'a str, bundle: &'a Path, root: Root, host: &'a HostFacts) -> Self {
        Self { id, bundle, root, host, preserve_fds: 0, keyring: true }
    }
}

/// Where a container's root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// A directory.
    Dir(PathBuf),
    /// An overlay, mounted only inside the container's own mount namespace.
    Overlay {
        /// Read-only layers, the top one first.
        lowers: Vec<PathBuf>,
        /// Takes the changes.
        upper: PathBuf,
        /// An empty directory on the file system of `upper`.
        work: PathBuf,
    },
}

/// Why a spec cannot become a container here.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A field has a value that cannot be used.
    #[error("{field}: {problem}")]
    Field {
        /// The field's path in `config.json`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Plan {
    /// Resolves `spec`. Reads the host only through `ctx.host`.
    pub fn compile(_spec: &Spec, ctx: &PlanContext<'_>) -> Result<Self, PlanError> {
        Ok(Self { id: ctx.id.to_owned(), cgroup: Cgroup::at(ctx.host, ctx.id) })
    }
}
