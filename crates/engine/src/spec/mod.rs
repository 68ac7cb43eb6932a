//! From what a user asked for to what the runtime is told: Docker's configuration to an OCI spec.
//!
//! [`build`] looks at nothing but its input: whatever the host or the image knows was found out before.

pub mod devices;
pub mod env;
pub mod mounts;
pub mod resources;
pub mod security;
pub mod user;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, Linux, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp,
    PosixRlimit, Process, ProcessBuilder, RootBuilder, Spec, UserBuilder,
};
use wharf_spec::docker::{ContainerConfig, HostConfig};

use crate::error::{EngineError, Result};
use crate::facts::Facts;
use devices::Devices;
use mounts::{Base, HostMount, Shm};
use security::{Seccomp, SecurityOptions};
use user::ResolvedUser;

/// Where one of a container's namespaces comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The host's.
    Host,
    /// A new one.
    New,
    /// An existing one, by path.
    Join(PathBuf),
}

/// A container's namespaces; the mount namespace is always new.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// Network.
    pub net: Namespace,
    /// Semaphores, queues, shared memory.
    pub ipc: Namespace,
    /// Processes.
    pub pid: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// View of the cgroups.
    pub cgroup: Namespace,
}

/// The daemon's defaults that a spec depends on.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// See [`crate::Config::no_new_privileges`].
    pub no_new_privileges: bool,
    /// See [`crate::Config::ulimits`].
    pub ulimits: &'a [wharf_spec::docker::Ulimit],
    /// See [`crate::Config::seccomp_profile`].
    pub seccomp: Option<&'a crate::SeccompProfile>,
}

/// Everything a spec is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The container's own configuration, image merged in.
    pub config: &'a ContainerConfig,
    /// Its host configuration, defaults filled in.
    pub host: &'a HostConfig,
    /// What it calls itself.
    pub hostname: &'a str,
    /// Who runs in it.
    pub user: &'a ResolvedUser,
    /// The user's mounts and the engine's files.
    pub mounts: &'a [HostMount],
    /// What `/dev/shm` is.
    pub shm: Shm,
    /// Its namespaces.
    pub namespaces: &'a Namespaces,
    /// Its devices.
    pub devices: Devices,
    /// Variables about the containers that it links to.
    pub links: &'a [String],
    /// Its cgroup, absolute.
    pub cgroup: PathBuf,
    /// The host.
    pub facts: &'a Facts,
    /// The daemon's defaults.
    pub defaults: Defaults<'a>,
}

/// The OCI spec of a container.
pub fn build(input: Input<'_>) -> Result<Spec> {
    let security = SecurityOptions::parse(input.host.security_opt.as_deref().unwrap_or_default())?;
    let caps = security::capabilities(input.host, &input.facts.capabilities)?;
    let base = Base {
        privileged: input.host.privileged,
        writable_cgroups: security.writable_cgroups,
        shm: input.shm.clone(),
        host_mqueue: input.namespaces.ipc == Namespace::Host,
    };
    let (mounts, propagation) = mounts::mounts(&base, input.mounts)?;
    let mut spec = Spec::default();
    let root = RootBuilder::default().path("rootfs").readonly(input.host.readonly_rootfs);
    spec.set_root(Some(root.build().map_err(broken)?));
    spec.set_mounts(Some(mounts));
    spec.set_process(Some(process(&input, &security, &caps)?));
    let own_uts = input.namespaces.uts == Namespace::New;
    spec.set_hostname(own_uts.then(|| input.hostname.to_owned()));
    let domain = &input.config.domainname;
    spec.set_domainname((own_uts && !domain.is_empty()).then(|| domain.clone()));
    let annotations = input.host.annotations.clone().unwrap_or_default();
    spec.set_annotations(Some(annotations.into_iter().collect()));
    spec.set_linux(Some(linux(input, &security, &caps, propagation)?));
    Ok(spec)
}

/// A further process in the container: what of [`Input`] an exec shares.
#[derive(Debug)]
pub struct ExecInput<'a> {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment, complete.
    pub env: Vec<String>,
    /// Its directory.
    pub cwd: String,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// The container's host configuration.
    pub host: &'a HostConfig,
    /// Who runs it.
    pub user: &'a ResolvedUser,
    /// The host.
    pub facts: &'a Facts,
    /// The daemon's defaults.
    pub defaults: Defaults<'a>,
}

/// The OCI process of an exec.
pub fn exec(input: &ExecInput<'_>) -> Result<Process> {
    let security = SecurityOptions::parse(input.host.security_opt.as_deref().unwrap_or_default())?;
    let caps = match input.privileged {
        true => input.facts.capabilities.clone(),
        false => security::capabilities(input.host, &input.facts.capabilities)?,
    };
    let no_new = security.no_new_privileges.unwrap_or(input.defaults.no_new_privileges);
    let mut process = ProcessBuilder::default()
        .terminal(input.tty)
        .user(oci_user(input.user)?)
        .args(input.args.clone())
        .env(input.env.clone())
        .cwd(&input.cwd)
        .capabilities(security::capability_sets(&caps, input.user.uid)?)
        .rlimits(limits(input.host, &input.defaults, input.facts)?)
        .no_new_privileges(no_new)
        .build()
        .map_err(broken)?;
    process.set_apparmor_profile(apparmor(&security, input.facts, input.privileged));
    Ok(process)
}

fn broken(e: oci_spec::OciSpecError) -> EngineError {
    EngineError::system("build the container's spec", e)
}

fn process(
    input: &Input<'_>,
    security: &SecurityOptions,
    caps: &HashSet<Capability>,
) -> Result<Process> {
    let mut env = env::environment(input.config, input.hostname, input.links);
    env::with_home(&mut env, &input.user.home);
    let args = env::arguments(input.config)?;
    let cwd = match input.config.working_dir.as_str() {
        "" => "/",
        dir => dir,
    };
    let score = i32::try_from(input.host.oom_score_adj).ok().filter(|s| (-1000..=1000).contains(s));
    let score = score.ok_or_else(|| {
        EngineError::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            input.host.oom_score_adj
        ))
    })?;
    let no_new = security.no_new_privileges.unwrap_or(input.defaults.no_new_privileges);
    let mut process = ProcessBuilder::default()
        .terminal(input.config.tty)
        .user(oci_user(input.user)?)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(security::capability_sets(caps, input.user.uid)?)
        .rlimits(limits(input.host, &input.defaults, input.facts)?)
        .no_new_privileges(no_new)
        .oom_score_adj(score)
        .build()
        .map_err(broken)?;
    process.set_apparmor_profile(apparmor(security, input.facts, input.host.privileged));
    Ok(process)
}

fn oci_user(user: &ResolvedUser) -> Result<oci_spec::runtime::User> {
    UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.groups.clone())
        .build()
        .map_err(broken)
}

fn limits(host: &HostConfig, defaults: &Defaults<'_>, facts: &Facts) -> Result<Vec<PosixRlimit>> {
    let own = host.resources.ulimits.as_deref().unwrap_or_default();
    resources::rlimits(own, defaults.ulimits, &|kind| facts.hard_limit(kind))
}

/// The profile that a container of this configuration runs under, as inspect shows it; empty is none.
pub(crate) fn apparmor_profile(host: &HostConfig, facts: &Facts) -> String {
    let options = host.security_opt.as_deref().unwrap_or_default();
    // The options were checked when the container was created.
    let security = SecurityOptions::parse(options).unwrap_or_default();
    apparmor(&security, facts, host.privileged).unwrap_or_default()
}

/// Without AppArmor on the host a profile has no meaning, as in Docker.
fn apparmor(security: &SecurityOptions, facts: &Facts, privileged: bool) -> Option<String> {
    if !facts.apparmor {
        return None;
    }
    match &security.apparmor {
        Some(name) => Some(name.clone()),
        None if privileged => Some("unconfined".into()),
        None => None,
    }
}

fn linux(
    input: Input<'_>,
    security: &SecurityOptions,
    caps: &HashSet<Capability>,
    propagation: Option<String>,
) -> Result<Linux> {
    let filter = seccomp(&input, security, caps)?;
    let Devices { nodes, rules } = input.devices;
    let resources = resources::resources(&input.host.resources, rules, &devices::block_number)?;
    let sysctl = input.host.sysctls.clone().unwrap_or_default();
    let mut linux = Linux::default();
    linux
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(Some(sysctl.into_iter().collect::<HashMap<_, _>>()))
        .set_resources(Some(resources))
        .set_cgroups_path(Some(input.cgroup))
        .set_namespaces(Some(namespaces(input.namespaces)?))
        .set_devices(Some(nodes))
        .set_seccomp(filter)
        .set_rootfs_propagation(propagation)
        .set_masked_paths(Some(input.host.masked_paths.clone().unwrap_or_default()))
        .set_readonly_paths(Some(input.host.readonly_paths.clone().unwrap_or_default()));
    Ok(linux)
}

fn seccomp(
    input: &Input<'_>,
    security: &SecurityOptions,
    caps: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>> {
    use crate::SeccompProfile::{Json, Unconfined};
    let caps: Vec<Capability> = caps.iter().copied().collect();
    let facts = input.facts;
    let builtin = || wharf_runtime::seccomp::docker_default(&caps, facts.arch, facts.kernel);
    let custom = |json: &[u8]| {
        wharf_runtime::seccomp::from_docker_profile(json, &caps, facts.arch, facts.kernel)
            .map_err(|e| EngineError::invalid("Decoding seccomp profile failed").because(e))
    };
    Ok(match (&security.seccomp, input.defaults.seccomp) {
        (Seccomp::Unconfined, _) => None,
        (Seccomp::Profile(json), _) => Some(custom(json.as_bytes())?),
        (Seccomp::Default, _) if input.host.privileged => None,
        (Seccomp::Builtin, _) | (Seccomp::Default, None) => Some(builtin()),
        (Seccomp::Default, Some(Unconfined)) => None,
        (Seccomp::Default, Some(Json(json))) => Some(custom(json)?),
    })
}

fn namespaces(n: &Namespaces) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as T;
    let mut out = vec![LinuxNamespaceBuilder::default().typ(T::Mount).build().map_err(broken)?];
    let rest = [
        (T::Network, &n.net),
        (T::Ipc, &n.ipc),
        (T::Pid, &n.pid),
        (T::Uts, &n.uts),
        (T::Cgroup, &n.cgroup),
    ];
    for (kind, from) in rest {
        let b = LinuxNamespaceBuilder::default().typ(kind);
        let built = match from {
            Namespace::Host => continue,
            Namespace::New => b.build(),
            Namespace::Join(path) => b.path(path).build(),
        };
        out.push(built.map_err(broken)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
