//! Everything about a container that can be decided before it has a process.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use wharf_sys::mount::Attr;
use wharf_sys::security::Insn;
use wharf_sys::tuning::SchedAttr;

use crate::cgroup::{Cgroup, CgroupError, Limits};
use crate::hooks::HookPlan;
use crate::host::HostFacts;
use crate::seccomp::{Filters, SeccompError};

mod compile;
mod mounts;
pub(crate) mod process;

/// A container, resolved: nothing is looked up or parsed after `clone3`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The container's cgroup.
    pub cgroup: Cgroup,
    /// Run the program under a first process that passes signals on and reaps orphans (`--init`).
    pub reaper: bool,
    pub(crate) limits: Limits,
    pub(crate) namespaces: Namespaces,
    pub(crate) rootfs: Rootfs,
    pub(crate) identity: Identity,
    pub(crate) process: ProcessPlan,
    pub(crate) hooks: Option<Box<HookPlan>>,
    pub(crate) keyring: Option<CString>,
    pub(crate) seccomp: Option<Filter>,
}

/// The namespaces of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` bits of those to make.
    pub(crate) new: u64,
    /// Those to join: the bit and the file.
    pub(crate) join: Vec<(u64, PathBuf)>,
    /// What to write to `uid_map` and `gid_map` of a new user namespace.
    pub(crate) maps: Option<UserMaps>,
    /// What to write to `timens_offsets`.
    pub(crate) time_offsets: Option<String>,
}

/// Identity maps in the kernel's notation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserMaps {
    pub(crate) uid: String,
    pub(crate) gid: String,
}

/// The file system of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    pub(crate) root: Root,
    /// Where the root is attached before it becomes `/`; createContainer hooks look for it there.
    pub(crate) attach_at: PathBuf,
    pub(crate) readonly: bool,
    /// Recursive propagation of all mounts on entering the namespace.
    pub(crate) propagation: u64,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<DevicePlan>,
    /// Whether `/dev` is the container's own and gets links and a console.
    pub(crate) own_dev: bool,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    pub(crate) pivot: Pivot,
    /// SELinux context of mounts that take one.
    pub(crate) label: Option<String>,
}

/// How the new root becomes `/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pivot {
    /// By `pivot_root`, so that the host's tree is gone.
    #[default]
    Root,
    /// By moving the mount and `chroot`, for hosts that run from an initramfs.
    Chroot,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    pub(crate) target: PathBuf,
    pub(crate) kind: MountKind,
    /// Attributes of this mount.
    pub(crate) attr: Attr2,
    /// Attributes of this mount and all below.
    pub(crate) recursive_attr: Attr2,
    /// The propagation type, and whether for all below.
    pub(crate) propagation: Option<(u64, bool)>,
}

/// [`Attr`] without propagation, as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attr2 {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl From<Attr2> for Attr {
    fn from(a: Attr2) -> Self {
        Self { set: a.set, clear: a.clear, propagation: 0 }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountKind {
    /// A path of the host.
    Bind { source: PathBuf, recursive: bool, idmap: Option<IdMap> },
    /// A new instance of a file system.
    Fs {
        kind: String,
        source: Option<String>,
        options: Vec<(String, Option<String>)>,
        copy_up: bool,
    },
    /// The container's cgroup.
    Cgroup,
}

/// Owners of a bind mount as the container sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMap {
    /// `None`: those of the container's user namespace.
    pub(crate) maps: Option<UserMaps>,
    pub(crate) recursive: bool,
}

/// One device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DevicePlan {
    pub(crate) path: PathBuf,
    pub(crate) kind: DeviceKind,
    pub(crate) number: (u32, u32),
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

/// Kinds of nodes a spec may list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// Names and kernel parameters of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    /// Paths below `/proc/sys` and values.
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) loopback: bool,
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<(i32, Vec<u64>)>,
}

/// One process: the first of a container, or one added later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: Option<u32>,
    pub(crate) caps: Option<CapPlan>,
    pub(crate) last_cap: u8,
    pub(crate) no_new_privs: bool,
    /// AppArmor profile to enter by `execve`.
    pub(crate) apparmor: Option<String>,
    /// SELinux label to enter by `execve`.
    pub(crate) selinux: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
    /// `RLIMIT_*`, soft, hard.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) io_priority: Option<u32>,
    pub(crate) scheduler: Option<SchedAttr>,
    /// Processors while entering, and while running.
    pub(crate) affinity: (Option<Vec<u64>>, Option<Vec<u64>>),
    /// Descriptors from 3 on that the program inherits.
    pub(crate) preserve_fds: u32,
    pub(crate) terminal: bool,
    /// Its output goes on to another terminal, which puts a carriage return before each new line.
    pub(crate) relayed: bool,
    pub(crate) userns: bool,
}

/// Capability sets, one bit per number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) ambient: u64,
}

/// A compiled system call filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The program, shared by all that have it.
    pub program: Arc<[Insn]>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
    /// Where to send the notification descriptor.
    pub listener: Option<PathBuf>,
    /// What to send with it.
    pub metadata: String,
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
    /// Whether output of the container's terminal goes on to another terminal, as with `runc run` in the foreground: no carriage
    /// return is put before new lines then, which the other does.
    pub relayed: bool,
    /// Whether the container gets a session keyring of its own.
    pub keyring: bool,
    /// How the root becomes `/`.
    pub pivot: Pivot,
    /// Where compiled filters are kept, for who makes many plans.
    pub filters: Option<&'a Filters>,
}

impl<'a> PlanContext<'a> {
    /// A context with the usual choices: no further descriptors, a new session keyring, `pivot_root`.
    pub fn new(id: &'a str, bundle: &'a Path, root: Root, host: &'a HostFacts) -> Self {
        Self {
            id,
            bundle,
            root,
            host,
            preserve_fds: 0,
            relayed: false,
            keyring: true,
            pivot: Pivot::Root,
            filters: None,
        }
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
        /// The changes need not outlive a crash of the machine, see [`wharf_sys::mount::Upper`].
        #[serde(default)]
        volatile: bool,
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
    /// The limits cannot be expressed on this host.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The system call filter cannot be compiled.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

impl PlanError {
    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }
}

impl Plan {
    /// Resolves `spec`. Reads the host only through `ctx.host`.
    pub fn compile(spec: &Spec, ctx: &PlanContext<'_>) -> Result<Self, PlanError> {
        compile::plan(spec, ctx)
    }

    /// Whether the process has user namespaces or other means that make its identities differ.
    pub(crate) fn has_userns(&self) -> bool {
        use wharf_sys::process::NEWUSER;
        self.namespaces.new & NEWUSER != 0
            || self.namespaces.join.iter().any(|(kind, _)| *kind == NEWUSER)
    }
}

pub(crate) use process::compile as compile_process;
