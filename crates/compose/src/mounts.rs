//! What is mounted into a service's containers.

use std::collections::BTreeMap;

use wharf_spec::compose::Project;
use wharf_spec::compose::model::{FileObject, FileRef, Mount, MountBind, Service};
use wharf_spec::docker::{self, BindOptions, ImageOptions, TmpfsOptions, VolumeOptions};

use crate::plan::PlanError;

/// Binds in the short form, and the mounts that need the long one.
pub(crate) type Mounted = (Vec<String>, Vec<docker::Mount>);

/// What the container that is replaced had mounted, and which volumes its image declares.
#[derive(Clone, Copy, Default)]
pub struct Inherited<'a> {
    /// The mounts of the earlier container.
    pub mounts: &'a [docker::MountPoint],
    /// Paths that the image declares as volumes.
    pub declared: &'a [String],
}

/// The mounts of a service's container.
pub(crate) fn of(
    project: &Project,
    service: &Service,
    inherited: Inherited<'_>,
) -> Result<Mounted, PlanError> {
    let mut all: BTreeMap<String, docker::Mount> = BTreeMap::new();
    let mut own: Vec<&Mount> = service.volumes.iter().collect();
    for old in inherited.mounts.iter().filter(|m| m.kind != "tmpfs") {
        let anonymous = |m: &&Mount| m.target == old.destination && m.source.is_empty();
        let declared = inherited.declared.contains(&old.destination);
        if !declared && !own.iter().any(anonymous) {
            continue;
        }
        own.retain(|m| !anonymous(m));
        let source = if old.kind == "volume" { &old.name } else { &old.source };
        let mount = docker::Mount {
            kind: old.kind.clone(),
            source: source.clone(),
            target: old.destination.clone(),
            read_only: !old.rw,
            ..docker::Mount::default()
        };
        all.insert(old.destination.clone(), mount);
    }
    for mount in own {
        all.insert(mount.target.clone(), long(project, mount));
    }
    for (target, file) in files(project, service)? {
        let bind = Mount {
            kind: "bind".to_owned(),
            source: file,
            target: target.clone(),
            read_only: true,
            bind: Some(MountBind::default()),
            ..Mount::default()
        };
        all.entry(target).or_insert_with(|| long(project, &bind));
    }
    Ok(short_where_possible(project, service, all))
}

/// The bind syntax is older and makes missing directories of the host; stock Compose prefers it.
fn short_where_possible(
    project: &Project,
    service: &Service,
    all: BTreeMap<String, docker::Mount>,
) -> Mounted {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    for (target, mount) in all {
        let own = service.volumes.iter().find(|m| m.target == target);
        let simple = own.is_some_and(|own| match mount.kind.as_str() {
            "bind" => own.bind.as_ref().is_none_or(|b| {
                b.create_host_path && b.propagation.is_empty() && b.recursive.is_empty()
            }),
            "volume" => {
                let plain = own
                    .volume
                    .as_ref()
                    .is_none_or(|v| v.labels.is_empty() && v.subpath.is_empty() && !v.nocopy);
                plain && project.volumes.values().any(|v| v.name == mount.source)
            }
            _ => false,
        });
        match own.filter(|_| simple) {
            Some(own) => binds.push(bind_text(&mount.source, own)),
            None => mounts.push(mount),
        }
    }
    (binds, mounts)
}

fn bind_text(source: &str, own: &Mount) -> String {
    let mut options = vec![if own.read_only { "ro" } else { "rw" }];
    if let Some(bind) = &own.bind {
        options.extend([bind.selinux.as_str(), bind.propagation.as_str()]);
    }
    if own.volume.as_ref().is_some_and(|v| v.nocopy) {
        options.push("nocopy");
    }
    options.retain(|o| !o.is_empty());
    format!("{source}:{}:{}", own.target, options.join(","))
}

fn long(project: &Project, own: &Mount) -> docker::Mount {
    let source = match own.kind.as_str() {
        "volume" => project.volumes.get(&own.source).map_or(&own.source, |v| &v.name),
        _ => &own.source,
    };
    let bind = own.bind.as_ref().filter(|_| own.kind == "bind").map(|b| BindOptions {
        propagation: b.propagation.clone(),
        create_mountpoint: b.create_host_path,
        non_recursive: b.recursive == "disabled",
        read_only_non_recursive: b.recursive == "writable",
        read_only_force_recursive: b.recursive == "readonly",
    });
    let volume = own.volume.as_ref().filter(|_| own.kind == "volume").map(|v| VolumeOptions {
        no_copy: v.nocopy,
        labels: (!v.labels.is_empty()).then(|| v.labels.0.clone()),
        subpath: v.subpath.clone(),
        driver_config: None,
    });
    let tmpfs = own.tmpfs.as_ref().filter(|_| own.kind == "tmpfs").map(|t| TmpfsOptions {
        size_bytes: t.size.0,
        mode: u32::try_from(t.mode).unwrap_or(0),
        options: None,
    });
    let image = own.image.as_ref().filter(|_| own.kind == "image");
    docker::Mount {
        kind: own.kind.clone(),
        source: source.clone(),
        target: own.target.clone(),
        read_only: own.read_only,
        consistency: own.consistency.clone(),
        bind_options: bind,
        volume_options: volume,
        tmpfs_options: tmpfs,
        image_options: image.map(|i| ImageOptions { subpath: i.subpath.clone() }),
    }
}

/// Where a secret or a config is in the container.
pub(crate) fn target_of(file: &FileRef, dir: &str) -> String {
    match file.target.as_str() {
        "" => format!("{dir}{}", file.source),
        target if target.starts_with('/') => target.to_owned(),
        target => format!("{dir}{target}"),
    }
}

/// Secrets and configs that are files of the host: target and file.
fn files(project: &Project, service: &Service) -> Result<Vec<(String, String)>, PlanError> {
    let mut out = Vec::new();
    let kinds = [
        ("config", "/", &service.configs, &project.configs),
        ("secret", "/run/secrets/", &service.secrets, &project.secrets),
    ];
    for (kind, dir, references, objects) in kinds {
        for reference in references {
            let Some(object) = objects.get(&reference.source) else { continue };
            supported(kind, object)?;
            if object.environment.is_empty() && object.content.is_empty() {
                out.push((target_of(reference, dir), object.file.clone()));
            }
        }
    }
    Ok(out)
}

fn supported(kind: &'static str, object: &FileObject) -> Result<(), PlanError> {
    let refuse = |what: &str| Err(PlanError::Unsupported(what.to_owned()));
    match object {
        o if o.external => refuse(&format!("unsupported external {kind} {}", o.name)),
        o if !o.driver.is_empty() => {
            refuse(&format!("{kind}s.*.driver belongs to Swarm and is not supported"))
        }
        o if !o.template_driver.is_empty() => {
            refuse(&format!("{kind}s.*.template_driver belongs to Swarm and is not supported"))
        }
        _ => Ok(()),
    }
}

/// Secrets and configs whose content the project carries: an archive to unpack at `/`, if any.
pub(crate) fn carried(project: &Project, service: &Service) -> std::io::Result<Option<Vec<u8>>> {
    let kinds = [
        ("/", &service.configs, &project.configs),
        ("/run/secrets/", &service.secrets, &project.secrets),
    ];
    let mut archive = tar::Builder::new(Vec::new());
    let mut any = false;
    for (dir, references, objects) in kinds {
        for reference in references {
            let Some(object) = objects.get(&reference.source) else { continue };
            if object.environment.is_empty() && object.content.is_empty() {
                continue;
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(object.content.len() as u64);
            let mode = reference.mode.map_or(0o444, |m| m.0);
            header.set_mode(u32::try_from(mode).unwrap_or(0o444));
            header.set_uid(reference.uid.parse().unwrap_or(0));
            header.set_gid(reference.gid.parse().unwrap_or(0));
            let target = target_of(reference, dir);
            archive.append_data(
                &mut header,
                target.trim_start_matches('/'),
                object.content.as_bytes(),
            )?;
            any = true;
        }
    }
    let archive = archive.into_inner()?;
    Ok(any.then_some(archive))
}
