//! A container's mount points settled on this host: sources found, made or refused.

use std::path::{Path, PathBuf};

use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::mount::{Access, MountKind, MountPoint, clean_path};
use crate::record::Record;
use crate::spec::mounts::{HostMount, Source, tmpfs_options};

/// The engine's own files: name in the container's directory, place in the container.
const FILES: &[(&str, &str)] =
    &[("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

impl Inner {
    /// Everything that is mounted into `record`'s container beyond Docker's own mounts. Blocks.
    pub(crate) fn host_mounts(&self, record: &Record) -> Result<Vec<HostMount>> {
        let mut out = Vec::new();
        for point in &record.mounts {
            out.push(self.host_mount(record, point)?);
        }
        for (path, options) in record.host.tmpfs.iter().flatten() {
            out.push(HostMount {
                destination: clean_path(path),
                source: Source::Tmpfs(tmpfs_options(options)?),
                access: Access::Write,
                propagation: String::new(),
            });
        }
        let dir = self.dir(&record.id);
        let access = if record.host.readonly_rootfs { Access::Read } else { Access::Write };
        for (name, at) in FILES {
            if !out.iter().any(|m| m.destination == *at) {
                out.push(bind(dir.join(name), at, access));
            }
        }
        Ok(out)
    }

    /// Tells that the container that starts uses its volumes.
    pub(crate) fn tell_mounts(&self, record: &Record) {
        for point in &record.mounts {
            if let MountKind::Volume { name, .. } = &point.kind {
                self.volume_mount_event("mount", name, record, point);
            }
        }
    }

    /// After the container's end: its mounts went with its namespace, others are told.
    pub(crate) fn release_mounts(&self, record: &Record) {
        for point in &record.mounts {
            if let MountKind::Volume { name, .. } = &point.kind {
                self.volume_mount_event("unmount", name, record, point);
            }
        }
        self.release_shm(record);
    }

    fn host_mount(&self, record: &Record, point: &MountPoint) -> Result<HostMount> {
        let source = match &point.kind {
            MountKind::Bind { source, create, non_recursive } => {
                bind_source(source, *create)?;
                Source::Path { path: source.into(), recursive: !non_recursive }
            }
            MountKind::Volume { name, subpath, .. } => self.volume_source(name, subpath)?,
            MountKind::Tmpfs { size, mode, options } => {
                Source::Tmpfs(mount_tmpfs(*size, *mode, options)?)
            }
            MountKind::Image { reference, subpath } => {
                let owner = crate::create::mount_pin(record, point);
                let lowers = self.images.pinned_lowers(&owner).ok_or_else(|| {
                    EngineError::conflict(format!(
                        "the layers of the mounted image {reference} are gone from the image store: \
                         remove the container and create it again"
                    ))
                })?;
                match subpath.as_str() {
                    "" => Source::Layers(lowers),
                    sub => self.image_subpath(&lowers, sub)?,
                }
            }
        };
        Ok(HostMount {
            destination: point.destination.clone(),
            source,
            access: point.access,
            propagation: point.propagation.clone(),
        })
    }

    fn volume_source(&self, name: &str, subpath: &str) -> Result<Source> {
        let volume = self.volumes.find(name)?;
        if let Some(options) = &volume.options {
            return option_source(name, options, subpath);
        }
        let data = self.volumes.data(name);
        let path = match subpath {
            "" => data,
            sub => below(&data, sub).map_err(|e| {
                EngineError::invalid(format!("cannot access path {sub} of volume {name}"))
                    .because(e)
            })?,
        };
        Ok(Source::Path { path, recursive: true })
    }

    /// A file, or the directory of the one layer that has it, can be bound; a directory of several layers is merged
    /// again. Links are followed inside their own layer.
    fn image_subpath(&self, lowers: &[PathBuf], sub: &str) -> Result<Source> {
        let wrong = |why| {
            EngineError::invalid(format!("cannot access path {sub} of the image")).because(why)
        };
        let mut having = Vec::new();
        for lower in lowers {
            match below(lower, sub) {
                Ok(path) => having.push(path),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => (),
                Err(e) => return Err(wrong(e)),
            }
        }
        match having.as_slice() {
            [] => Err(wrong(std::io::ErrorKind::NotFound.into())),
            [top, ..] if having.len() == 1 || !top.is_dir() => {
                Ok(Source::Path { path: top.clone(), recursive: true })
            }
            many => Ok(Source::Layers(many.to_vec())),
        }
    }
}

fn bind(path: PathBuf, at: &str, access: Access) -> HostMount {
    HostMount {
        destination: at.into(),
        source: Source::Path { path, recursive: true },
        access,
        propagation: String::new(),
    }
}

/// `-v` makes a missing directory, `--mount` refuses.
fn bind_source(source: &str, create: bool) -> Result<()> {
    let path = Path::new(source);
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) if create => std::fs::create_dir_all(path).map_err(|e| {
            EngineError::invalid(format!(
                "error while creating mount source path '{source}': mkdir {source}"
            ))
            .because(e)
        }),
        Ok(false) => Err(EngineError::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {source}"
        ))),
        Err(e) => {
            Err(EngineError::invalid(format!("cannot look at bind source {source}")).because(e))
        }
    }
}

/// What is at `sub` below `root`, by a path without links. Links on the way may lead anywhere inside.
fn below(root: &Path, sub: &str) -> std::io::Result<PathBuf> {
    let found = wharf_sys::root::Root::open(root)?.real_path(Path::new(sub));
    found.map_err(|e| match e.kind() {
        std::io::ErrorKind::CrossesDevices => {
            std::io::Error::other("path concatenation escapes the base directory")
        }
        _ => e,
    })
}

fn mount_tmpfs(size: i64, mode: u32, options: &[Vec<String>]) -> Result<Vec<String>> {
    let mut text = Vec::new();
    for pair in options {
        text.push(pair.join("="));
    }
    let mut out = tmpfs_options(&text.join(","))?;
    if size > 0 {
        out.push(format!("size={size}"));
    }
    if mode > 0 {
        out.push(format!("mode={:o}", mode & 0o7777));
    }
    Ok(out)
}

/// A volume with driver options is a file system of its own, mounted in the container that uses it.
fn option_source(
    name: &str,
    options: &wharf_spec::docker::Map<String>,
    subpath: &str,
) -> Result<Source> {
    let field = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let words: Vec<&str> = field("o").split(',').filter(|w| !w.is_empty()).collect();
    if words.contains(&"bind") || words.contains(&"rbind") {
        let device = Path::new(field("device"));
        let path = if subpath.is_empty() { device.to_owned() } else { device.join(subpath) };
        if !path.exists() {
            return Err(EngineError::invalid(format!(
                "failed to mount local volume {name}: mount {}: no such file or directory",
                path.display()
            )));
        }
        return Ok(Source::Path { path, recursive: words.contains(&"rbind") });
    }
    if !subpath.is_empty() {
        return Err(EngineError::invalid(format!(
            "volume {name} is a {} file system of its own: a subpath of it cannot be mounted",
            field("type")
        )));
    }
    let options = words.into_iter().map(str::to_owned).collect();
    Ok(Source::FileSystem { kind: field("type").into(), device: field("device").into(), options })
}
