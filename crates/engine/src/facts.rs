//! What the engine needs to know of its host, read once when it opens.

use std::collections::HashSet;

use oci_spec::runtime::{Arch, Capability, PosixRlimitType};

use crate::error::{EngineError, Result};
use crate::spec::resources::rlimit_kind;

/// Facts about this host that do not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The cgroup interface is version 2 alone.
    pub cgroup_v2: bool,
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
    /// Processors.
    pub cpus: usize,
    /// What a container can be given at most.
    pub capabilities: HashSet<Capability>,
    /// AppArmor is in force.
    pub apparmor: bool,
    /// SELinux is in force.
    pub selinux: bool,
    /// This machine's instruction set, for seccomp.
    pub arch: Arch,
    /// Hard limits of this process that it cannot raise, by kind; empty if it can.
    hard_limits: Vec<(PosixRlimitType, u64)>,
}

impl Facts {
    /// Reads them.
    pub fn read() -> Result<Facts> {
        let text = |path: &str| {
            std::fs::read_to_string(path)
                .map_err(|e| EngineError::system(format!("read {path}"), e))
        };
        let capabilities = bounding_set(&text("/proc/self/status")?);
        let hard_limits = match capabilities.contains(&Capability::SysResource) {
            true => Vec::new(),
            false => hard_limits(&text("/proc/self/limits")?),
        };
        Ok(Facts {
            cgroup_v2: std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            kernel: kernel(&text("/proc/sys/kernel/osrelease")?),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            capabilities,
            selinux: std::path::Path::new("/sys/fs/selinux/enforce").exists(),
            apparmor: std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|t| t.starts_with('Y')),
            arch: arch(),
            hard_limits,
        })
    }

    /// This process's hard limit of `kind`, if that is the most it can give.
    pub fn hard_limit(&self, kind: PosixRlimitType) -> Option<u64> {
        self.hard_limits.iter().find(|(k, _)| *k == kind).map(|(_, limit)| *limit)
    }
}

fn arch() -> Arch {
    match std::env::consts::ARCH {
        "aarch64" => Arch::ScmpArchAarch64,
        "arm" => Arch::ScmpArchArm,
        "riscv64" => Arch::ScmpArchRiscv64,
        "s390x" => Arch::ScmpArchS390x,
        "powerpc64" => Arch::ScmpArchPpc64le,
        _ => Arch::ScmpArchX86_64,
    }
}

fn kernel(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    (next(), next())
}

fn bounding_set(status: &str) -> HashSet<Capability> {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or_default();
    let bits = u64::from_str_radix(hex.trim(), 16).unwrap_or(0);
    let set = |n: &usize| bits & (1 << n) != 0;
    (0..BY_NUMBER.len()).filter(set).map(|n| BY_NUMBER[n]).collect()
}

/// `Max open files   1024   524288   files`: the columns are wide, the hard limit is the second number.
fn hard_limits(text: &str) -> Vec<(PosixRlimitType, u64)> {
    const NAMES: &[(&str, &str)] = &[
        ("Max cpu time", "cpu"),
        ("Max file size", "fsize"),
        ("Max data size", "data"),
        ("Max stack size", "stack"),
        ("Max core file size", "core"),
        ("Max resident set", "rss"),
        ("Max processes", "nproc"),
        ("Max open files", "nofile"),
        ("Max locked memory", "memlock"),
        ("Max address space", "as"),
        ("Max file locks", "locks"),
        ("Max pending signals", "sigpending"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
    ];
    let hard = |line: &str, label: &str| {
        let rest = line.strip_prefix(label)?;
        let value = rest.split_whitespace().nth(1)?;
        Some(value.parse().unwrap_or(u64::MAX))
    };
    let mut out = Vec::new();
    for (label, name) in NAMES {
        let found = text.lines().find_map(|line| hard(line, label));
        if let (Some(kind), Some(value)) = (rlimit_kind(name), found) {
            out.push((kind, value));
        }
    }
    out
}

/// Capabilities by the kernel's number (`linux/capability.h`).
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_kernel_s_formats() {
        assert_eq!(kernel("6.1.0-18-amd64\n"), (6, 1));
        let caps = bounding_set("Name:\tx\nCapBnd:\t0000000001000021\n");
        let expected = [Capability::Chown, Capability::Kill, Capability::SysResource];
        assert_eq!(caps, expected.into_iter().collect());
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n\
                      Max address space         unlimited            unlimited            bytes\n";
        let got = hard_limits(limits);
        assert!(got.contains(&(PosixRlimitType::RlimitNofile, 524_288)));
        assert!(got.contains(&(PosixRlimitType::RlimitAs, u64::MAX)));
        Facts::read().unwrap();
    }
}
