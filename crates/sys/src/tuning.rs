//! How a process is run: scheduler, io priority, personality, memory policy, resource limits.

use std::io;

use crate::process::check;

/// `struct sched_attr`: times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(C)]
pub struct SchedAttr {
    /// Filled by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value of ordinary policies.
    pub nice: i32,
    /// Priority of real-time policies.
    pub priority: u32,
    /// Deadline policy: time per period.
    pub runtime: u64,
    /// Deadline policy: when it must be done.
    pub deadline: u64,
    /// Deadline policy: the period.
    pub period: u64,
}

/// Sets this process's scheduling policy.
pub fn set_scheduler(mut attr: SchedAttr) -> io::Result<()> {
    attr.size = u32::try_from(std::mem::size_of::<SchedAttr>()).unwrap_or(0);
    // SAFETY: `attr` has the layout of sched_attr and says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Sets this process's io priority: class in bits 13 and up, level below.
pub fn set_io_priority(value: u32) -> io::Result<()> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) }).map(drop)
}

/// Sets the execution domain, such as `PER_LINUX32`.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::personality(libc::c_ulong::from(domain)) }.into()).map(drop)
}

/// Sets the NUMA policy of this process; bit n of `nodes` is node n.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit fewer than it is told.
    let bits = nodes.len() * 64 + usize::from(!nodes.is_empty());
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask has `bits` bits, or is null with none.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// Sets the processors this process may run on; bit n of `cpus` is processor n.
pub fn set_affinity(cpus: &[u64]) -> io::Result<()> {
    // SAFETY: length and pointer describe the slice.
    check(unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0, std::mem::size_of_val(cpus), cpus.as_ptr())
    })
    .map(drop)
}

/// This process's soft and hard limit of a resource (`RLIMIT_*`; `u64::MAX` is no limit).
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call; no new limit is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets a resource limit of a process, 0 for this one (`resource` is `RLIMIT_*`; `u64::MAX` is no limit).
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is valid for the call; the old one is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}
