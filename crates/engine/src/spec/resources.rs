//! Limits and weights: checked with Docker's texts, and turned into the runtime's.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPidsBuilder,
    LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
};
use wharf_spec::docker::{Resources, ThrottleDevice, Ulimit, WeightDevice};

use crate::error::{EngineError, Result};

const MIN_MEMORY: i64 = 6 << 20;

/// Checks what a request asks for, and returns warnings about what this host cannot do.
pub fn validate(r: &Resources, v2: bool) -> Result<Vec<String>> {
    memory(r)?;
    cpu(r)?;
    block_io(r)?;
    if r.kernel_memory != 0 && r.kernel_memory < MIN_MEMORY {
        return Err(invalid("kernel memory limit cannot be below 6MB"));
    }
    let mut warnings = Vec::new();
    if r.kernel_memory > 0 {
        warnings.push("Specifying a kernel memory limit is deprecated and has no effect.".into());
    }
    if r.oom_kill_disable == Some(true) && r.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can \
             result in the system running out of resources."
                .into(),
        );
    }
    if v2 && r.oom_kill_disable == Some(true) {
        warnings
            .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".into());
    }
    if v2 && r.memory_swappiness.is_some_and(|s| s >= 0) {
        warnings.push(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not \
             mounted. Memory swappiness discarded."
                .into(),
        );
    }
    Ok(warnings)
}

fn invalid(text: impl Into<String>) -> EngineError {
    EngineError::invalid(text)
}

fn memory(r: &Resources) -> Result<()> {
    if r.memory != 0 && r.memory < MIN_MEMORY {
        return Err(invalid("Minimum memory limit allowed is 6MB"));
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return Err(invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if r.memory == 0 && r.memory_swap > 0 {
        return Err(invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if r.memory_swap < -1 {
        return Err(invalid(format!(
            "invalid memory swap limit {}: use -1 for no limit",
            r.memory_swap
        )));
    }
    if r.memory_swappiness.is_some_and(|s| !(-1..=100).contains(&s)) {
        return Err(invalid(format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            r.memory_swappiness.unwrap_or_default()
        )));
    }
    if r.memory_reservation != 0 && r.memory_reservation < MIN_MEMORY {
        return Err(invalid("Minimum memory reservation allowed is 6MB"));
    }
    if r.memory > 0 && r.memory_reservation > r.memory {
        return Err(invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    Ok(())
}

fn cpu(r: &Resources) -> Result<()> {
    if r.nano_cpus != 0 {
        if r.cpu_period > 0 {
            return Err(invalid(
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ));
        }
        if r.cpu_quota > 0 {
            return Err(invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let most = i64::try_from(cpus).unwrap_or(1).saturating_mul(1_000_000_000);
        if r.nano_cpus < 0 || r.nano_cpus > most {
            return Err(invalid(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
    }
    if r.cpu_shares < 0 {
        return Err(invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            r.cpu_shares
        )));
    }
    if r.cpu_period != 0 && !(1000..=1_000_000).contains(&r.cpu_period) {
        return Err(invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1000 {
        return Err(invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if r.cpu_percent > 0 || r.cpu_count > 0 || r.io_maximum_iops > 0 || r.io_maximum_bandwidth > 0 {
        return Err(invalid("CpuCount, CpuPercent and IOMaximum* are for Windows hosts only"));
    }
    for (what, list) in [("cpus", &r.cpuset_cpus), ("mems", &r.cpuset_mems)] {
        if !list.is_empty() && parse_list(list).is_none() {
            return Err(invalid(format!("Invalid value {list} for cpuset {what}")));
        }
    }
    Ok(())
}

fn block_io(r: &Resources) -> Result<()> {
    let range = |w: u16| w == 0 || (10..=1000).contains(&w);
    if !range(r.blkio_weight) {
        return Err(invalid("Range of blkio weight is from 10 to 1000"));
    }
    for d in r.blkio_weight_device.iter().flatten() {
        if !range(d.weight) {
            return Err(invalid(format!(
                "invalid weight for device: {}:{}: range is 10 to 1000",
                d.path, d.weight
            )));
        }
    }
    Ok(())
}

/// `0-2,5`: the numbers, or nothing if it is not such a list.
pub fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (u32, u32) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        if low > high || high > 8191 {
            return None;
        }
        out.extend(low..=high);
    }
    Some(out)
}

/// The runtime's form. `devices` are the rules for device nodes; `number` finds a block device's numbers.
pub fn resources(
    r: &Resources,
    devices: Vec<LinuxDeviceCgroup>,
    number: &dyn Fn(&str) -> Result<(i64, i64)>,
) -> Result<LinuxResources> {
    let mut out = LinuxResources::default();
    out.set_devices((!devices.is_empty()).then_some(devices));
    out.set_memory(Some(memory_limits(r)));
    out.set_cpu(Some(cpu_limits(r)));
    out.set_block_io(block_limits(r, number)?);
    let pids = r.pids_limit.filter(|n| *n != 0).map(|n| if n < 0 { -1 } else { n });
    if let Some(limit) = pids {
        let built = LinuxPidsBuilder::default().limit(limit).build();
        out.set_pids(Some(built.map_err(|e| EngineError::system("build pids limit", e))?));
    }
    Ok(out)
}

fn memory_limits(r: &Resources) -> LinuxMemory {
    let set = |n: i64| (n != 0).then_some(n);
    let mut m = LinuxMemory::default();
    m.set_limit(set(r.memory));
    m.set_reservation(set(r.memory_reservation));
    // Docker's default: as much swap again as memory.
    let swap = if r.memory > 0 && r.memory_swap == 0 { r.memory * 2 } else { r.memory_swap };
    m.set_swap(set(swap));
    m.set_swappiness(r.memory_swappiness.and_then(|s| u64::try_from(s).ok()));
    m.set_disable_oom_killer(r.oom_kill_disable.filter(|d| *d));
    m
}

fn cpu_limits(r: &Resources) -> LinuxCpu {
    let mut c = LinuxCpu::default();
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    c.set_shares(positive(r.cpu_shares));
    if r.nano_cpus > 0 {
        c.set_period(Some(100_000));
        c.set_quota(Some(r.nano_cpus / 10_000));
    } else {
        c.set_period(positive(r.cpu_period));
        c.set_quota((r.cpu_quota != 0).then_some(r.cpu_quota));
    }
    c.set_realtime_period(positive(r.cpu_realtime_period));
    c.set_realtime_runtime((r.cpu_realtime_runtime != 0).then_some(r.cpu_realtime_runtime));
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    c.set_cpus(text(&r.cpuset_cpus));
    c.set_mems(text(&r.cpuset_mems));
    c
}

type Numbers<'a> = &'a dyn Fn(&str) -> Result<(i64, i64)>;

fn block_limits(r: &Resources, number: Numbers<'_>) -> Result<Option<LinuxBlockIo>> {
    let mut b = LinuxBlockIoBuilder::default();
    if r.blkio_weight > 0 {
        b = b.weight(r.blkio_weight);
    }
    let weights = weight_devices(r.blkio_weight_device.as_deref(), number)?;
    if !weights.is_empty() {
        b = b.weight_device(weights);
    }
    let rates = |list: &Option<Vec<ThrottleDevice>>| throttle_devices(list.as_deref(), number);
    b = b
        .throttle_read_bps_device(rates(&r.blkio_device_read_bps)?)
        .throttle_write_bps_device(rates(&r.blkio_device_write_bps)?)
        .throttle_read_iops_device(rates(&r.blkio_device_read_iops)?)
        .throttle_write_iops_device(rates(&r.blkio_device_write_iops)?);
    b.build().map(Some).map_err(|e| EngineError::system("build block limits", e))
}

fn weight_devices(
    list: Option<&[WeightDevice]>,
    number: Numbers<'_>,
) -> Result<Vec<oci_spec::runtime::LinuxWeightDevice>> {
    let one = |d: &WeightDevice| {
        let (major, minor) = number(&d.path)?;
        LinuxWeightDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .weight(d.weight)
            .build()
            .map_err(|e| EngineError::system("build block weight", e))
    };
    list.unwrap_or_default().iter().map(one).collect()
}

fn throttle_devices(
    list: Option<&[ThrottleDevice]>,
    number: Numbers<'_>,
) -> Result<Vec<LinuxThrottleDevice>> {
    let one = |d: &ThrottleDevice| {
        let (major, minor) = number(&d.path)?;
        LinuxThrottleDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .rate(d.rate)
            .build()
            .map_err(|e| EngineError::system("build block throttle", e))
    };
    list.unwrap_or_default().iter().map(one).collect()
}

/// Resource limits of the process; those of `defaults` apply where the container names none.
///
/// `current` tells this process's own hard limit: raising one takes `CAP_SYS_RESOURCE`, and without
/// it the refusal should come now and say so rather than as `EPERM` from the container's start.
pub fn rlimits(
    own: &[Ulimit],
    defaults: &[Ulimit],
    current: &dyn Fn(PosixRlimitType) -> Option<u64>,
) -> Result<Vec<PosixRlimit>> {
    let unset = defaults.iter().filter(|d| !own.iter().any(|o| o.name == d.name));
    own.iter().chain(unset).map(|u| rlimit(u, current)).collect()
}

fn rlimit(u: &Ulimit, current: &dyn Fn(PosixRlimitType) -> Option<u64>) -> Result<PosixRlimit> {
    let Some(kind) = rlimit_kind(&u.name) else {
        return Err(invalid(format!("invalid ulimit type: {}", u.name)));
    };
    let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    let (soft, hard) = (value(u.soft), value(u.hard));
    if soft > hard {
        return Err(invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            u.soft, u.hard
        )));
    }
    if let Some(most) = current(kind).filter(|most| hard > *most) {
        return Err(invalid(format!(
            "ulimit {}={}: the daemon runs without CAP_SYS_RESOURCE and cannot raise its own hard \
             limit of {most}; ask for at most that",
            u.name, u.hard
        )));
    }
    PosixRlimitBuilder::default()
        .typ(kind)
        .hard(hard)
        .soft(soft)
        .build()
        .map_err(|e| EngineError::system("build ulimit", e))
}

/// The kind of a limit by Docker's name for it.
pub fn rlimit_kind(name: &str) -> Option<PosixRlimitType> {
    use PosixRlimitType::*;
    Some(match name {
        "as" => RlimitAs,
        "core" => RlimitCore,
        "cpu" => RlimitCpu,
        "data" => RlimitData,
        "fsize" => RlimitFsize,
        "locks" => RlimitLocks,
        "memlock" => RlimitMemlock,
        "msgqueue" => RlimitMsgqueue,
        "nice" => RlimitNice,
        "nofile" => RlimitNofile,
        "nproc" => RlimitNproc,
        "rss" => RlimitRss,
        "rtprio" => RlimitRtprio,
        "rttime" => RlimitRttime,
        "sigpending" => RlimitSigpending,
        "stack" => RlimitStack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(r: Resources, text: &str) {
        let e = validate(&r, false).unwrap_err();
        assert!(e.message().contains(text), "{e}");
    }

    #[test]
    fn limits_are_checked_with_dockers_texts() {
        let d = Resources::default;
        refused(Resources { memory: 4096, ..d() }, "Minimum memory limit allowed is 6MB");
        refused(
            Resources { memory_swap: 9 << 20, ..d() },
            "You should always set the Memory limit",
        );
        refused(
            Resources { memory: 9 << 20, memory_swap: 8 << 20, ..d() },
            "Minimum memoryswap limit should be larger",
        );
        refused(Resources { nano_cpus: 1 << 60, ..d() }, "range of CPUs is from 0.01 to");
        refused(Resources { nano_cpus: 1, cpu_quota: 1000, ..d() }, "Nano CPUs and CPU Quota");
        refused(Resources { cpu_period: 10, ..d() }, "CPU cfs period");
        refused(Resources { cpu_quota: 10, ..d() }, "CPU cfs quota");
        refused(Resources { blkio_weight: 5, ..d() }, "Range of blkio weight");
        refused(Resources { cpuset_cpus: "0-".into(), ..d() }, "Invalid value 0- for cpuset cpus");
        refused(Resources { memory_swappiness: Some(101), ..d() }, "swappiness range is 0-100");
        validate(&Resources { memory_swappiness: Some(-1), pids_limit: Some(-1), ..d() }, true)
            .unwrap();
    }

    #[test]
    fn swap_defaults_to_twice_the_memory() {
        let r = Resources { memory: 8 << 20, nano_cpus: 1_500_000_000, ..Resources::default() };
        let none = |_: &str| Err(EngineError::invalid("no device"));
        let got = resources(&r, Vec::new(), &none).unwrap();
        assert_eq!(got.memory().unwrap().swap(), Some(16 << 20));
        let cpu = got.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    }

    #[test]
    fn ulimits_fall_back_and_say_what_cannot_be_raised() {
        let u = |name: &str, soft, hard| Ulimit { name: name.into(), hard, soft };
        let free = |_: PosixRlimitType| None;
        let got = rlimits(&[u("nofile", 1, 2)], &[u("nofile", 3, 4), u("core", -1, -1)], &free);
        let got = got.unwrap();
        assert_eq!((got[0].soft(), got[1].hard()), (1, u64::MAX));
        let tight = |_: PosixRlimitType| Some(100);
        let e = rlimits(&[u("nofile", 1, 200)], &[], &tight).unwrap_err().message();
        assert!(e.contains("CAP_SYS_RESOURCE"), "{e}");
        assert!(rlimits(&[u("nofile", 3, 2)], &[], &free).is_err());
        assert!(rlimits(&[u("files", 1, 2)], &[], &free).is_err());
    }
}
