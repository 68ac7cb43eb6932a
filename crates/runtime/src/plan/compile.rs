//! From an OCI spec to a plan.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIdMapping, LinuxMemoryPolicy,
    LinuxNamespaceType, LinuxPersonalityDomain, LinuxResources, LinuxSeccomp, MemoryPolicyFlagType,
    MemoryPolicyModeType, Spec,
};
use wharf_sys::mount::propagation;
use wharf_sys::process as ns;

use super::{
    DeviceKind, DevicePlan, Filter, Identity, MountKind, Namespaces, Plan, PlanContext, PlanError,
    Root, Rootfs, UserMaps, mounts, process,
};
use crate::cgroup::{Cgroup, Limits};
use crate::hooks::HookPlan;
use crate::seccomp::{self, SeccompError};

pub(super) fn plan(spec: &Spec, ctx: &PlanContext<'_>) -> Result<Plan, PlanError> {
    let empty = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&empty);
    refuse_unbuilt(spec, linux)?;
    let namespaces = namespaces(linux)?;
    let cgroup = Cgroup::at(ctx.host, &cgroup_path(linux, ctx));
    let limits = match linux.resources() {
        Some(resources) => cgroup.limits(&with_own_devices(resources))?,
        None => Limits::default(),
    };
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| PlanError::field("process", "missing: a container needs a process"))?;
    let mut process = process::compile(process, ctx.host, namespaces.new & ns::NEWUSER != 0)?;
    process.preserve_fds = ctx.preserve_fds;
    process.relayed = ctx.relayed;
    Ok(Plan {
        id: ctx.id.to_owned(),
        limits,
        rootfs: rootfs(spec, linux, &namespaces, ctx)?,
        identity: identity(spec, linux, &namespaces)?,
        hooks: HookPlan::compile(spec, ctx)?.map(Box::new),
        keyring: if ctx.keyring { Some(keyring(ctx.id)?) } else { None },
        seccomp: linux.seccomp().as_ref().map(|profile| filter(profile, ctx)).transpose()?,
        namespaces,
        process,
        cgroup,
        reaper: false,
    })
}

fn filter(profile: &LinuxSeccomp, ctx: &PlanContext<'_>) -> Result<Filter, SeccompError> {
    match ctx.filters {
        Some(filters) => filters.compile(profile),
        None => seccomp::compile(profile),
    }
}

/// What runc allows whatever the spec says: to make nodes, to use those every container has, and
/// terminals.
const OWN_DEVICES: [(Option<i64>, Option<i64>, &str); 9] = [
    (None, None, "m"),
    (Some(1), Some(3), "rwm"),
    (Some(1), Some(8), "rwm"),
    (Some(1), Some(7), "rwm"),
    (Some(5), Some(0), "rwm"),
    (Some(1), Some(5), "rwm"),
    (Some(1), Some(9), "rwm"),
    (Some(136), None, "rwm"),
    (Some(5), Some(2), "rwm"),
];

fn with_own_devices(resources: &LinuxResources) -> LinuxResources {
    let mut out = resources.clone();
    let Some(mut list) = out.devices().clone() else { return out };
    let rule = |kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true).set_typ(Some(kind)).set_major(major).set_minor(minor);
        rule.set_access(Some(access.to_owned()));
        rule
    };
    list.push(rule(LinuxDeviceType::B, None, None, "m"));
    list.extend(
        OWN_DEVICES.map(|(major, minor, access)| rule(LinuxDeviceType::C, major, minor, access)),
    );
    out.set_devices(Some(list));
    out
}

/// Fields that this runtime does not implement are refused by name, never ignored.
fn refuse_unbuilt(spec: &Spec, linux: &Linux) -> Result<(), PlanError> {
    if linux.intel_rdt().is_some() {
        return Err(PlanError::field("linux.intelRdt", "not supported by wharf"));
    }
    if linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(PlanError::field("linux.netDevices", "not supported by wharf"));
    }
    if spec.vm().is_some() || spec.windows().is_some() || spec.solaris().is_some() {
        return Err(PlanError::field("platform", "only linux containers can be run"));
    }
    Ok(())
}

fn cgroup_path(linux: &Linux, ctx: &PlanContext<'_>) -> String {
    match linux.cgroups_path() {
        Some(path) if !path.as_os_str().is_empty() => path.to_string_lossy().into_owned(),
        _ => ctx.id.to_owned(),
    }
}

fn keyring(id: &str) -> Result<CString, PlanError> {
    CString::new(format!("_ses.{id}")).map_err(|_| PlanError::field("id", "holds a null byte"))
}

fn namespaces(linux: &Linux) -> Result<Namespaces, PlanError> {
    let mut out = Namespaces::default();
    let mut seen = 0;
    for item in linux.namespaces().iter().flatten() {
        let kind = flag(item.typ());
        if seen & kind != 0 {
            let problem = format!("malformed spec file: duplicated ns {:?}", item.typ());
            return Err(PlanError::field("linux.namespaces", problem));
        }
        seen |= kind;
        match item.path() {
            Some(path) if !path.as_os_str().is_empty() => out.join.push((kind, path.clone())),
            _ => out.new |= kind,
        }
    }
    let mappings = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let (uid, gid) = (mappings(linux.uid_mappings()), mappings(linux.gid_mappings()));
    if out.new & ns::NEWUSER != 0 {
        if uid.is_empty() || gid.is_empty() {
            let problem = "a new user namespace needs linux.uidMappings and linux.gidMappings";
            return Err(PlanError::field("linux.namespaces", problem));
        }
        out.maps = Some(UserMaps { uid: map_text(&uid), gid: map_text(&gid) });
    } else if seen & ns::NEWUSER == 0 && !(uid.is_empty() && gid.is_empty()) {
        let problem = "identity maps are given, but no user namespace in linux.namespaces";
        return Err(PlanError::field("linux.uidMappings", problem));
    }
    out.time_offsets = time_offsets(linux, out.new & ns::NEWTIME != 0)?;
    Ok(out)
}

fn flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => ns::NEWNS,
        LinuxNamespaceType::Cgroup => ns::NEWCGROUP,
        LinuxNamespaceType::Uts => ns::NEWUTS,
        LinuxNamespaceType::Ipc => ns::NEWIPC,
        LinuxNamespaceType::User => ns::NEWUSER,
        LinuxNamespaceType::Pid => ns::NEWPID,
        LinuxNamespaceType::Network => ns::NEWNET,
        LinuxNamespaceType::Time => ns::NEWTIME,
    }
}

/// The kernel's notation for identity maps.
pub(super) fn map_text(list: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    list.iter().map(line).collect()
}

fn time_offsets(linux: &Linux, new: bool) -> Result<Option<String>, PlanError> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|o| !o.is_empty()) else {
        return Ok(None);
    };
    if !new {
        let problem = "time offsets need a new time namespace in linux.namespaces";
        return Err(PlanError::field("linux.timeOffsets", problem));
    }
    let mut text = String::new();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            let problem = format!("{clock:?} is neither monotonic nor boottime");
            return Err(PlanError::field("linux.timeOffsets", problem));
        }
        let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        text.push_str(&format!("{clock} {secs} {nanos}\n"));
    }
    Ok(Some(text))
}

fn rootfs(
    spec: &Spec,
    linux: &Linux,
    namespaces: &Namespaces,
    ctx: &PlanContext<'_>,
) -> Result<Rootfs, PlanError> {
    if namespaces.new & ns::NEWNS == 0 {
        let problem = "a container needs a new mount namespace; it would mount over the host";
        return Err(PlanError::field("linux.namespaces", problem));
    }
    let attach_at = match &ctx.root {
        Root::Dir(path) => ctx.bundle.join(path),
        Root::Overlay { .. } => match spec.root() {
            Some(root) if wants_create_container(spec) => ctx.bundle.join(root.path()),
            _ => PathBuf::from("/"),
        },
    };
    let mounts: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|m| mounts::compile(m, ctx))
        .collect::<Result<_, _>>()?;
    let own_dev = !mounts
        .iter()
        .any(|m| m.target == Path::new("/dev") && matches!(m.kind, MountKind::Bind { .. }));
    let absolute = |field: &str, list: &Option<Vec<String>>| -> Result<Vec<PathBuf>, PlanError> {
        list.iter().flatten().map(|path| clean(field, Path::new(path))).collect()
    };
    Ok(Rootfs {
        root: match &ctx.root {
            Root::Dir(_) => Root::Dir(attach_at.clone()),
            overlay => overlay.clone(),
        },
        attach_at,
        readonly: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
        propagation: root_propagation(linux)?,
        devices: devices(linux, own_dev)?,
        own_dev,
        masked: absolute("linux.maskedPaths", linux.masked_paths())?,
        readonly_paths: absolute("linux.readonlyPaths", linux.readonly_paths())?,
        pivot: ctx.pivot,
        label: mount_label(linux, ctx)?,
        mounts,
    })
}

fn wants_create_container(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref();
    hooks.and_then(|h| h.create_container().as_ref()).is_some_and(|list| !list.is_empty())
}

fn mount_label(linux: &Linux, ctx: &PlanContext<'_>) -> Result<Option<String>, PlanError> {
    match linux.mount_label().as_ref().filter(|label| !label.is_empty()) {
        Some(_) if !ctx.host.selinux => {
            Err(PlanError::field("linux.mountLabel", "SELinux is not in force on this host"))
        }
        label => Ok(label.cloned()),
    }
}

fn root_propagation(linux: &Linux) -> Result<u64, PlanError> {
    Ok(match linux.rootfs_propagation().as_deref().unwrap_or("") {
        "" | "slave" | "rslave" => propagation::SLAVE,
        "private" | "rprivate" => propagation::PRIVATE,
        "shared" | "rshared" => propagation::SHARED,
        "unbindable" | "runbindable" => propagation::UNBINDABLE,
        other => {
            let problem = format!("rootfsPropagation={other} is not supported");
            return Err(PlanError::field("linux.rootfsPropagation", problem));
        }
    })
}

/// A path that begins at the container's root, without `.` and `..`.
pub(super) fn clean(field: &str, path: &Path) -> Result<PathBuf, PlanError> {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => (),
        }
    }
    if path.as_os_str().is_empty() {
        return Err(PlanError::field(field, "empty path"));
    }
    Ok(out)
}

/// The nodes every container has.
const DEFAULT_DEVICES: [(&str, (u32, u32)); 6] = [
    ("/dev/null", (1, 3)),
    ("/dev/random", (1, 8)),
    ("/dev/full", (1, 7)),
    ("/dev/tty", (5, 0)),
    ("/dev/zero", (1, 5)),
    ("/dev/urandom", (1, 9)),
];

fn devices(linux: &Linux, own_dev: bool) -> Result<Vec<DevicePlan>, PlanError> {
    if !own_dev {
        return Ok(Vec::new());
    }
    let mut out: Vec<DevicePlan> =
        linux.devices().iter().flatten().map(device).collect::<Result<_, _>>()?;
    for (path, number) in DEFAULT_DEVICES {
        if !out.iter().any(|d| d.path == Path::new(path)) {
            out.push(DevicePlan {
                path: path.into(),
                kind: DeviceKind::Char,
                number,
                mode: 0o666,
                owner: (0, 0),
            });
        }
    }
    Ok(out)
}

fn device(spec: &LinuxDevice) -> Result<DevicePlan, PlanError> {
    let path = clean("linux.devices.path", spec.path())?;
    let bad =
        |problem: String| PlanError::field(format!("linux.devices {}", path.display()), problem);
    let number = |n: i64| u32::try_from(n).map_err(|_| bad(format!("{n} is no device number")));
    let kind = match spec.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(bad("type must be one of c, b, u and p".into())),
    };
    Ok(DevicePlan {
        kind,
        number: (number(spec.major())?, number(spec.minor())?),
        mode: spec.file_mode().unwrap_or(0o666) & 0o7777,
        owner: (spec.uid().unwrap_or(0), spec.gid().unwrap_or(0)),
        path,
    })
}

fn identity(spec: &Spec, linux: &Linux, ns_: &Namespaces) -> Result<Identity, PlanError> {
    let named = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
    let own = |kind: u64| ns_.new & kind != 0 || ns_.join.iter().any(|(k, _)| *k == kind);
    let (hostname, domainname) = (named(spec.hostname()), named(spec.domainname()));
    if (hostname.is_some() || domainname.is_some()) && !own(ns::NEWUTS) {
        let problem = "unable to set hostname without a private UTS namespace";
        return Err(PlanError::field("hostname", problem));
    }
    Ok(Identity {
        hostname,
        domainname,
        sysctls: sysctls(linux.sysctl().as_ref(), &own)?,
        loopback: ns_.new & ns::NEWNET != 0,
        personality: personality(linux)?,
        memory_policy: linux.memory_policy().as_ref().map(memory_policy).transpose()?,
    })
}

/// Which kernel parameters belong to a namespace, and so may be set for a container.
fn sysctls(
    map: Option<&HashMap<String, String>>,
    own: &dyn Fn(u64) -> bool,
) -> Result<Vec<(String, String)>, PlanError> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let mut out = Vec::new();
    for (key, value) in map.into_iter().flatten() {
        // Both notations: with slashes dots are part of names, as in interface names.
        let path = if key.find('/').is_some_and(|i| key.find('.').is_none_or(|j| i < j)) {
            key.clone()
        } else {
            key.chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    c => c,
                })
                .collect()
        };
        let dotted = path.replace('/', ".");
        let bad = |problem: &str| PlanError::field(format!("linux.sysctl {key}"), problem);
        let needed = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            ns::NEWIPC
        } else if dotted.starts_with("net.") {
            ns::NEWNET
        } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
            ns::NEWUTS
        } else if dotted.starts_with("user.") {
            ns::NEWUSER
        } else {
            return Err(bad("is not in a separate kernel namespace"));
        };
        if !own(needed) {
            return Err(bad("is not allowed in the namespace of the host"));
        }
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(bad("is not a parameter name"));
        }
        out.push((path, value.clone()));
    }
    out.sort();
    Ok(out)
}

fn personality(linux: &Linux) -> Result<Option<u32>, PlanError> {
    let Some(personality) = linux.personality() else { return Ok(None) };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(PlanError::field("linux.personality.flags", "no flags are defined"));
    }
    Ok(Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>), PlanError> {
    let mut mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    for flag in policy.flags().iter().flatten() {
        mode |= match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        };
    }
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(text) => process::number_set("linux.memoryPolicy.nodes", text)?,
    };
    Ok((mode, nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: &str) -> Linux {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn user_maps_are_in_the_kernels_notation() {
        let l = linux(
            r#"{"namespaces":[{"type":"user"},{"type":"mount"}],
            "uidMappings":[{"containerID":0,"hostID":1000,"size":1},{"containerID":1,"hostID":100000,"size":65536}],
            "gidMappings":[{"containerID":0,"hostID":5,"size":9}]}"#,
        );
        let maps = namespaces(&l).unwrap().maps.unwrap();
        assert_eq!(maps.uid, "0 1000 1\n1 100000 65536\n");
        assert_eq!(maps.gid, "0 5 9\n");
    }

    #[test]
    fn user_namespace_and_maps_need_each_other() {
        assert!(namespaces(&linux(r#"{"namespaces":[{"type":"user"}]}"#)).is_err());
        let maps = r#"{"namespaces":[],"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#;
        assert!(namespaces(&linux(maps)).is_err());
    }

    #[test]
    fn duplicate_namespace_is_refused() {
        let l = linux(r#"{"namespaces":[{"type":"pid"},{"type":"pid","path":"/x"}]}"#);
        assert!(namespaces(&l).is_err());
    }

    #[test]
    fn sysctls_need_their_namespace() {
        let map: HashMap<_, _> = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
        let all = |_: u64| true;
        let none = |_: u64| false;
        assert_eq!(sysctls(Some(&map), &all).unwrap()[0].0, "net/ipv4/ip_forward");
        assert!(sysctls(Some(&map), &none).is_err());
        let host: HashMap<_, _> = [("kernel.core_pattern".to_owned(), "x".to_owned())].into();
        assert!(sysctls(Some(&host), &all).is_err());
        let dots: HashMap<_, _> =
            [("net/ipv4/conf/eth0.1/forwarding".to_owned(), "1".to_owned())].into();
        assert_eq!(sysctls(Some(&dots), &all).unwrap()[0].0, "net/ipv4/conf/eth0.1/forwarding");
        let climb: HashMap<_, _> = [("net/../../x".to_owned(), "1".to_owned())].into();
        assert!(sysctls(Some(&climb), &all).is_err());
    }

    #[test]
    fn paths_do_not_climb() {
        assert_eq!(clean("f", Path::new("/a/../../b/./c")).unwrap(), Path::new("/b/c"));
        assert!(clean("f", Path::new("")).is_err());
    }
}
