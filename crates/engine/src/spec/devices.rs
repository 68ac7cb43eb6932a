//! Device nodes of a container and the rules for using them.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use wharf_spec::docker::{DeviceMapping, HostConfig};

use crate::error::{EngineError, Result};

/// Nodes to make, and what the cgroup lets processes do with devices.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Nodes beyond those that every container has.
    pub nodes: Vec<LinuxDevice>,
    /// Rules in order; the first denies everything.
    pub rules: Vec<LinuxDeviceCgroup>,
}

/// Looks the devices of `host` up in this machine's `/dev`.
pub fn devices(host: &HostConfig) -> Result<Devices> {
    if host.resources.device_requests.as_ref().is_some_and(|r| !r.is_empty()) {
        return Err(EngineError::invalid(
            "could not select device driver: device requests (--gpus) need a CDI specification, \
             and none is installed on this host",
        ));
    }
    if host.privileged {
        let rules = vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?];
        return Ok(Devices { nodes: all_of(Path::new("/dev"))?, rules });
    }
    let mut out = Devices { nodes: Vec::new(), rules: default_rules()? };
    for mapping in host.resources.devices.iter().flatten() {
        out.add(mapping)?;
    }
    for text in host.resources.device_cgroup_rules.iter().flatten() {
        out.rules.push(parse_rule(text)?);
    }
    Ok(out)
}

/// The numbers of the block device at `path`, for throttles and weights.
pub fn block_number(path: &str) -> Result<(i64, i64)> {
    let meta = fs::metadata(path).map_err(|e| {
        EngineError::invalid(format!(
            "no such device: {path}: throttles and weights name a block device"
        ))
        .because(e)
    })?;
    Ok((i64::from(major(meta.rdev())), i64::from(minor(meta.rdev()))))
}

impl Devices {
    fn add(&mut self, mapping: &DeviceMapping) -> Result<()> {
        let permissions = match mapping.cgroup_permissions.as_str() {
            "" => "rwm",
            p if p.bytes().all(|b| b"rwm".contains(&b)) => p,
            p => return Err(EngineError::invalid(format!("invalid device mode: {p}"))),
        };
        let failed = |e: std::io::Error| {
            EngineError::invalid(format!(
                "error gathering device information while adding custom device {:?}",
                mapping.path_on_host
            ))
            .because(e)
        };
        // A link such as /dev/disk/by-id/x stands for what it points to.
        let source = fs::canonicalize(&mapping.path_on_host).map_err(failed)?;
        let target = match mapping.path_in_container.as_str() {
            "" => mapping.path_on_host.clone(),
            path => crate::mount::clean_path(path),
        };
        let found = match source.is_dir() {
            false => vec![(source.clone(), PathBuf::from(&target))],
            true => below(&source)
                .map_err(failed)?
                .into_iter()
                .map(|p| {
                    let inside = p.strip_prefix(&source).unwrap_or(&p).to_owned();
                    let to = Path::new(&target).join(inside);
                    (p, to)
                })
                .collect(),
        };
        for (path, to) in found {
            let Some(node) = node(&path, &to)? else {
                return Err(EngineError::invalid(format!(
                    "error gathering device information while adding custom device {:?}: not a \
                     device node",
                    mapping.path_on_host
                )));
            };
            self.rules.push(rule(
                true,
                node.typ(),
                Some(node.major()),
                Some(node.minor()),
                permissions,
            )?);
            self.nodes.push(node);
        }
        Ok(())
    }
}

/// What Docker allows in every container: zero, null, urandom, random, tty, console; fuse is not.
fn default_rules() -> Result<Vec<LinuxDeviceCgroup>> {
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")?];
    for (major, minor) in [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)] {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm")?);
    }
    rules.push(rule(false, LinuxDeviceType::C, Some(10), Some(229), "rwm")?);
    Ok(rules)
}

/// `c 1:3 rwm` as the cgroup files take it.
fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let wrong = || EngineError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut parts = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(wrong()),
    };
    let number = |s: &str| match s {
        "*" => Ok(None),
        n => n.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| wrong()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(wrong());
    }
    rule(true, kind, number(major)?, number(minor)?, access)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut b = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
    if let Some(n) = major {
        b = b.major(n);
    }
    if let Some(n) = minor {
        b = b.minor(n);
    }
    b.build().map_err(|e| EngineError::system("build a device rule", e))
}

/// Every device node of the host, for privileged containers; the container has its own terminals and queues.
fn all_of(dev: &Path) -> Result<Vec<LinuxDevice>> {
    let found =
        below(dev).map_err(|e| EngineError::system(format!("list {}", dev.display()), e))?;
    let mut nodes = Vec::with_capacity(found.len());
    for path in found {
        nodes.extend(node(&path, &path)?);
    }
    Ok(nodes)
}

fn below(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    const SKIPPED: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        if kind.is_dir() && !SKIPPED.iter().any(|s| name == *s) {
            out.extend(below(&entry.path())?);
        } else if (kind.is_char_device() || kind.is_block_device()) && name != "console" {
            out.push(entry.path());
        }
    }
    Ok(out)
}

/// `None` if `path` is no device, or is gone: nodes of a live `/dev` come and go.
fn node(path: &Path, to: &Path) -> Result<Option<LinuxDevice>> {
    let Ok(meta) = fs::metadata(path) else { return Ok(None) };
    let kind = match meta.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        _ => return Ok(None),
    };
    LinuxDeviceBuilder::default()
        .path(to)
        .typ(kind)
        .major(i64::from(major(meta.rdev())))
        .minor(i64::from(minor(meta.rdev())))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .map(Some)
        .map_err(|e| EngineError::system("build a device", e))
}

/// The kernel's split of a device number, as in glibc's `gnu_dev_major`.
#[allow(clippy::cast_possible_truncation, reason = "the masks leave 32 bits")]
fn major(dev: u64) -> u32 {
    (((dev >> 8) & 0xfff) | ((dev >> 32) & 0xffff_f000)) as u32
}

#[allow(clippy::cast_possible_truncation, reason = "the masks leave 32 bits")]
fn minor(dev: u64) -> u32 {
    ((dev & 0xff) | ((dev >> 12) & 0xffff_ff00)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_spec::docker::Resources;

    fn with(mapping: DeviceMapping) -> HostConfig {
        let resources = Resources { devices: Some(vec![mapping]), ..Resources::default() };
        HostConfig { resources, ..HostConfig::default() }
    }

    #[test]
    fn a_device_gets_a_node_and_a_rule() {
        let mapping = DeviceMapping {
            path_on_host: "/dev/null".into(),
            path_in_container: "/dev/other".into(),
            cgroup_permissions: "r".into(),
        };
        let got = devices(&with(mapping)).unwrap();
        assert_eq!(got.nodes[0].path(), Path::new("/dev/other"));
        assert_eq!((got.nodes[0].major(), got.nodes[0].minor()), (1, 3));
        assert_eq!(got.rules.last().unwrap().access().as_deref(), Some("r"));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for (path, mode) in [("/etc/passwd", "rwm"), ("/dev/absent", "rwm"), ("/dev/null", "x")] {
            let mapping = DeviceMapping {
                path_on_host: path.into(),
                path_in_container: String::new(),
                cgroup_permissions: mode.into(),
            };
            assert!(devices(&with(mapping)).is_err(), "{path} {mode}");
        }
    }

    #[test]
    fn rules_are_parsed_strictly() {
        let r = parse_rule("c 10:* rw").unwrap();
        assert_eq!((r.major(), r.minor(), r.allow()), (Some(10), None, true));
        for bad in ["", "c", "c 1:2", "x 1:2 r", "c 1 r", "c 1:2 z", "c 1:2 r w", "c -1:2 r"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
