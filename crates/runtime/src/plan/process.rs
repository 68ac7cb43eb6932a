//! The process part of a spec: arguments, identity, capabilities, limits, scheduling.

use std::ffi::CString;

use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxCapabilities, LinuxIOPriority,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimit, PosixRlimitType, Process, Scheduler,
};
use wharf_sys::tuning::SchedAttr;

use super::{CapPlan, PlanError, ProcessPlan};
use crate::host::HostFacts;

pub(crate) fn compile(
    process: &Process,
    host: &HostFacts,
    userns: bool,
) -> Result<ProcessPlan, PlanError> {
    let args = strings("process.args", process.args().iter().flatten())?;
    if args.is_empty() {
        return Err(PlanError::field("process.args", "must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(PlanError::field("process.cwd", "Cwd must be an absolute path"));
    }
    let user = process.user();
    let affinity = process.exec_cpu_affinity().as_ref();
    let cpus = |field, list: Option<&String>| list.map(|t| number_set(field, t)).transpose();
    Ok(ProcessPlan {
        args,
        env: environment(process)?,
        cwd: process.cwd().clone(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        // No list is an empty list, as for runc: all capabilities are dropped.
        caps: Some(
            process
                .capabilities()
                .as_ref()
                .map_or_else(CapPlan::default, |caps| cap_plan(caps, host.last_cap)),
        ),
        last_cap: host.last_cap,
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        apparmor: label("process.apparmorProfile", process.apparmor_profile(), host.apparmor)?,
        selinux: label("process.selinuxLabel", process.selinux_label(), host.selinux)?,
        oom_score_adj: process.oom_score_adj(),
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect::<Result<_, _>>()?,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        affinity: (
            cpus("process.execCPUAffinity.initial", affinity.and_then(|a| a.initial().as_ref()))?,
            cpus(
                "process.execCPUAffinity.final",
                affinity.and_then(|a| a.cpu_affinity_final().as_ref()),
            )?,
        ),
        preserve_fds: 0,
        relayed: false,
        terminal: process.terminal().unwrap_or(false),
        userns,
    })
}

fn strings<'a>(
    field: &str,
    list: impl Iterator<Item = &'a String>,
) -> Result<Vec<CString>, PlanError> {
    list.map(|s| CString::new(s.as_str()).map_err(|_| PlanError::field(field, "holds a null byte")))
        .collect()
}

/// The last of several values for one name is the one that counts, as for runc.
pub(crate) fn environment(process: &Process) -> Result<Vec<CString>, PlanError> {
    let all: Vec<&String> = process.env().iter().flatten().collect();
    for entry in &all {
        if entry.find('=').is_none_or(|at| at == 0) {
            let problem = format!("invalid environment variable: {entry:?}");
            return Err(PlanError::field("process.env", problem));
        }
    }
    let name = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<&String> =
        all.into_iter().rev().filter(|entry| seen.insert(name(entry))).collect();
    kept.reverse();
    strings("process.env", kept.into_iter())
}

/// A security module's label is an error where the module is not in force, unless it says nothing.
fn label(field: &str, value: &Option<String>, in_force: bool) -> Result<Option<String>, PlanError> {
    match value.as_deref() {
        None | Some("") => Ok(None),
        Some("unconfined") if !in_force => Ok(None),
        Some(label) if in_force => Ok(Some(label.to_owned())),
        Some(label) => {
            let problem = format!("{label:?} asked for, but the security module is not in force");
            Err(PlanError::field(field, problem))
        }
    }
}

fn cap_plan(caps: &LinuxCapabilities, last: u8) -> CapPlan {
    let set = |set: &Option<Capabilities>| {
        let bits = set.iter().flatten().map(|cap| 1u64 << cap_number(*cap));
        // One the kernel does not know cannot be given; runc warns and goes on.
        bits.fold(0, |a, b| a | b) & ((1u64 << (last + 1)) - 1)
    };
    let (inheritable, permitted) = (set(caps.inheritable()), set(caps.permitted()));
    CapPlan {
        bounding: set(caps.bounding()),
        effective: set(caps.effective()),
        inheritable,
        permitted,
        // The kernel lets no other be raised.
        ambient: set(caps.ambient()) & inheritable & permitted,
    }
}

/// The kernel's number of a capability.
pub(crate) fn cap_number(cap: Capability) -> u8 {
    use Capability as C;
    match cap {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

fn rlimit(limit: &PosixRlimit) -> Result<(u32, u64, u64), PlanError> {
    use PosixRlimitType as R;
    let resource = match limit.typ() {
        R::RlimitCpu => 0,
        R::RlimitFsize => 1,
        R::RlimitData => 2,
        R::RlimitStack => 3,
        R::RlimitCore => 4,
        R::RlimitRss => 5,
        R::RlimitNproc => 6,
        R::RlimitNofile => 7,
        R::RlimitMemlock => 8,
        R::RlimitAs => 9,
        R::RlimitLocks => 10,
        R::RlimitSigpending => 11,
        R::RlimitMsgqueue => 12,
        R::RlimitNice => 13,
        R::RlimitRtprio => 14,
        R::RlimitRttime => 15,
    };
    if limit.soft() > limit.hard() {
        let problem = format!("{}: soft limit above hard limit", limit.typ());
        return Err(PlanError::field("process.rlimits", problem));
    }
    Ok((resource, limit.soft(), limit.hard()))
}

fn io_priority(priority: &LinuxIOPriority) -> Result<u32, PlanError> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(priority.priority()) {
        Ok(level) if level < 8 => Ok(class << 13 | level),
        _ => Err(PlanError::field("process.ioPriority.priority", "must be 0 to 7")),
    }
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr, PlanError> {
    use LinuxSchedulerFlag as F;
    use LinuxSchedulerPolicy as P;
    let policy = match scheduler.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        F::SchedResetOnFork => 0x01,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(SchedAttr {
        size: 0,
        policy,
        flags: flags.fold(0, |a, b| a | b),
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority)
            .map_err(|_| PlanError::field("process.scheduler.priority", "must not be negative"))?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

/// A list such as `0-3,7` as a bit set.
pub(super) fn number_set(field: &str, text: &str) -> Result<Vec<u64>, PlanError> {
    let bad = || PlanError::field(field, format!("{text:?} is not a list such as 0-3,7"));
    let mut set = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.trim().parse().map_err(|_| bad())?, last.trim().parse().map_err(|_| bad())?);
        if first > last || last > 65_535 {
            return Err(bad());
        }
        for n in first..=last {
            if set.len() <= n / 64 {
                set.resize(n / 64 + 1, 0);
            }
            set[n / 64] |= 1 << (n % 64);
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_sets() {
        assert_eq!(number_set("f", "0-2,5").unwrap(), [0b100_111]);
        assert_eq!(number_set("f", "64").unwrap(), [0, 1]);
        for bad in ["", "a", "3-1", "-1", "99999999"] {
            assert!(number_set("f", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn last_environment_entry_wins() {
        let json = r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["a"],"env":["A=1","B=2","A=3"]}"#;
        let process: Process = serde_json::from_str(json).unwrap();
        let env = environment(&process).unwrap();
        let env: Vec<&str> = env.iter().map(|e| e.to_str().unwrap()).collect();
        assert_eq!(env, ["B=2", "A=3"]);
    }

    #[test]
    fn labels_without_their_module_are_refused() {
        assert!(label("f", &Some("docker-default".into()), false).is_err());
        assert_eq!(label("f", &Some("unconfined".into()), false).unwrap(), None);
        assert_eq!(label("f", &Some("x".into()), true).unwrap(), Some("x".into()));
    }
}
