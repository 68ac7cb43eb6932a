//! What this host offers, read once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The kernel's version, cgroup layout and security modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel's version.
    pub kernel: (u32, u32),
    /// How control groups are mounted.
    pub cgroups: Layout,
    /// The highest capability the kernel knows.
    pub last_cap: u8,
    /// Whether AppArmor is in force.
    pub apparmor: bool,
    /// Whether SELinux is in force.
    pub selinux: bool,
}

/// How control groups are mounted. A hybrid host is a v1 host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// One tree per controller or group of controllers.
    V1(Vec<Hierarchy>),
    /// One tree for all.
    V2 {
        /// Where it is mounted.
        mount: PathBuf,
        /// This process's cgroup, from the mount.
        own: PathBuf,
    },
}

/// One v1 tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Its controllers, `name=systemd`, or nothing for the v2 tree of a hybrid host.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// This process's cgroup, from the mount.
    pub own: PathBuf,
}

/// The host could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of `/proc` or `/sys` is missing or unreadable.
    #[error("read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No control group tree is mounted.
    #[error("no cgroup file system is mounted: mount cgroup2 at /sys/fs/cgroup")]
    NoCgroups,
}

impl HostFacts {
    /// Reads the facts from `/proc` and `/sys`.
    pub fn probe() -> Result<Self, HostError> {
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let last_cap = read("/proc/sys/kernel/cap_last_cap")?.trim().parse().unwrap_or(40);
        Ok(Self {
            kernel: wharf_sys::host::kernel_version(),
            cgroups: layout(&mounts, &own).ok_or(HostError::NoCgroups)?,
            last_cap,
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|v| v.starts_with(b"Y")),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        })
    }
}

impl Hierarchy {
    /// The directory's usual name under `/sys/fs/cgroup`.
    pub fn name(&self) -> String {
        match self.controllers.first() {
            None => "unified".into(),
            Some(c) if c == "name=systemd" => "systemd".into(),
            Some(_) => self.controllers.join(","),
        }
    }
}

fn read(path: &'static str) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::Read { path, source })
}

/// Where control groups are mounted by convention.
const USUAL: &str = "/sys/fs/cgroup";

/// Decides the layout from the texts of `mountinfo` and `cgroup`.
fn layout(mounts: &str, own: &str) -> Option<Layout> {
    let own: Vec<(&str, &str)> = own
        .lines()
        .filter_map(|line| line.split_once(':').and_then(|(_, rest)| rest.split_once(':')))
        .collect();
    let mut v1 = Vec::new();
    let mut v2 = None;
    for line in mounts.lines() {
        let Some((mount, root, kind, options)) = mountinfo(line) else { continue };
        match kind {
            "cgroup" => {
                let has =
                    |names: &str| names.split(',').all(|n| options.split(',').any(|o| o == n));
                let Some((names, path)) =
                    own.iter().find(|(names, _)| !names.is_empty() && has(names))
                else {
                    continue;
                };
                v1.push(Hierarchy {
                    controllers: names.split(',').map(str::to_owned).collect(),
                    mount: mount.into(),
                    own: below(root, path),
                });
            }
            "cgroup2" if v2.is_none() || Path::new(mount).starts_with(USUAL) => {
                let path = own.iter().find(|(names, _)| names.is_empty()).map_or("/", |(_, p)| p);
                v2 = Some((PathBuf::from(mount), below(root, path)));
            }
            _ => (),
        }
    }
    // A tree may be mounted again elsewhere, as under the root of a chroot: the usual place counts.
    v1.sort_by_key(|tree| (!tree.mount.starts_with(USUAL), tree.mount.clone()));
    let mut seen = std::collections::BTreeSet::new();
    v1.retain(|tree| seen.insert(tree.controllers.clone()));
    match (v1.is_empty(), v2) {
        (true, Some((mount, own))) => Some(Layout::V2 { mount, own }),
        (true, None) => None,
        (false, unified) => {
            v1.extend(unified.map(|(mount, own)| Hierarchy {
                controllers: Vec::new(),
                mount,
                own,
            }));
            Some(Layout::V1(v1))
        }
    }
}

/// Mount point, root, type and super block options of a `mountinfo` line.
fn mountinfo(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let root = front.next()?;
    let mount = front.next()?;
    let mut back = back.split(' ');
    Some((mount, root, back.next()?, back.nth(1)?))
}

/// A cgroup path as seen through a mount whose root is `root`.
fn below(root: &str, path: &str) -> PathBuf {
    let inside = path.strip_prefix(root).unwrap_or(path);
    Path::new("/").join(inside.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_host_is_v1() {
        let mounts = "36 31 0:35 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            33 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/\n9:name=systemd:/\n0::/\n";
        let Some(Layout::V1(trees)) = layout(mounts, own) else { panic!("not v1") };
        let names: Vec<String> = trees.iter().map(Hierarchy::name).collect();
        assert_eq!(names, ["cpu,cpuacct", "memory", "systemd", "unified"]);
        assert_eq!(trees[1].own, Path::new("/a/b"));
    }

    #[test]
    fn a_second_mount_of_a_tree_is_not_a_second_tree() {
        let mounts = "36 31 0:35 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            37 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            38 31 0:35 / /jail/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            39 31 0:36 / /jail/sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let Some(Layout::V1(trees)) = layout(mounts, "2:memory:/\n1:pids:/\n") else { panic!() };
        let mounts: Vec<&Path> = trees.iter().map(|t| t.mount.as_path()).collect();
        assert_eq!(mounts, [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/pids")]);
    }

    #[test]
    fn single_tree_is_v2() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            layout(mounts, "0::/user.slice/x\n"),
            Some(Layout::V2 { mount: "/sys/fs/cgroup".into(), own: "/user.slice/x".into() })
        );
        assert_eq!(layout("", "0::/\n"), None);
    }
}
