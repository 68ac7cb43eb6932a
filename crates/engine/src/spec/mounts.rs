//! The mounts of a container: Docker's own, the engine's files, and what the user asked for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use crate::error::{EngineError, Result};
use crate::mount::Access;

/// A mount whose source on the host is settled.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMount {
    /// Path in the container.
    pub destination: String,
    /// What appears there.
    pub source: Source,
    /// Whether it may be written.
    pub access: Access,
    /// Propagation of a bind; empty for others.
    pub propagation: String,
}

/// What a settled mount shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A path of the host; `recursive` brings the mounts below it.
    Path {
        /// The path.
        path: PathBuf,
        /// Also what is mounted below it.
        recursive: bool,
    },
    /// Memory, with complete options.
    Tmpfs(Vec<String>),
    /// A read-only stack of directories, top first.
    Layers(Vec<PathBuf>),
    /// A file system of its own.
    FileSystem {
        /// `nfs`, `ext4`, …
        kind: String,
        /// What is mounted.
        device: String,
        /// Its options.
        options: Vec<String>,
    },
}

/// How Docker's own mounts differ between containers.
#[derive(Clone, Debug)]
pub struct Base {
    /// `/sys` and the cgroups may be written.
    pub privileged: bool,
    /// The cgroups may be written.
    pub writable_cgroups: bool,
    /// What `/dev/shm` is.
    pub shm: Shm,
    /// Bind the host's message queues instead of new ones.
    pub host_mqueue: bool,
}

/// What `/dev/shm` is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shm {
    /// A tmpfs of so many bytes.
    Own(i64),
    /// A directory of the host, shared with others.
    Shared(PathBuf),
    /// Nothing: the container sees its `/dev`'s plain directory or none.
    None,
}

/// All mounts in the order in which they are made, and the propagation that the root needs for them.
pub fn mounts(base: &Base, user: &[HostMount]) -> Result<(Vec<Mount>, Option<String>)> {
    let taken: HashSet<&str> = user.iter().map(|m| m.destination.as_str()).collect();
    let mut all: Vec<Mount> = Vec::new();
    for m in own(base)? {
        let at = m.destination().to_string_lossy();
        let hidden = taken.contains("/dev") && at.starts_with("/dev/");
        if !taken.contains(at.as_ref()) && !hidden {
            all.push(m);
        }
    }
    // Parents before children, whatever the order in which they were asked for.
    let mut sorted: Vec<&HostMount> = user.iter().collect();
    sorted.sort_by_key(|m| m.destination.matches('/').count());
    for m in sorted {
        all.push(user_mount(m)?);
    }
    Ok((all, root_propagation(user)))
}

fn own(base: &Base) -> Result<Vec<Mount>> {
    let sys = if base.privileged { "rw" } else { "ro" };
    let cgroup = if base.privileged || base.writable_cgroups { "rw" } else { "ro" };
    let safe = ["nosuid", "noexec", "nodev"];
    let mut list = vec![
        mount("/proc", "proc", "proc", &safe)?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/sys", "sysfs", "sysfs", &[&safe[..], &[sys]].concat())?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[&safe[..], &[cgroup]].concat())?,
    ];
    list.push(match base.host_mqueue {
        true => mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "rprivate"])?,
        false => mount("/dev/mqueue", "mqueue", "mqueue", &safe)?,
    });
    match &base.shm {
        Shm::None => (),
        Shm::Own(size) => {
            let size = format!("size={size}");
            let options = [&safe[..], &["mode=1777", &size]].concat();
            list.push(mount("/dev/shm", "tmpfs", "shm", &options)?);
        }
        Shm::Shared(path) => {
            let source = path.to_string_lossy();
            list.push(mount("/dev/shm", "bind", &source, &["rbind", "rprivate"])?);
        }
    }
    Ok(list)
}

fn user_mount(m: &HostMount) -> Result<Mount> {
    let access: &[&str] = match m.access {
        Access::Write => &["rw"],
        // The runtime makes it recursive where the kernel can (5.12).
        Access::Read | Access::ReadRecursive => &["ro", "rro"],
        Access::ReadTopOnly => &["ro"],
    };
    match &m.source {
        Source::Path { path, recursive } => {
            let bind = if *recursive { "rbind" } else { "bind" };
            let propagation =
                if m.propagation.is_empty() { "rprivate" } else { m.propagation.as_str() };
            let options = [&[bind, propagation], access].concat();
            mount(&m.destination, "bind", &path.to_string_lossy(), &options)
        }
        Source::Tmpfs(options) => {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            mount(&m.destination, "tmpfs", "tmpfs", &options)
        }
        Source::Layers(layers) => layered(&m.destination, layers),
        Source::FileSystem { kind, device, options } => {
            let options: Vec<&str> =
                options.iter().map(String::as_str).chain(access.iter().take(1).copied()).collect();
            mount(&m.destination, kind, device, &options)
        }
    }
}

/// One directory is bound, several are stacked: overlayfs wants at least two without an upper one.
fn layered(destination: &str, layers: &[PathBuf]) -> Result<Mount> {
    match layers {
        [] => Err(EngineError::invalid(format!(
            "the image mounted at {destination} has no layers: there is nothing to show"
        ))),
        [one] => {
            mount(destination, "bind", &one.to_string_lossy(), &["rbind", "rprivate", "ro", "rro"])
        }
        many => {
            let options = layer_options(many);
            let options: Vec<&str> = options.iter().map(String::as_str).chain(["ro"]).collect();
            mount(destination, "overlay", "overlay", &options)
        }
    }
}

/// Overlay options for a stack of directories, top first: one each, since a single option has room for few. The runtime
/// knows what to do where the kernel has no such option.
pub fn layer_options(layers: &[PathBuf]) -> Vec<String> {
    layers.iter().map(|p| format!("lowerdir+={}", p.to_string_lossy())).collect()
}

/// Mount events reach the container, or leave it, only if its root takes part.
fn root_propagation(user: &[HostMount]) -> Option<String> {
    let any = |names: [&str; 2]| user.iter().any(|m| names.contains(&m.propagation.as_str()));
    if any(["shared", "rshared"]) {
        Some("shared".into())
    } else if any(["slave", "rslave"]) {
        Some("rslave".into())
    } else {
        None
    }
}

/// The options of a tmpfs: Docker's defaults, then the user's, later ones winning where they exclude each other.
pub fn tmpfs_options(user: &str) -> Result<Vec<String>> {
    let mut out: Vec<String> =
        ["noexec", "nosuid", "nodev", "rprivate"].iter().map(|s| (*s).to_owned()).collect();
    for option in user.split(',').filter(|o| !o.is_empty()) {
        let opposite = match option {
            "exec" => "noexec",
            "suid" => "nosuid",
            "dev" => "nodev",
            "noexec" => "exec",
            "nosuid" => "suid",
            "nodev" => "dev",
            "ro" => "rw",
            "rw" => "ro",
            _ => "",
        };
        check_tmpfs_option(option)?;
        let key = option.split_once('=').map(|(k, _)| format!("{k}="));
        out.retain(|o| {
            o != opposite && o != option && !key.as_ref().is_some_and(|k| o.starts_with(k))
        });
        out.push(option.into());
    }
    Ok(out)
}

fn check_tmpfs_option(option: &str) -> Result<()> {
    const FLAGS: &[&str] = &[
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "ro",
        "rw",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
        "mand",
        "nomand",
        "remount",
        "dirsync",
        "defaults",
    ];
    let known = match option.split_once('=') {
        Some((key, value)) => {
            ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"].contains(&key)
                && !value.is_empty()
        }
        None => FLAGS.contains(&option),
    };
    match known {
        true => Ok(()),
        false => Err(EngineError::invalid(format!("Invalid tmpfs option [\"{option}\"]"))),
    }
}

fn mount(at: impl AsRef<Path>, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(at.as_ref())
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(|e| EngineError::system("build a mount", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        let shm = Shm::Own(64 << 20);
        Base { privileged: false, writable_cgroups: false, shm, host_mqueue: false }
    }

    fn bind(to: &str, propagation: &str) -> HostMount {
        HostMount {
            destination: to.into(),
            source: Source::Path { path: "/h".into(), recursive: true },
            access: Access::Read,
            propagation: propagation.into(),
        }
    }

    fn places(list: &[Mount]) -> Vec<String> {
        list.iter().map(|m| m.destination().display().to_string()).collect()
    }

    #[test]
    fn docker_mounts_come_first_and_parents_before_children() {
        let (list, root) = mounts(&base(), &[bind("/a/b/c", ""), bind("/a", "")]).unwrap();
        assert_eq!(
            places(&list),
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/sys",
                "/sys/fs/cgroup",
                "/dev/mqueue",
                "/dev/shm",
                "/a",
                "/a/b/c"
            ]
        );
        assert_eq!(root, None);
        let options = list[7].options().as_ref().unwrap();
        assert_eq!(options, &["rbind", "rprivate", "ro", "rro"]);
    }

    #[test]
    fn a_mount_of_the_user_replaces_dockers() {
        let (list, root) = mounts(&base(), &[bind("/dev", "rshared")]).unwrap();
        assert_eq!(places(&list), ["/proc", "/sys", "/sys/fs/cgroup", "/dev"]);
        assert_eq!(root.as_deref(), Some("shared"));
    }

    #[test]
    fn privileged_containers_may_write_sys() {
        let (list, _) = mounts(&Base { privileged: true, ..base() }, &[]).unwrap();
        assert!(list[3].options().as_ref().unwrap().contains(&"rw".to_owned()));
    }

    #[test]
    fn tmpfs_options_override_defaults() {
        let got = tmpfs_options("exec,size=1m,size=2m,mode=1770").unwrap();
        assert_eq!(got, ["nosuid", "nodev", "rprivate", "exec", "size=2m", "mode=1770"]);
        assert!(tmpfs_options("bogus").is_err());
        assert!(tmpfs_options("lowerdir=/x").is_err());
    }
}
