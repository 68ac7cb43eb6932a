//! Capabilities, security options and hidden paths, by Docker's rules.

use std::collections::HashSet;
use std::str::FromStr as _;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use wharf_spec::docker::HostConfig;

use crate::error::{EngineError, Result};

/// What a container gets without asking.
pub const DEFAULT_CAPABILITIES: &[Capability] = &[
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Covered, because they tell about the host or change it.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Read-only, because programs read them and must not change the host through them.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Per-processor files that tell how hot the host is (GHSA-6fw5-f8r9-fgfm).
pub fn thermal_paths(cpus: usize) -> Vec<String> {
    (0..cpus).map(|n| format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle")).collect()
}

/// What `--security-opt` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityOptions {
    /// `no-new-privileges`; `None` leaves the daemon's default.
    pub no_new_privileges: Option<bool>,
    /// Which system calls are filtered.
    pub seccomp: Seccomp,
    /// An AppArmor profile by name, or `unconfined`.
    pub apparmor: Option<String>,
    /// SELinux labels, in order.
    pub labels: Vec<String>,
    /// Let the container change its own cgroups.
    pub writable_cgroups: bool,
}

/// A container's system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The daemon's default.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// wharf's built-in one, whatever the daemon's default.
    Builtin,
    /// Docker's JSON form, inline.
    Profile(String),
}

impl SecurityOptions {
    /// Reads `HostConfig.SecurityOpt`.
    pub fn parse(options: &[String]) -> Result<SecurityOptions> {
        let mut out = SecurityOptions::default();
        for option in options {
            out.read(option)?;
        }
        Ok(out)
    }

    fn read(&mut self, option: &str) -> Result<()> {
        let wrong = |n| EngineError::invalid(format!("invalid --security-opt {n}: {option:?}"));
        if option == "no-new-privileges" {
            self.no_new_privileges = Some(true);
            return Ok(());
        }
        if option == "writable-cgroups" {
            self.writable_cgroups = true;
            return Ok(());
        }
        if option == "disable" {
            self.labels.push("disable".into());
            return Ok(());
        }
        // The colon is the separator of old clients.
        let at = option.find('=').or_else(|| option.find(':')).ok_or_else(|| wrong(1))?;
        let (key, value) = (&option[..at], &option[at + 1..]);
        let truth = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong(2)),
        };
        match key {
            "no-new-privileges" => self.no_new_privileges = Some(truth()?),
            "writable-cgroups" => self.writable_cgroups = truth()?,
            "apparmor" => self.apparmor = Some(value.into()),
            "label" => self.labels.push(value.into()),
            "seccomp" => {
                self.seccomp = match value {
                    "unconfined" => Seccomp::Unconfined,
                    "builtin" => Seccomp::Builtin,
                    json => Seccomp::Profile(json.into()),
                };
            }
            _ => return Err(wrong(2)),
        }
        Ok(())
    }
}

/// The capabilities of a container, out of those `available` on this host.
pub fn capabilities(
    host: &HostConfig,
    available: &HashSet<Capability>,
) -> Result<HashSet<Capability>> {
    let add = Wanted::parse("CapAdd", host.cap_add.as_deref(), available)?;
    let drop = Wanted::parse("CapDrop", host.cap_drop.as_deref(), available)?;
    if host.privileged {
        return Ok(available.clone());
    }
    let dropped = |c: &Capability| drop.all || drop.named.contains(c);
    Ok(match (add.all, drop.all) {
        (true, _) => available.iter().filter(|c| !drop.named.contains(c)).copied().collect(),
        (false, true) => add.named,
        (false, false) => DEFAULT_CAPABILITIES
            .iter()
            .filter(|c| !dropped(c) && available.contains(c))
            .copied()
            .chain(add.named)
            .collect(),
    })
}

/// The five sets for a process of `uid`: a user other than root gets what `execve` would leave it.
pub fn capability_sets(caps: &HashSet<Capability>, uid: u32) -> Result<LinuxCapabilities> {
    let own = if uid == 0 { caps.clone() } else { HashSet::new() };
    LinuxCapabilitiesBuilder::default()
        .bounding(caps.clone())
        .effective(own.clone())
        .permitted(own)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .map_err(|e| EngineError::system("build capabilities", e))
}

/// Every capability a name is known for.
pub fn parse_capability(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).ok()
}

#[derive(Default)]
struct Wanted {
    all: bool,
    named: HashSet<Capability>,
}

impl Wanted {
    fn parse(
        field: &str,
        names: Option<&[String]>,
        available: &HashSet<Capability>,
    ) -> Result<Wanted> {
        let mut out = Wanted::default();
        for name in names.unwrap_or_default() {
            if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
                out.all = true;
                continue;
            }
            let Some(cap) = parse_capability(name) else {
                return Err(EngineError::invalid(format!(
                    "invalid {field}: unknown capability: \"{}\"",
                    canonical(name)
                )));
            };
            if field == "CapAdd" && !available.contains(&cap) {
                return Err(EngineError::invalid(format!(
                    "invalid {field}: capability not supported by your kernel or not available in \
                     the current environment: \"{}\"",
                    canonical(name)
                )));
            }
            out.named.insert(cap);
        }
        Ok(out)
    }
}

fn canonical(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|s| (*s).to_owned()).collect())
    }

    fn available() -> HashSet<Capability> {
        let more = [Capability::NetAdmin, Capability::SysAdmin];
        DEFAULT_CAPABILITIES.iter().copied().chain(more).collect()
    }

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], has: &[Capability], hasnt: &[Capability]) {
        let host =
            HostConfig { cap_add: names(add), cap_drop: names(drop), ..HostConfig::default() };
        let got = capabilities(&host, &available()).unwrap();
        assert!(has.iter().all(|c| got.contains(c)), "{got:?}");
        assert!(!hasnt.iter().any(|c| got.contains(c)), "{got:?}");
    }

    #[test]
    fn add_and_drop_combine_as_in_docker() {
        use Capability::*;
        check(&[], &[], &[Chown, Kill], &[NetAdmin]);
        check(&["net_admin"], &["CAP_KILL"], &[Chown, NetAdmin], &[Kill]);
        check(&["CHOWN"], &["ALL"], &[Chown], &[Kill]);
        check(&["ALL"], &["SYS_ADMIN"], &[NetAdmin, Chown], &[SysAdmin]);
        check(&["all"], &["all"], &[NetAdmin, SysAdmin], &[]);
    }

    #[test]
    fn unknown_and_unavailable_are_refused_by_name() {
        for (name, text) in [
            ("fly", "invalid CapAdd: unknown capability: \"CAP_FLY\""),
            ("SYS_RESOURCE", "not available in the current environment: \"CAP_SYS_RESOURCE\""),
        ] {
            let host = HostConfig { cap_add: names(&[name]), ..HostConfig::default() };
            let e = capabilities(&host, &available()).unwrap_err().message();
            assert!(e.contains(text), "{e}");
        }
    }

    #[test]
    fn nobody_else_than_root_keeps_effective_capabilities() {
        let caps = available();
        let sets = capability_sets(&caps, 1000).unwrap();
        assert!(sets.effective().as_ref().unwrap().is_empty());
        assert_eq!(sets.bounding().as_ref().unwrap(), &caps);
        assert!(capability_sets(&caps, 0).unwrap().inheritable().as_ref().unwrap().is_empty());
    }

    #[test]
    fn options_in_both_spellings() {
        let parse = |o: &[&str]| SecurityOptions::parse(&names(o).unwrap());
        let got = parse(&["no-new-privileges", "seccomp=unconfined", "label:disable"]).unwrap();
        assert_eq!(got.no_new_privileges, Some(true));
        assert_eq!((got.seccomp, got.labels), (Seccomp::Unconfined, vec!["disable".to_owned()]));
        assert_eq!(parse(&["no-new-privileges:false"]).unwrap().no_new_privileges, Some(false));
        for bad in ["what", "no-new-privileges=maybe", "selinux=x"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
