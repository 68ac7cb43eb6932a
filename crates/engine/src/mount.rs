//! Mount points: `-v`, `--mount`, image volumes and `--volumes-from`, read into one list.
//!
//! Parsing looks at nothing but its input. What needs the host (does a bind source exist?) is asked later.

use std::path::Path;

use serde::{Deserialize, Serialize};
use wharf_spec::docker;

use crate::error::{EngineError, Result};

/// One place in a container where something of the host appears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Absolute, clean path in the container.
    pub destination: String,
    /// What appears there.
    pub kind: MountKind,
    /// Whether, and how deeply, it is read-only.
    pub access: Access,
    /// The mode as written, for inspect.
    pub mode: String,
    /// `rprivate`, `rslave`, …; empty for what is not a bind.
    pub propagation: String,
}

/// What a mount point shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// The path.
        source: String,
        /// Make a directory there if nothing is.
        create: bool,
        /// Leave out the mounts below it.
        non_recursive: bool,
    },
    /// A volume.
    Volume {
        /// Its name; empty until one is made up for it.
        name: String,
        /// A directory inside it.
        subpath: String,
        /// Leave an empty volume empty.
        no_copy: bool,
        /// Made for this container alone, and removed with it.
        anonymous: bool,
        /// Labels and driver options for a volume that has to be made.
        labels: docker::Map<String>,
        /// Driver options.
        options: docker::Map<String>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes, 0 for the kernel's default of half the memory.
        size: i64,
        /// Permission bits, 0 for 1777.
        mode: u32,
        /// Further options.
        options: Vec<Vec<String>>,
    },
    /// The files of an image, read-only.
    Image {
        /// The image as asked.
        reference: String,
        /// A directory inside it.
        subpath: String,
    },
}

/// How a mount may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Reading and writing.
    Write,
    /// Reading, below it too where the kernel can.
    Read,
    /// Reading; mounts below it stay as they are.
    ReadTopOnly,
    /// Reading, below it too or not at all.
    ReadRecursive,
}

impl Access {
    /// Whether writing is possible.
    pub fn is_write(self) -> bool {
        self == Access::Write
    }
}

impl MountPoint {
    /// Lets a read-only bind leave what is mounted below it as it is.
    pub(crate) fn cover_top_only(&mut self) {
        if self.access == Access::Read && matches!(self.kind, MountKind::Bind { .. }) {
            self.access = Access::ReadTopOnly;
        }
    }
}

/// Words for how mounts spread.
pub const PROPAGATIONS: &[&str] = &["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Reads one element of `HostConfig.Binds`.
pub fn parse_bind(raw: &str) -> Result<MountPoint> {
    let wrong = |why: &str| {
        EngineError::invalid(match why {
            "" => format!("invalid volume specification: '{raw}'"),
            _ => format!("invalid volume specification: '{raw}': {why}"),
        })
    };
    let mut parts = raw.splitn(4, ':');
    let (source, target, mode) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(t), None, None, None) => ("", t, ""),
        (Some(s), Some(m), None, None) if !m.starts_with('/') && is_mode(m) => ("", s, m),
        (Some(s), Some(t), None, None) => (s, t, ""),
        (Some(s), Some(t), Some(m), None) => (s, t, m),
        _ => return Err(wrong("")),
    };
    if target.is_empty() || (source.is_empty() && raw.starts_with(':')) {
        return Err(wrong(""));
    }
    let mode = Mode::parse(mode).map_err(|e| wrong(&e.message()))?;
    let destination = destination(target).map_err(|e| wrong(&e.message()))?;
    let point = if source.starts_with('/') {
        mode.bind(source, destination)
    } else {
        mode.volume(source, destination)
    };
    point.map_err(|e| wrong(&e.message()))
}

/// Reads one element of `HostConfig.Mounts`.
pub fn parse_mount(m: &docker::Mount) -> Result<MountPoint> {
    let wrong = |why: String| {
        EngineError::invalid(format!("invalid mount config for type \"{}\": {why}", m.kind))
    };
    if m.target.is_empty() {
        return Err(wrong("field Target must not be empty".into()));
    }
    let destination = destination(&m.target).map_err(|e| wrong(e.message()))?;
    only_own_options(m).map_err(|field| wrong(format!("field {field} must not be specified")))?;
    if let Some(driver) = m.volume_options.as_ref().and_then(|o| o.driver_config.as_ref()) {
        crate::volume::check_driver(&driver.name)?;
    }
    let (kind, access, propagation) = match m.kind.as_str() {
        "bind" => bind_mount(m).map_err(wrong)?,
        "volume" => volume_mount(m).map_err(wrong)?,
        "tmpfs" => tmpfs_mount(m).map_err(wrong)?,
        "image" => image_mount(m).map_err(wrong)?,
        "cluster" | "npipe" => {
            return Err(EngineError::not_implemented(format!(
                "mount type \"{}\" is not supported on this host: use bind, volume, tmpfs or image",
                m.kind
            )));
        }
        _ => return Err(wrong("mount type unknown".into())),
    };
    Ok(MountPoint { destination, kind, access, mode: String::new(), propagation })
}

/// An anonymous volume at `path`, as `VOLUME` and `-v /path` ask for.
pub fn anonymous(path: &str) -> Result<MountPoint> {
    Mode::default().volume("", destination(path)?)
}

/// Reads one element of `HostConfig.VolumesFrom`: the container, and whether its mounts become read-only.
pub fn parse_volumes_from(raw: &str) -> Result<(&str, bool)> {
    match raw.split_once(':') {
        None if !raw.is_empty() => Ok((raw, false)),
        Some((id, "" | "rw" | "z" | "Z" | "rw,z" | "rw,Z")) if !id.is_empty() => Ok((id, false)),
        Some((id, "ro" | "ro,z" | "ro,Z")) if !id.is_empty() => Ok((id, true)),
        Some((id, mode)) if !id.is_empty() => {
            Err(EngineError::invalid(format!("invalid mode: {mode}")))
        }
        _ => Err(EngineError::invalid("malformed volumes-from specification: empty container")),
    }
}

/// A bind of the data root, of a part of it, or of what it lies in, is a slave of the host's mounts, as in Docker: a
/// private copy would keep alive what the engine mounts and unmounts there. `told`: the propagation was asked for.
pub fn under_data_root(point: &mut MountPoint, root: &Path, told: bool) -> Result<()> {
    let MountKind::Bind { source, non_recursive: false, .. } = &point.kind else { return Ok(()) };
    if !Path::new(source).starts_with(root) && !root.starts_with(source) {
        return Ok(());
    }
    match point.propagation.as_str() {
        _ if !told => point.propagation = "rslave".into(),
        "rslave" | "rshared" => (),
        other => {
            return Err(EngineError::invalid(format!(
                "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount \
                 source is within the daemon root, daemon root: {:?}, bind mount source: {source:?}, \
                 propagation: {other:?}",
                root.display()
            )));
        }
    }
    Ok(())
}

/// Refuses two mounts at one place.
pub fn no_duplicates(points: &[MountPoint]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match points.iter().find(|p| !seen.insert(p.destination.as_str())) {
        Some(p) => Err(EngineError::invalid(format!("Duplicate mount point: {}", p.destination))),
        None => Ok(()),
    }
}

/// Whether `name` may be a volume's name.
pub fn is_volume_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 255
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Docker's text for a name that is none.
pub fn bad_volume_name(name: &str) -> EngineError {
    EngineError::invalid(format!(
        "{name:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
         use absolute path"
    ))
}

/// Makes a container path absolute and lexically clean; `/` itself cannot be mounted on.
pub fn destination(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let clean = clean_path(path);
    if clean == "/" {
        return Err(EngineError::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean)
}

/// Go's `path.Clean` for an absolute path.
pub fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => (),
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[derive(Default)]
struct Mode {
    text: String,
    read_only: bool,
    no_copy: bool,
    propagation: Option<String>,
}

fn is_mode(text: &str) -> bool {
    !text.is_empty() && Mode::parse(text).is_ok()
}

impl Mode {
    fn parse(text: &str) -> Result<Mode> {
        let invalid = || EngineError::invalid(format!("invalid mode: {text}"));
        let mut mode = Mode { text: text.into(), ..Mode::default() };
        let (mut access, mut label, mut copy, mut consistency) = (0, 0, 0, 0);
        for word in text.split(',').filter(|_| !text.is_empty()) {
            match word {
                "rw" => access += 1,
                "ro" => (access, mode.read_only) = (access + 1, true),
                // SELinux labels: kept for inspect, relabelling is refused nowhere because
                // hosts without SELinux ignore it in Docker as well.
                "z" | "Z" => label += 1,
                "nocopy" => (copy, mode.no_copy) = (copy + 1, true),
                "consistent" | "cached" | "delegated" | "default" => consistency += 1,
                word if PROPAGATIONS.contains(&word) && mode.propagation.is_none() => {
                    mode.propagation = Some(word.into());
                }
                _ => return Err(invalid()),
            }
        }
        if access > 1 || label > 1 || copy > 1 || consistency > 1 {
            return Err(invalid());
        }
        Ok(mode)
    }

    fn access(&self) -> Access {
        if self.read_only { Access::Read } else { Access::Write }
    }

    fn bind(self, source: &str, destination: String) -> Result<MountPoint> {
        if self.no_copy {
            return Err(EngineError::invalid(format!("invalid mode: {}", self.text)));
        }
        let kind =
            MountKind::Bind { source: clean_path(source), create: true, non_recursive: false };
        let access = self.access();
        let propagation = self.propagation.unwrap_or_else(|| "rprivate".into());
        Ok(MountPoint { destination, kind, access, mode: self.text, propagation })
    }

    fn volume(self, name: &str, destination: String) -> Result<MountPoint> {
        if self.propagation.is_some() {
            return Err(EngineError::invalid(format!("invalid mode: {}", self.text)));
        }
        if name.is_empty() && self.read_only {
            return Err(EngineError::invalid(
                "must not set ReadOnly mode when using anonymous volumes",
            ));
        }
        if !name.is_empty() && !is_volume_name(name) {
            return Err(bad_volume_name(name));
        }
        let kind = MountKind::Volume {
            name: name.into(),
            subpath: String::new(),
            no_copy: self.no_copy,
            anonymous: name.is_empty(),
            labels: docker::Map::new(),
            options: docker::Map::new(),
        };
        let mode = match self.text.as_str() {
            "" if !name.is_empty() => "z".into(),
            _ => self.text.clone(),
        };
        let access = self.access();
        Ok(MountPoint { destination, kind, access, mode, propagation: String::new() })
    }
}

type Parsed = Result<(MountKind, Access, String), String>;

fn only_own_options(m: &docker::Mount) -> Result<(), &'static str> {
    let foreign = [
        (m.bind_options.is_some() && m.kind != "bind", "BindOptions"),
        (m.volume_options.is_some() && m.kind != "volume", "VolumeOptions"),
        (m.tmpfs_options.is_some() && m.kind != "tmpfs", "TmpfsOptions"),
        (m.image_options.is_some() && m.kind != "image", "ImageOptions"),
    ];
    foreign.iter().find(|(set, _)| *set).map_or(Ok(()), |(_, field)| Err(field))
}

fn bind_mount(m: &docker::Mount) -> Parsed {
    if m.source.is_empty() {
        return Err("field Source must not be empty".into());
    }
    if !m.source.starts_with('/') {
        return Err(format!("invalid mount path: '{}' mount path must be absolute", m.source));
    }
    let o = m.bind_options.clone().unwrap_or_default();
    if !o.propagation.is_empty() && !PROPAGATIONS.contains(&o.propagation.as_str()) {
        return Err(format!("invalid propagation mode: {}", o.propagation));
    }
    let access = match (m.read_only, o.read_only_non_recursive, o.read_only_force_recursive) {
        (false, false, false) => Access::Write,
        (false, ..) => return Err("mount must be read-only for its recursion to be chosen".into()),
        (true, true, true) => {
            return Err("ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other".into());
        }
        (true, true, false) => Access::ReadTopOnly,
        (true, false, true) => Access::ReadRecursive,
        (true, false, false) => Access::Read,
    };
    let kind = MountKind::Bind {
        source: clean_path(&m.source),
        create: o.create_mountpoint,
        non_recursive: o.non_recursive,
    };
    let default = if o.non_recursive { "private" } else { "rprivate" };
    let propagation = if o.propagation.is_empty() { default.into() } else { o.propagation };
    Ok((kind, access, propagation))
}

fn volume_mount(m: &docker::Mount) -> Parsed {
    let o = m.volume_options.clone().unwrap_or_default();
    let anonymous = m.source.is_empty();
    if anonymous && m.read_only {
        return Err("must not set ReadOnly mode when using anonymous volumes".into());
    }
    if anonymous && !o.subpath.is_empty() {
        return Err("must not set Subpath when using anonymous volumes".into());
    }
    if !anonymous && !is_volume_name(&m.source) {
        return Err(bad_volume_name(&m.source).message());
    }
    check_subpath(&o.subpath)?;
    let driver = o.driver_config.unwrap_or_default();
    let kind = MountKind::Volume {
        name: m.source.clone(),
        subpath: o.subpath,
        no_copy: o.no_copy,
        anonymous,
        labels: o.labels.unwrap_or_default(),
        options: driver.options.unwrap_or_default(),
    };
    Ok((kind, plain_access(m), String::new()))
}

fn tmpfs_mount(m: &docker::Mount) -> Parsed {
    if !m.source.is_empty() {
        return Err("field Source must not be specified".into());
    }
    let o = m.tmpfs_options.clone().unwrap_or_default();
    if o.size_bytes < 0 {
        return Err(format!("invalid size: {}", o.size_bytes));
    }
    let kind = MountKind::Tmpfs {
        size: o.size_bytes,
        mode: o.mode,
        options: o.options.unwrap_or_default(),
    };
    Ok((kind, plain_access(m), String::new()))
}

fn image_mount(m: &docker::Mount) -> Parsed {
    if m.source.is_empty() {
        return Err("field Source must not be empty".into());
    }
    let subpath = m.image_options.clone().unwrap_or_default().subpath;
    check_subpath(&subpath)?;
    Ok((MountKind::Image { reference: m.source.clone(), subpath }, Access::Read, String::new()))
}

fn plain_access(m: &docker::Mount) -> Access {
    if m.read_only { Access::Read } else { Access::Write }
}

fn check_subpath(subpath: &str) -> Result<(), String> {
    let escapes = subpath.starts_with('/') || subpath.split('/').any(|p| p == "..");
    match escapes {
        true => Err(format!("subpath must be a relative path within the volume, not {subpath:?}")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn bind(raw: &str, source: &str, to: &str, access: Access, propagation: &str) {
        let p = parse_bind(raw).unwrap();
        let MountKind::Bind { source: s, create: true, non_recursive: false } = &p.kind else {
            panic!("{p:?}")
        };
        assert_eq!(
            (s.as_str(), p.destination.as_str(), p.access, p.propagation.as_str()),
            (source, to, access, propagation)
        );
    }

    #[track_caller]
    fn refused(raw: &str, text: &str) {
        let e = parse_bind(raw).unwrap_err();
        assert_eq!(e.kind(), crate::error::Kind::Invalid);
        assert!(e.message().contains(text), "{e}");
    }

    #[test]
    fn binds_in_all_forms() {
        bind("/a:/b", "/a", "/b", Access::Write, "rprivate");
        bind("/a/../c:/b/:ro", "/c", "/b", Access::Read, "rprivate");
        bind("/a:/b:ro,rslave", "/a", "/b", Access::Read, "rslave");
        bind("/a:/b:z,cached", "/a", "/b", Access::Write, "rprivate");
    }

    #[test]
    fn volumes_in_all_forms() {
        let p = parse_bind("data:/var/lib/x:nocopy").unwrap();
        assert!(
            matches!(&p.kind, MountKind::Volume { name, no_copy: true, anonymous: false, .. } if name == "data")
        );
        assert_eq!(parse_bind("data:/x").unwrap().mode, "z");
        let p = parse_bind("/only").unwrap();
        assert!(matches!(&p.kind, MountKind::Volume { anonymous: true, .. }));
    }

    #[test]
    fn nonsense_is_refused_with_dockers_texts() {
        refused("", "invalid volume specification: ''");
        refused("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'");
        refused("/a:/b:rx", "invalid mode: rx");
        refused("/a:/b:ro,rw", "invalid mode");
        refused("/a:b", "invalid mount path: 'b' mount path must be absolute");
        refused("/a:/", "destination can't be '/'");
        refused("/a:/b/..", "destination can't be '/'");
        refused("data:/x:rshared", "invalid mode");
        refused("sp ace:/x", "includes invalid characters for a local volume name");
        refused("../x:/x", "includes invalid characters");
        refused(":/x", "invalid volume specification");
    }

    #[test]
    fn mounts_are_checked_by_kind() {
        let mut m = docker::Mount {
            kind: "bind".into(),
            source: "/s".into(),
            target: "/t".into(),
            read_only: true,
            bind_options: Some(docker::BindOptions {
                read_only_force_recursive: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(parse_mount(&m).unwrap().access, Access::ReadRecursive);
        m.kind = "volume".into();
        let e = parse_mount(&m).unwrap_err().message();
        assert_eq!(
            e,
            "invalid mount config for type \"volume\": field BindOptions must not be specified"
        );
        m.bind_options = None;
        m.source = "v1".into();
        m.volume_options =
            Some(docker::VolumeOptions { subpath: "../up".into(), ..Default::default() });
        assert!(parse_mount(&m).unwrap_err().message().contains("subpath must be"));
    }

    #[test]
    fn binds_around_the_data_root_are_slaves() {
        let root = Path::new("/var/lib/wharf");
        for source in ["/", "/var/lib", "/var/lib/wharf", "/var/lib/wharf/volumes"] {
            let mut point = parse_bind(&format!("{source}:/t")).unwrap();
            under_data_root(&mut point, root, false).unwrap();
            assert_eq!(point.propagation, "rslave", "{source}");
            let mut point = parse_bind(&format!("{source}:/t:rprivate")).unwrap();
            let e = under_data_root(&mut point, root, true).unwrap_err().message();
            assert!(e.contains("must use either propagation mode"), "{e}");
        }
        let mut point = parse_bind("/var/lib/wharfs:/t").unwrap();
        under_data_root(&mut point, root, false).unwrap();
        assert_eq!(point.propagation, "rprivate");
    }

    #[test]
    fn volumes_from_modes() {
        assert_eq!(parse_volumes_from("c:ro").unwrap(), ("c", true));
        assert_eq!(parse_volumes_from("c").unwrap(), ("c", false));
        for bad in ["", ":ro", "c:rx"] {
            assert!(parse_volumes_from(bad).is_err(), "{bad}");
        }
    }
}
