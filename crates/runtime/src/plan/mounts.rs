//! Mount entries of a spec: options, attributes, what may be mounted where.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use wharf_sys::mount::{attr, propagation};

use super::compile::{clean, map_text};
use super::{Attr2, IdMap, MountKind, MountPlan, PlanContext, PlanError, UserMaps};

/// Files of procfs over which tools such as lxcfs mount their own.
const PROC_FILES: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/osrelease",
];

pub(super) fn compile(mount: &Mount, ctx: &PlanContext<'_>) -> Result<MountPlan, PlanError> {
    let target = clean("mounts.destination", mount.destination())?;
    let mut words = Words::default();
    for option in mount.options().iter().flatten() {
        words.take(option);
    }
    let kind = mount.typ().as_deref().unwrap_or("");
    let bind = words.bind || kind == "bind";
    let maps = maps(mount)?;
    let kind = if bind {
        bind_kind(mount, &target, ctx, &words, maps)?
    } else if maps.is_some() || words.idmap {
        let problem = "identity maps are for bind mounts only";
        return Err(PlanError::field(format!("mounts {}", target.display()), problem));
    } else if kind == "cgroup" || kind == "cgroup2" {
        MountKind::Cgroup
    } else {
        fs_kind(mount, &target, kind, &words)?
    };
    check_proc(&target, &kind)?;
    Ok(MountPlan {
        target,
        kind,
        attr: words.attr,
        recursive_attr: words.recursive,
        propagation: words.propagation,
    })
}

/// Nothing but procfs itself may be on `/proc`, and nothing but known files inside it: whatever is
/// written there later (labels, parameters) must reach the kernel (CVE-2019-16884, CVE-2025-52881).
fn check_proc(target: &Path, kind: &MountKind) -> Result<(), PlanError> {
    if !target.starts_with("/proc") || PROC_FILES.iter().any(|file| target == Path::new(file)) {
        return Ok(());
    }
    let genuine = match kind {
        MountKind::Fs { kind, .. } => kind == "proc",
        MountKind::Bind { source, .. } => source == Path::new("/proc"),
        MountKind::Cgroup => false,
    };
    if target == Path::new("/proc") && genuine {
        return Ok(());
    }
    let problem = format!("{:?} cannot be mounted because it is inside /proc", target.display());
    Err(PlanError::field("mounts", problem))
}

fn bind_kind(
    mount: &Mount,
    target: &Path,
    ctx: &PlanContext<'_>,
    words: &Words,
    maps: Option<UserMaps>,
) -> Result<MountKind, PlanError> {
    let source =
        mount.source().as_ref().filter(|s| !s.as_os_str().is_empty()).ok_or_else(|| {
            PlanError::field(format!("mounts {}", target.display()), "a bind mount needs a source")
        })?;
    if !words.data.is_empty() {
        let names: Vec<&str> = words.data.iter().map(|(key, _)| key.as_str()).collect();
        let problem = format!("{} means nothing for a bind mount", names.join(","));
        return Err(PlanError::field(format!("mounts {}", target.display()), problem));
    }
    let idmap =
        (words.idmap || maps.is_some()).then_some(IdMap { maps, recursive: words.idmap_recursive });
    Ok(MountKind::Bind { source: ctx.bundle.join(source), recursive: words.bind_recursive, idmap })
}

fn fs_kind(
    mount: &Mount,
    target: &Path,
    kind: &str,
    words: &Words,
) -> Result<MountKind, PlanError> {
    if kind.is_empty() || kind == "none" {
        let problem = "a mount that is no bind needs a type";
        return Err(PlanError::field(format!("mounts {}", target.display()), problem));
    }
    Ok(MountKind::Fs {
        kind: kind.to_owned(),
        source: mount.source().as_ref().map(|s: &PathBuf| s.to_string_lossy().into_owned()),
        options: words.data.clone(),
        copy_up: words.copy_up,
    })
}

fn maps(mount: &Mount) -> Result<Option<UserMaps>, PlanError> {
    let text = |list: &Option<Vec<_>>| map_text(list.as_deref().unwrap_or(&[]));
    let (uid, gid) = (text(mount.uid_mappings()), text(mount.gid_mappings()));
    match (uid.is_empty(), gid.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(UserMaps { uid, gid })),
        _ => {
            let field = format!("mounts {}", mount.destination().display());
            Err(PlanError::field(field, "uidMappings and gidMappings need each other"))
        }
    }
}

/// Options, sorted by what they are.
#[derive(Default)]
struct Words {
    bind: bool,
    bind_recursive: bool,
    attr: Attr2,
    recursive: Attr2,
    propagation: Option<(u64, bool)>,
    idmap: bool,
    idmap_recursive: bool,
    copy_up: bool,
    data: Vec<(String, Option<String>)>,
}

impl Words {
    fn take(&mut self, option: &str) {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.bind_recursive) = (true, true),
            "idmap" => self.idmap = true,
            "ridmap" => (self.idmap, self.idmap_recursive) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            // Words of /etc/fstab, and mount(8)'s default.
            "defaults" | "async" | "nouser" | "noauto" | "auto" | "nofail" | "loud" | "silent" => {}
            _ => {
                if let Some((kind, recursive)) = propagation_word(option) {
                    self.propagation = Some((kind, recursive));
                } else if let Some(change) = attr_word(option) {
                    add(&mut self.attr, change);
                } else if let Some(change) = option.strip_prefix('r').and_then(attr_word) {
                    add(&mut self.recursive, change);
                } else {
                    let (key, value) = match option.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_owned())),
                        None => (option, None),
                    };
                    self.data.push((key.to_owned(), value));
                }
            }
        }
    }
}

/// A later word overrides an earlier one on the same bits.
fn add(to: &mut Attr2, change: Attr2) {
    to.set = (to.set & !change.clear) | change.set;
    to.clear = (to.clear & !change.set) | change.clear;
}

fn propagation_word(word: &str) -> Option<(u64, bool)> {
    let (bare, recursive) = match word {
        "rshared" | "rslave" | "rprivate" | "runbindable" => (&word[1..], true),
        _ => (word, false),
    };
    let kind = match bare {
        "shared" => propagation::SHARED,
        "slave" => propagation::SLAVE,
        "private" => propagation::PRIVATE,
        "unbindable" => propagation::UNBINDABLE,
        _ => return None,
    };
    Some((kind, recursive))
}

fn attr_word(word: &str) -> Option<Attr2> {
    let set = |bit| Some(Attr2 { set: bit, clear: 0 });
    let clear = |bit| Some(Attr2 { set: 0, clear: bit });
    // The access time bits are one field: the kernel wants it cleared before it is set.
    let atime = |value| Some(Attr2 { set: value, clear: attr::ATIME });
    match word {
        "ro" => set(attr::RDONLY),
        "rw" => clear(attr::RDONLY),
        "nosuid" => set(attr::NOSUID),
        "suid" => clear(attr::NOSUID),
        "nodev" => set(attr::NODEV),
        "dev" => clear(attr::NODEV),
        "noexec" => set(attr::NOEXEC),
        "exec" => clear(attr::NOEXEC),
        "nosymfollow" => set(attr::NOSYMFOLLOW),
        "symfollow" => clear(attr::NOSYMFOLLOW),
        "nodiratime" => set(attr::NODIRATIME),
        "diratime" => clear(attr::NODIRATIME),
        "noatime" => atime(attr::NOATIME),
        "strictatime" => atime(attr::STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => atime(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Root;

    fn one(json: &str) -> Result<MountPlan, PlanError> {
        let host = crate::host::HostFacts::probe().unwrap();
        let root = Root::Dir("rootfs".into());
        let ctx = PlanContext::new("x", Path::new("/bundle"), root, &host);
        compile(&serde_json::from_str(json).unwrap(), &ctx)
    }

    #[test]
    fn docker_bind_is_private_and_read_only() {
        let m = one(r#"{"destination":"/etc/hosts","type":"bind","source":"/x","options":["rbind","ro","rprivate"]}"#)
            .unwrap();
        assert_eq!(m.attr.set, attr::RDONLY);
        assert_eq!(m.propagation, Some((propagation::PRIVATE, true)));
        assert!(matches!(m.kind, MountKind::Bind { recursive: true, .. }));
    }

    #[test]
    fn recursive_attributes_and_data() {
        let m = one(r#"{"destination":"/d","source":"s","options":["rbind","rro","rnosuid"]}"#)
            .unwrap();
        assert_eq!(m.recursive_attr.set, attr::RDONLY | attr::NOSUID);
        let MountKind::Bind { source, .. } = &m.kind else { panic!() };
        assert_eq!(source, Path::new("/bundle/s"));
        let t = one(r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]}"#)
            .unwrap();
        assert_eq!(t.attr, Attr2 { set: attr::NOSUID | attr::STRICTATIME, clear: attr::ATIME });
        let MountKind::Fs { options, .. } = &t.kind else { panic!() };
        assert_eq!(options[0], ("mode".to_owned(), Some("755".to_owned())));
    }

    #[test]
    fn later_option_wins() {
        let m = one(
            r#"{"destination":"/d","type":"tmpfs","options":["ro","rw","noatime","relatime"]}"#,
        )
        .unwrap();
        assert_eq!(m.attr.set, 0);
        assert_eq!(m.attr.clear & attr::RDONLY, attr::RDONLY);
    }

    #[test]
    fn proc_holds_only_proc() {
        assert!(one(r#"{"destination":"/proc","type":"tmpfs"}"#).is_err());
        assert!(one(r#"{"destination":"/proc/self/attr","type":"tmpfs"}"#).is_err());
        assert!(
            one(r#"{"destination":"/x/../proc/sys","source":"/a","options":["bind"]}"#).is_err()
        );
        assert!(one(r#"{"destination":"/proc","type":"proc"}"#).is_ok());
        assert!(one(r#"{"destination":"/proc/uptime","source":"/a","options":["bind"]}"#).is_ok());
    }

    #[test]
    fn data_on_a_bind_is_refused() {
        assert!(one(r#"{"destination":"/a","source":"/b","options":["bind","size=1"]}"#).is_err());
        assert!(one(r#"{"destination":"/a","options":["bind"]}"#).is_err());
    }
}
