//! Control groups v1: one directory per tree.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use serde::{Deserialize, Serialize};

use super::stats::{Blkio, BlkioEntry, Cpu, Memory, Pids, Stats, Throttling};
use super::{CgroupError, Limits, Setting, devices, files};
use crate::host::Hierarchy;

/// The container's directory in every tree of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trees(Vec<Tree>);

/// The container's directory in one tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Controllers of the tree; empty for the v2 tree of a hybrid host.
    pub controllers: Vec<String>,
    /// The name of the tree under `/sys/fs/cgroup`.
    pub name: String,
    /// Where the tree is mounted.
    pub mount: PathBuf,
    /// The container's directory.
    pub dir: PathBuf,
}

/// The kernel's clock tick in nanoseconds: `USER_HZ` is 100 on every architecture wharf runs on.
const TICK: u64 = 10_000_000;

impl Trees {
    pub(super) fn at(trees: &[Hierarchy], path: &str) -> Self {
        // The v2 tree of a hybrid host has no controllers that v1 has not; being in it as well
        // would cost a directory and a move for nothing, unless it holds hugetlb, which runc
        // ignores too.
        let trees = trees.iter().filter(|tree| !tree.controllers.is_empty());
        Self(
            trees
                .map(|tree| Tree {
                    controllers: tree.controllers.clone(),
                    name: tree.name(),
                    mount: tree.mount.clone(),
                    dir: super::join(&tree.mount, &tree.own, path),
                })
                .collect(),
        )
    }

    /// The container's directories with the names of their trees.
    pub fn iter(&self) -> impl Iterator<Item = &Tree> {
        self.0.iter()
    }

    fn dir(&self, controller: &str) -> Option<&Path> {
        self.0.iter().find(|t| t.controllers.iter().any(|c| c == controller)).map(|t| &*t.dir)
    }

    fn need(&self, controller: &str) -> Result<&Path, CgroupError> {
        self.dir(controller).ok_or_else(|| {
            CgroupError::Unsupported(format!("cgroup controller {controller} is not mounted"))
        })
    }

    /// Changes the directory in the tree of a controller, or in all.
    pub(super) fn descend(
        &mut self,
        controller: Option<&str>,
        change: impl Fn(&mut PathBuf) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let fits =
            |t: &&mut Tree| controller.is_none_or(|c| t.controllers.iter().any(|own| own == c));
        let mut trees = self.0.iter_mut().filter(fits).peekable();
        if trees.peek().is_none() {
            let name = controller.unwrap_or_default();
            return Err(CgroupError::Unsupported(format!("unknown controller {name}")));
        }
        trees.try_for_each(|tree| change(&mut tree.dir))
    }

    pub(super) fn main_dir(&self) -> &Path {
        // The devices tree is the one runc reads processes from; any that exists will do.
        self.dir("devices").or_else(|| self.0.first().map(|t| &*t.dir)).unwrap_or(Path::new("/"))
    }

    pub(super) fn named_dirs(&self) -> Vec<(String, PathBuf)> {
        let one = |t: &Tree| {
            let dir = t.dir.clone();
            t.controllers.iter().map(move |c| (c.clone(), dir.clone())).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(one).collect()
    }

    pub(super) fn create(&self) -> Result<(), CgroupError> {
        for tree in &self.0 {
            match fs::create_dir(&tree.dir) {
                Ok(()) => (),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (),
                Err(_) => {
                    fs::create_dir_all(&tree.dir).map_err(files::failed("create", &tree.dir))?;
                }
            }
            if tree.controllers.iter().any(|c| c == "cpuset") {
                inherit_cpuset(&tree.mount, &tree.dir)?;
            }
        }
        Ok(())
    }

    pub(super) fn doors(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |tree: &Tree| {
            let tasks = tree.dir.join("tasks");
            let file = OpenOptions::new().write(true).open(&tasks);
            file.map(OwnedFd::from).map_err(files::failed("open", &tasks))
        };
        self.0.iter().map(open).collect()
    }

    pub(super) fn delete(&self) -> Result<(), CgroupError> {
        self.0.iter().map(|tree| files::remove(&tree.dir)).fold(Ok(()), Result::and)
    }

    pub(super) fn limits(&self, resources: &LinuxResources) -> Result<Limits, CgroupError> {
        let mut out = Settings { trees: self, list: Vec::new() };
        if let (Some(list), Some(dir)) = (resources.devices(), self.dir("devices")) {
            for (file, value) in devices::v1_lines(list)? {
                out.list.push(Setting { file: dir.join(file), value });
            }
        }
        if let Some(memory) = resources.memory() {
            out.memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            out.cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            let value = if pids.limit() > 0 { pids.limit().to_string() } else { "max".into() };
            out.put("pids", "pids.max", value)?;
        }
        if let Some(io) = resources.block_io() {
            out.block_io(io)?;
        }
        out.others(resources)?;
        Ok(Limits { settings: out.list, devices: None })
    }

    /// On a live update the kernel demands limit ≤ memory+swap at every moment: raise the sum
    /// before the limit, lower it after.
    pub(super) fn order_memory(&self, settings: &mut [Setting]) {
        let find = |name: &str| settings.iter().position(|s| s.file.ends_with(name));
        let (Some(limit), Some(sum)) =
            (find("memory.limit_in_bytes"), find("memory.memsw.limit_in_bytes"))
        else {
            return;
        };
        let now = files::number(&settings[sum].file).ok().flatten().unwrap_or(u64::MAX);
        let wanted = settings[sum].value.parse::<u64>().unwrap_or(u64::MAX);
        if wanted > now && sum > limit {
            settings.swap(limit, sum);
        }
    }

    pub(super) fn freeze(&self) -> Result<(), CgroupError> {
        let file = self.need("freezer")?.join("freezer.state");
        // FREEZING is left by writing again; runc's loop does the same, because the kernel does not
        // go on by itself when a task forked meanwhile.
        for _ in 0..1000 {
            files::write(&file, "FROZEN")?;
            if files::read(&file)?.is_some_and(|state| state.trim() == "FROZEN") {
                return Ok(());
            }
            wharf_sys::process::pause_for(std::time::Duration::from_micros(200));
        }
        files::write(&file, "THAWED")?;
        Err(CgroupError::Unsupported(format!(
            "the processes of {} do not freeze: one of them is stuck in the kernel",
            file.display()
        )))
    }

    pub(super) fn thaw(&self) -> Result<(), CgroupError> {
        match self.dir("freezer") {
            Some(dir) if dir.exists() => files::write(&dir.join("freezer.state"), "THAWED"),
            _ => Ok(()),
        }
    }

    pub(super) fn is_frozen(&self) -> Result<bool, CgroupError> {
        let Some(dir) = self.dir("freezer") else { return Ok(false) };
        Ok(files::read(&dir.join("freezer.state"))?.is_some_and(|s| s.trim() != "THAWED"))
    }

    pub(super) fn oom_events(&self) -> Result<OwnedFd, CgroupError> {
        let dir = self.need("memory")?;
        let control = dir.join("memory.oom_control");
        let attempt = || {
            let event = wharf_sys::host::event_counter()?;
            let file = fs::File::open(&control)?;
            let line = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
            let mut target =
                OpenOptions::new().write(true).open(dir.join("cgroup.event_control"))?;
            target.write_all(line.as_bytes())?;
            Ok(event)
        };
        attempt().map_err(files::failed("watch", &control))
    }

    pub(super) fn oom_kills(&self) -> Result<u64, CgroupError> {
        let Some(dir) = self.dir("memory") else { return Ok(0) };
        let text = files::read(&dir.join("memory.oom_control"))?.unwrap_or_default();
        Ok(files::pairs(&text).find(|(key, _)| *key == "oom_kill").map_or(0, |(_, n)| n))
    }

    pub(super) fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats {
            cpu: self.cpu_stats()?,
            memory: self.memory_stats()?,
            blkio: self.blkio_stats()?,
            pids: match self.dir("pids") {
                None => Pids::default(),
                Some(dir) => Pids {
                    current: files::number(&dir.join("pids.current"))?.unwrap_or(0),
                    limit: match files::number(&dir.join("pids.max"))? {
                        None | Some(u64::MAX) => 0,
                        Some(n) => n,
                    },
                },
            },
        })
    }

    fn cpu_stats(&self) -> Result<Cpu, CgroupError> {
        let mut cpu = Cpu::default();
        if let Some(dir) = self.dir("cpuacct") {
            cpu.total = files::number(&dir.join("cpuacct.usage"))?.unwrap_or(0);
            let per_cpu = files::read(&dir.join("cpuacct.usage_percpu"))?.unwrap_or_default();
            cpu.per_cpu = per_cpu.split_whitespace().map(files::parse).collect();
            let text = files::read(&dir.join("cpuacct.stat"))?.unwrap_or_default();
            for (key, ticks) in files::pairs(&text) {
                match key {
                    "user" => cpu.user = ticks * TICK,
                    "system" => cpu.system = ticks * TICK,
                    _ => (),
                }
            }
        }
        if let Some(dir) = self.dir("cpu") {
            let text = files::read(&dir.join("cpu.stat"))?.unwrap_or_default();
            cpu.throttling = throttling(&text);
        }
        Ok(cpu)
    }

    fn memory_stats(&self) -> Result<Memory, CgroupError> {
        let Some(dir) = self.dir("memory") else { return Ok(Memory::default()) };
        let number = |name: &str| files::number(&dir.join(name)).map(Option::unwrap_or_default);
        let text = files::read(&dir.join("memory.stat"))?.unwrap_or_default();
        let usage = number("memory.usage_in_bytes")?;
        let with_swap = number("memory.memsw.usage_in_bytes")?;
        Ok(Memory {
            usage,
            max_usage: number("memory.max_usage_in_bytes")?,
            limit: number("memory.limit_in_bytes")?,
            failcnt: number("memory.failcnt")?,
            oom_kills: self.oom_kills()?,
            swap: with_swap.saturating_sub(usage),
            stats: files::pairs(&text).map(|(key, value)| (key.to_owned(), value)).collect(),
        })
    }

    fn blkio_stats(&self) -> Result<Blkio, CgroupError> {
        let Some(dir) = self.dir("blkio") else { return Ok(Blkio::default()) };
        // BFQ counts in its own files when it schedules the device; otherwise the throttler counts.
        let table = |names: [&str; 2]| -> Result<Vec<BlkioEntry>, CgroupError> {
            for name in names {
                let entries = blkio_entries(&files::read(&dir.join(name))?.unwrap_or_default());
                if !entries.is_empty() {
                    return Ok(entries);
                }
            }
            Ok(Vec::new())
        };
        Ok(Blkio {
            service_bytes: table([
                "blkio.bfq.io_service_bytes_recursive",
                "blkio.throttle.io_service_bytes_recursive",
            ])?,
            serviced: table([
                "blkio.bfq.io_serviced_recursive",
                "blkio.throttle.io_serviced_recursive",
            ])?,
        })
    }
}

/// Settings being collected.
struct Settings<'a> {
    trees: &'a Trees,
    list: Vec<Setting>,
}

impl Settings<'_> {
    fn put(
        &mut self,
        controller: &str,
        file: &str,
        value: impl ToString,
    ) -> Result<(), CgroupError> {
        let file = self.trees.need(controller)?.join(file);
        self.list.push(Setting { file, value: value.to_string() });
        Ok(())
    }

    fn some(
        &mut self,
        controller: &str,
        file: &str,
        value: Option<impl ToString>,
    ) -> Result<(), CgroupError> {
        value.map_or(Ok(()), |value| self.put(controller, file, value))
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let set = |v: Option<i64>| v.filter(|&v| v != 0);
        // Without a limit, "unlimited swap" says nothing; runc sends both as -1.
        self.some("memory", "memory.limit_in_bytes", set(memory.limit()))?;
        self.some("memory", "memory.memsw.limit_in_bytes", set(memory.swap()))?;
        self.some("memory", "memory.soft_limit_in_bytes", set(memory.reservation()))?;
        if memory.disable_oom_killer() == Some(true) {
            self.put("memory", "memory.oom_control", 1)?;
        }
        // u64::MAX is -1 as Docker's command line sends it: leave it.
        let swappiness = memory.swappiness().filter(|&v| v != u64::MAX);
        if let Some(value) = swappiness {
            if value > 100 {
                return Err(CgroupError::Unsupported(format!(
                    "invalid memory swappiness value: {value} (valid range is 0-100)"
                )));
            }
            self.put("memory", "memory.swappiness", value)?;
        }
        self.some("memory", "memory.kmem.tcp.limit_in_bytes", set(memory.kernel_tcp()))
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        self.some("cpu", "cpu.shares", cpu.shares().filter(|&v| v != 0))?;
        self.some("cpu", "cpu.cfs_period_us", cpu.period().filter(|&v| v != 0))?;
        self.some("cpu", "cpu.cfs_quota_us", cpu.quota().filter(|&v| v != 0))?;
        self.some("cpu", "cpu.cfs_burst_us", cpu.burst())?;
        self.some("cpu", "cpu.rt_period_us", cpu.realtime_period().filter(|&v| v != 0))?;
        self.some("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime().filter(|&v| v != 0))?;
        self.some("cpu", "cpu.idle", cpu.idle())?;
        let text = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
        self.some("cpuset", "cpuset.cpus", text(cpu.cpus()))?;
        self.some("cpuset", "cpuset.mems", text(cpu.mems()))
    }

    fn block_io(&mut self, io: &LinuxBlockIo) -> Result<(), CgroupError> {
        let weight = self.weight_file();
        self.some("blkio", weight, io.weight().filter(|&v| v != 0))?;
        self.some("blkio", "blkio.leaf_weight", io.leaf_weight().filter(|&v| v != 0))?;
        for device in io.weight_device().iter().flatten() {
            let at = format!("{}:{}", device.major(), device.minor());
            let line = |w: u16| format!("{at} {w}");
            let file = format!("{weight}_device");
            self.some("blkio", &file, device.weight().map(line))?;
            self.some("blkio", "blkio.leaf_weight_device", device.leaf_weight().map(line))?;
        }
        let throttles = [
            (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
            (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
            (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
            (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device"),
        ];
        for (list, file) in throttles {
            for device in list.iter().flatten() {
                let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
                self.put("blkio", file, line)?;
            }
        }
        Ok(())
    }

    /// CFQ is gone from newer kernels; BFQ has its own file.
    fn weight_file(&self) -> &'static str {
        let root = self.trees.0.iter().find(|t| t.controllers.iter().any(|c| c == "blkio"));
        match root {
            Some(tree)
                if !tree.mount.join("blkio.weight").exists()
                    && tree.dir.parent().is_some_and(|p| !p.join("blkio.weight").exists()) =>
            {
                "blkio.bfq.weight"
            }
            _ => "blkio.weight",
        }
    }

    fn others(&mut self, resources: &LinuxResources) -> Result<(), CgroupError> {
        for page in resources.hugepage_limits().iter().flatten() {
            let file = format!("hugetlb.{}.limit_in_bytes", page.page_size());
            self.put("hugetlb", &file, page.limit())?;
        }
        if let Some(network) = resources.network() {
            self.some("net_cls", "net_cls.classid", network.class_id())?;
            for item in network.priorities().iter().flatten() {
                let line = format!("{} {}", item.name(), item.priority());
                self.put("net_prio", "net_prio.ifpriomap", line)?;
            }
        }
        for (device, limit) in resources.rdma().iter().flatten() {
            self.put("rdma", "rdma.max", super::v2::rdma_line(device, limit))?;
        }
        if resources.unified().as_ref().is_some_and(|map| !map.is_empty()) {
            return Err(CgroupError::Unsupported(
                "linux.resources.unified needs cgroup v2, and this host has v1".into(),
            ));
        }
        Ok(())
    }
}

/// A new cpuset has no processors and takes no process until it has: copy the parent's, from the
/// top of the tree down.
fn inherit_cpuset(mount: &Path, dir: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        if files::read(&file)?.is_some_and(|text| !text.trim().is_empty()) {
            continue;
        }
        let Some(parent) = dir.parent().filter(|parent| dir != mount && parent.starts_with(mount))
        else {
            return Ok(());
        };
        let mut value = files::read(&parent.join(name))?.unwrap_or_default();
        if value.trim().is_empty() {
            inherit_cpuset(mount, parent)?;
            value = files::read(&parent.join(name))?.unwrap_or_default();
        }
        files::write(&file, value.trim())?;
    }
    Ok(())
}

fn throttling(text: &str) -> Throttling {
    let mut out = Throttling::default();
    for (key, value) in files::pairs(text) {
        match key {
            "nr_periods" => out.periods = value,
            "nr_throttled" => out.throttled_periods = value,
            "throttled_time" => out.throttled_time = value,
            _ => (),
        }
    }
    out
}

/// Lines of `major:minor Operation count`; the closing `Total count` has no device.
fn blkio_entries(text: &str) -> Vec<BlkioEntry> {
    let one = |line: &str| {
        let mut parts = line.split_whitespace();
        let (major, minor) = parts.next()?.split_once(':')?;
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: parts.next()?.to_owned(),
            value: parts.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trees() -> Trees {
        let tree = |names: &str| Hierarchy {
            controllers: names.split(',').map(str::to_owned).collect(),
            mount: Path::new("/cg").join(names),
            own: "/own".into(),
        };
        let all = ["cpu,cpuacct", "cpuset", "memory", "devices", "pids", "blkio", "freezer"];
        Trees::at(&all.map(tree), "docker/x")
    }

    fn lines(json: &str) -> Vec<String> {
        let limits = trees().limits(&serde_json::from_str(json).unwrap()).unwrap();
        let show = |s: &Setting| {
            let file = s.file.strip_prefix("/cg").unwrap().display().to_string();
            format!("{} {}", file.replace("/own/docker/x", ""), s.value)
        };
        limits.settings.iter().map(show).collect()
    }

    #[test]
    fn relative_path_is_below_own_and_absolute_is_not() {
        let t = trees();
        assert_eq!(t.dir("memory"), Some(Path::new("/cg/memory/own/docker/x")));
        let h = Hierarchy {
            controllers: vec!["memory".into()],
            mount: "/m".into(),
            own: "/own".into(),
        };
        assert_eq!(Trees::at(&[h], "/a/../b").main_dir(), Path::new("/m/a/b"));
    }

    #[test]
    fn memory_limit_and_swap() {
        assert_eq!(
            lines(
                r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":524288,"swappiness":10}}"#
            ),
            [
                "memory/memory.limit_in_bytes 1048576",
                "memory/memory.memsw.limit_in_bytes 2097152",
                "memory/memory.soft_limit_in_bytes 524288",
                "memory/memory.swappiness 10",
            ]
        );
    }

    #[test]
    fn cpu_period_comes_before_quota() {
        assert_eq!(
            lines(r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0","mems":""}}"#),
            [
                "cpu,cpuacct/cpu.shares 512",
                "cpu,cpuacct/cpu.cfs_period_us 100000",
                "cpu,cpuacct/cpu.cfs_quota_us 50000",
                "cpuset/cpuset.cpus 0",
            ]
        );
    }

    #[test]
    fn unlimited_pids_and_throttles() {
        assert_eq!(lines(r#"{"pids":{"limit":-1}}"#), ["pids/pids.max max"]);
        assert_eq!(
            lines(r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}]}}"#),
            ["blkio/blkio.throttle.read_bps_device 8:0 1000"]
        );
    }

    #[test]
    fn what_v1_cannot_do_is_refused() {
        let unified = serde_json::from_str(r#"{"unified":{"memory.high":"1"}}"#).unwrap();
        assert!(trees().limits(&unified).is_err());
        let hugetlb =
            serde_json::from_str(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1}]}"#).unwrap();
        let error = trees().limits(&hugetlb).unwrap_err();
        assert_eq!(error.to_string(), "cgroup controller hugetlb is not mounted");
    }

    #[test]
    fn blkio_tables() {
        let entries = blkio_entries("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].op.as_str(), entries[0].value), ("Read", 4096));
    }
}
