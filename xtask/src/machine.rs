//! What the machine must offer, checked before an hour is lost.

use crate::sh::{cmd, which};
use anyhow::{Result, bail};
use std::fs;

/// Programs that the tasks call; all but the last two belong to every Debian.
const PROGRAMS: &[&str] =
    &["apt-get", "dpkg-deb", "tar", "unshare", "nsenter", "setsid", "mount", "bash", "cc", "cargo"];

/// Kernel features by the name of their configuration option.
const FEATURES: &[(&str, &str)] = &[
    ("CONFIG_OVERLAY_FS", "overlayfs, for container root file systems"),
    ("CONFIG_NF_TABLES", "nf_tables, for published ports"),
    ("CONFIG_NFT_NAT", "network address translation in nf_tables"),
    ("CONFIG_VETH", "virtual Ethernet pairs"),
    ("CONFIG_BRIDGE", "Ethernet bridges"),
    ("CONFIG_SECCOMP_FILTER", "seccomp filters"),
    ("CONFIG_USER_NS", "user namespaces"),
    ("CONFIG_PID_NS", "process namespaces"),
    ("CONFIG_CGROUPS", "control groups"),
];

/// The kernel whose mount API wharf needs (`mount_setattr`).
const KERNEL: (u32, u32) = (5, 12);

/// Fails with everything that is missing, so that one look is enough.
pub(crate) fn check() -> Result<()> {
    let mut missing = Vec::new();
    let status = fs::read_to_string("/proc/self/status")?;
    if !status.lines().any(|l| l.starts_with("Uid:\t0\t")) {
        missing
            .push("root: containers, mounts and networks need it (run it under sudo)".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    if version(release).is_none_or(|v| v < KERNEL) {
        missing.push(format!("Linux {}.{} or newer; this is {release}", KERNEL.0, KERNEL.1));
    }
    for program in PROGRAMS {
        if which(program).is_none() {
            missing.push(format!("the program {program}"));
        }
    }
    match configuration(release) {
        Some(text) => {
            let has =
                |o: &str| text.lines().any(|l| l == format!("{o}=y") || l == format!("{o}=m"));
            let lacking = FEATURES.iter().filter(|(option, _)| !has(option));
            missing.extend(lacking.map(|(option, what)| format!("{what} (kernel: {option})")));
        }
        None => {
            println!("The kernel's configuration is not readable; its features are not checked.")
        }
    }
    if !missing.is_empty() {
        bail!("this machine lacks:\n  - {}", missing.join("\n  - "));
    }
    println!("Linux {release}, cgroup {}: fit", cgroup());
    Ok(())
}

/// Which layout of control groups the host has.
pub(crate) fn cgroup() -> &'static str {
    match fs::metadata("/sys/fs/cgroup/cgroup.controllers") {
        Ok(_) => "v2",
        Err(_) => "v1",
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn configuration(release: &str) -> Option<String> {
    if let Ok(text) = fs::read_to_string(format!("/boot/config-{release}")) {
        return Some(text);
    }
    let out = cmd("zcat").arg("/proc/config.gz").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_parse() {
        assert_eq!(version("6.1.0-41-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.12-rc3"), Some((5, 12)));
        assert_eq!(version("unknown"), None);
    }
}
