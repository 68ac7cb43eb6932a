//! One container's control group, on either version of the interface.
//!
//! A [`Cgroup`] is a value made of paths; every method is one visit to the kernel's files. What
//! differs between the versions is in [`v1`] and [`v2`]; what a limit is called there is decided
//! without I/O, so that both are tested on any host.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::host::{HostFacts, Layout};

mod devices;
mod files;
mod stats;
mod v1;
mod v2;

pub use devices::program as device_program;
pub use stats::{Blkio, BlkioEntry, Cpu, Memory, Pids, Stats, Throttling};
pub use v1::Tree as V1Tree;

/// Where a container is limited, accounted and controlled. A value: making one touches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroup {
    /// A directory in each v1 tree.
    V1(v1::Trees),
    /// A directory in the v2 tree.
    V2(v2::Tree),
}

/// One value to write to one control file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The file.
    pub file: PathBuf,
    /// Its new content.
    pub value: String,
}

impl Setting {
    fn is_device(&self) -> bool {
        self.file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"devices."))
    }
}

/// Limits resolved to control files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// In the order in which they must be written.
    pub settings: Vec<Setting>,
    /// The v2 device program.
    pub devices: Option<Vec<u64>>,
}

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
    /// A value was refused.
    #[error("write {value:?} to {}", path.display())]
    Write {
        /// The value.
        value: String,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel or the layout has no means for what was asked.
    #[error("{0}")]
    Unsupported(String),
}

impl CgroupError {
    /// Whether the cgroup is not there any more: its last process has ended and somebody has cleaned up.
    pub fn is_gone(&self) -> bool {
        let (Self::Io { source, .. } | Self::Write { source, .. }) = self else { return false };
        source.kind() == io::ErrorKind::NotFound
            || source.raw_os_error() == Some(wharf_sys::errno::NODEV)
    }

    /// Whether a cgroup was not removed because a process is still counted in it.
    pub fn is_busy(&self) -> bool {
        let busy = |e: &io::Error| e.raw_os_error() == Some(wharf_sys::errno::BUSY);
        matches!(self, Self::Io { source, .. } if busy(source))
    }
}

impl Cgroup {
    /// The cgroup of that path: absolute from the root of each tree, otherwise below the caller's own.
    pub fn at(host: &HostFacts, path: &str) -> Self {
        match &host.cgroups {
            Layout::V1(trees) => Self::V1(v1::Trees::at(trees, path)),
            Layout::V2 { mount, own } => Self::V2(v2::Tree::at(mount, own, path)),
        }
    }

    /// Makes the directories, and prepares parents so that limits can be set in them.
    pub fn create(&self) -> Result<(), CgroupError> {
        match self {
            Self::V1(trees) => trees.create(),
            Self::V2(tree) => tree.create(),
        }
    }

    /// Whether the directory is there.
    pub fn exists(&self) -> bool {
        self.main_dir().is_dir()
    }

    /// The cgroup `path` below this one, which must be there: on v1 in the tree of `controller`, or in every tree.
    pub fn below(&self, controller: Option<&str>, path: &str) -> Result<Self, CgroupError> {
        let relative = Path::new(path.trim_start_matches('/'));
        let inside =
            |c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir);
        if !relative.components().all(inside) {
            return Err(CgroupError::Unsupported(format!("bad sub cgroup path: {path}")));
        }
        let below = |dir: &mut PathBuf| {
            dir.push(relative);
            fs::metadata(&*dir).map(drop).map_err(files::failed("adding pid to cgroup", dir))
        };
        let mut sub = self.clone();
        match (&mut sub, controller) {
            (Self::V1(trees), _) => trees.descend(controller, below)?,
            (Self::V2(tree), None | Some("")) => below(&mut tree.dir)?,
            (Self::V2(_), Some(name)) => {
                let why = format!("{name}:{path}: cgroup v2 has one tree: leave {name}: out");
                return Err(CgroupError::Unsupported(why));
            }
        }
        Ok(sub)
    }

    /// Resolves limits and weights to control files; what `resources` does not name is left.
    pub fn limits(&self, resources: &LinuxResources) -> Result<Limits, CgroupError> {
        match self {
            Self::V1(trees) => trees.limits(resources),
            Self::V2(tree) => tree.limits(resources),
        }
    }

    /// Sets resolved limits.
    pub fn set(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.set_early(limits)?;
        self.set_devices(limits)
    }

    /// As [`Cgroup::set`], without what limits devices: a process that still makes device nodes
    /// must not be limited yet.
    pub(crate) fn set_early(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits
            .settings
            .iter()
            .filter(|s| !s.is_device())
            .try_for_each(|s| files::write(&s.file, &s.value))
    }

    /// Sets limits of a cgroup that has some. A share of the processors must not be above the parent's in between, and with
    /// the new period before the new quota, or the other way round, it may be.
    fn set_again(&self, limits: &Limits) -> Result<(), CgroupError> {
        let refused = |e: &CgroupError| matches!(e, CgroupError::Write { source, .. } if source.kind() == io::ErrorKind::InvalidInput);
        let name = |s: &Setting| s.file.file_name().map(std::ffi::OsStr::to_os_string);
        let at =
            |file: &str| limits.settings.iter().position(|s| name(s).is_some_and(|n| n == file));
        match (self.set(limits), at("cpu.cfs_period_us"), at("cpu.cfs_quota_us")) {
            (Err(e), Some(period), Some(quota)) if refused(&e) => {
                let mut turned = limits.clone();
                turned.settings.swap(period, quota);
                self.set(&turned)
            }
            (outcome, ..) => outcome,
        }
    }

    /// What [`Cgroup::set_early`] left.
    pub(crate) fn set_devices(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits
            .settings
            .iter()
            .filter(|s| s.is_device())
            .try_for_each(|s| files::write(&s.file, &s.value))?;
        match (self, &limits.devices) {
            (Self::V2(tree), Some(program)) => tree.limit_devices(program),
            _ => Ok(()),
        }
    }

    /// Resolves and sets limits and weights, also on a running container.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let mut limits = self.limits(resources)?;
        if let Self::V1(trees) = self {
            trees.order_memory(&mut limits.settings);
        }
        self.set_again(&limits)
    }

    /// The v2 directory, into which `clone3` can put a process.
    pub fn open_for_clone(&self) -> Result<Option<OwnedFd>, CgroupError> {
        match self {
            Self::V1(_) => Ok(None),
            Self::V2(tree) => fs::File::open(tree.dir())
                .map(|dir| Some(dir.into()))
                .map_err(files::failed("open", tree.dir())),
        }
    }

    /// On v2 a process is born in its cgroup, which must be there before; on v1 the directories
    /// are made while the process sets up its mounts.
    pub(crate) fn open_for_clone_after_create(&self) -> Result<Option<OwnedFd>, CgroupError> {
        match self {
            Self::V1(_) => Ok(None),
            Self::V2(_) => {
                self.create()?;
                self.open_for_clone()
            }
        }
    }

    /// See [`Cgroup::open_for_clone_after_create`].
    pub(crate) fn create_if_late(&self) -> Result<(), CgroupError> {
        match self {
            Self::V1(trees) => trees.create(),
            Self::V2(_) => Ok(()),
        }
    }

    /// The files by which a process of one thread enters, see [`enter`]; none on v2, where it is born inside.
    pub(crate) fn doors(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        match self {
            Self::V1(trees) => trees.doors(),
            Self::V2(_) => Ok(Vec::new()),
        }
    }

    /// Reads the account.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        match self {
            Self::V1(trees) => trees.stats(),
            Self::V2(tree) => tree.stats(),
        }
    }

    /// Stops every process in the cgroup; returns when they have stopped.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        match self {
            Self::V1(trees) => trees.freeze(),
            Self::V2(tree) => tree.freeze(true),
        }
    }

    /// Lets frozen processes go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self {
            Self::V1(trees) => trees.thaw(),
            Self::V2(tree) => tree.freeze(false),
        }
    }

    /// Whether the processes are frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match self {
            Self::V1(trees) => trees.is_frozen(),
            Self::V2(tree) => tree.is_frozen(),
        }
    }

    /// The processes in the cgroup and below.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        files::visit(self.main_dir(), &mut |dir| files::pids(dir, &mut pids))?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills every process in the cgroup and below, frozen ones too.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if let Self::V2(tree) = self
            && tree.kill()?
        {
            return Ok(());
        }
        self.signal_all(9)?;
        // A frozen process dies only when it is thawed; SIGKILL is already pending then.
        self.thaw()
    }

    /// Sends a signal to every process in the cgroup and below.
    pub fn signal_all(&self, signal: i32) -> Result<(), CgroupError> {
        // Processes may fork meanwhile: until a round finds no new one.
        let mut known = Vec::new();
        loop {
            let new: Vec<i32> =
                self.pids()?.into_iter().filter(|pid| !known.contains(pid)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for &pid in &new {
                match wharf_sys::process::kill(pid, signal) {
                    Err(e) if e.raw_os_error() != Some(wharf_sys::errno::SRCH) => {
                        let path = self.main_dir().to_owned();
                        return Err(CgroupError::Io {
                            doing: "signal a process of",
                            path,
                            source: e,
                        });
                    }
                    _ => (),
                }
            }
            known.extend(new);
        }
    }

    /// Removes the directories and what the container made below. What is already gone is no error.
    ///
    /// Every directory is tried; the first error is returned.
    pub fn delete(&self) -> Result<(), CgroupError> {
        match self {
            Self::V1(trees) => trees.delete(),
            Self::V2(tree) => files::remove(tree.dir()),
        }
    }

    /// A descriptor that becomes readable when the cgroup runs out of memory: an eventfd on v1, an
    /// inotify watch of `memory.events` on v2. Compare [`Cgroup::oom_kills`] before and after.
    pub fn oom_events(&self) -> Result<OwnedFd, CgroupError> {
        match self {
            Self::V1(trees) => trees.oom_events(),
            Self::V2(tree) => tree.oom_events(),
        }
    }

    /// How many processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        match self {
            Self::V1(trees) => trees.oom_kills(),
            Self::V2(tree) => tree.oom_kills(),
        }
    }

    /// Directories by tree name, as `state.json` of runc lists them.
    pub fn dirs(&self) -> Vec<(String, PathBuf)> {
        match self {
            Self::V1(trees) => trees.named_dirs(),
            Self::V2(tree) => vec![(String::new(), tree.dir().to_owned())],
        }
    }

    /// The directory whose `cgroup.procs` names all processes.
    fn main_dir(&self) -> &Path {
        match self {
            Self::V1(trees) => trees.main_dir(),
            Self::V2(tree) => tree.dir(),
        }
    }
}

/// Moves the calling thread, its process's only one, through the doors of a cgroup.
///
/// Moving another process takes a lock of the kernel that waits for a grace period of RCU, up to 20 ms on a
/// busy machine. A thread that moves itself by `tasks` does not (`cgroup_procs_write_start` in
/// kernel/cgroup/cgroup.c, since Linux 5.2). Rights are those of who opened the files.
pub(crate) fn enter(doors: Vec<OwnedFd>) -> Result<(), Failure> {
    for door in doors {
        let mut door = fs::File::from(door);
        if let Err(e) = door.write_all(b"0") {
            let path = fs::read_link(format!("/proc/self/fd/{}", door.as_raw_fd()));
            let path = path.unwrap_or_default();
            return Err(Failure::step(format!("write \"0\" to {}", path.display()), &e));
        }
    }
    Ok(())
}

/// `cgroupsPath` must not climb, and an absolute one stays absolute.
fn join(mount: &Path, own: &Path, path: &str) -> PathBuf {
    let base = if path.starts_with('/') { Path::new("/") } else { own };
    let mut dir = mount.to_owned();
    let parts = base.components().chain(Path::new(path).components());
    for part in parts {
        if let std::path::Component::Normal(name) = part {
            dir.push(name);
        }
    }
    dir
}
