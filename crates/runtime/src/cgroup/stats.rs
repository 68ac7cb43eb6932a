//! What a cgroup has used, in the terms of Docker's stats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One reading of a container's account. Missing controllers leave zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Block devices.
    pub blkio: Blkio,
    /// Tasks.
    pub pids: Pids,
}

/// Processor time in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// All time.
    pub total: u64,
    /// All time by processor; empty on v2, which does not tell.
    pub per_cpu: Vec<u64>,
    /// Time in programs.
    pub user: u64,
    /// Time in the kernel.
    pub system: u64,
    /// What the quota did.
    pub throttling: Throttling,
}

/// The effect of a processor quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds spent waiting for the next period.
    pub throttled_time: u64,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: u64,
    /// The limit; `u64::MAX` when there is none.
    pub limit: u64,
    /// Times the limit was met (v1).
    pub failcnt: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Swap in use.
    pub swap: u64,
    /// `memory.stat`, by the kernel's names.
    pub stats: BTreeMap<String, u64>,
}

/// Block device traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blkio {
    /// Bytes by device and operation.
    pub service_bytes: Vec<BlkioEntry>,
    /// Operations by device and operation.
    pub serviced: Vec<BlkioEntry>,
}

/// One counter of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioEntry {
    /// Device major number.
    pub major: u64,
    /// Device minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard` or `Total` on v1; `read`, `write` on v2.
    pub op: String,
    /// The count.
    pub value: u64,
}

/// Tasks in the cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Tasks now.
    pub current: u64,
    /// The limit; 0 when there is none.
    pub limit: u64,
}
