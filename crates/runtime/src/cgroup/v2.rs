//! Control groups v2: one directory.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};
use serde::{Deserialize, Serialize};

use super::stats::{Blkio, BlkioEntry, Cpu, Memory, Pids, Stats};
use super::{CgroupError, Limits, Setting, devices, files};

/// The container's directory in the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    mount: PathBuf,
    pub(super) dir: PathBuf,
}

impl Tree {
    pub(super) fn at(mount: &Path, own: &Path, path: &str) -> Self {
        Self { mount: mount.to_owned(), dir: super::join(mount, own, path) }
    }

    /// The container's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the tree is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    pub(super) fn create(&self) -> Result<(), CgroupError> {
        fs::create_dir_all(&self.dir).map_err(files::failed("create", &self.dir))?;
        let below: Vec<&Path> =
            self.dir.ancestors().skip(1).take_while(|d| d.starts_with(&self.mount)).collect();
        for dir in below.into_iter().rev() {
            self.delegate(dir)?;
        }
        Ok(())
    }

    /// Passes every controller of a directory on to its children, one by one because one that
    /// cannot be passed on must not keep the others back.
    fn delegate(&self, dir: &Path) -> Result<(), CgroupError> {
        let have = files::read(&dir.join("cgroup.controllers"))?.unwrap_or_default();
        let control = dir.join("cgroup.subtree_control");
        let passed = files::read(&control)?.unwrap_or_default();
        let missing: Vec<&str> = have
            .split_whitespace()
            .filter(|c| !passed.split_whitespace().any(|p| p == *c))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
        if files::write(&control, &all.join(" ")).is_ok() {
            return Ok(());
        }
        for one in &all {
            // A controller that cannot be passed on is reported when a limit needs it.
            if let Err(error) = files::write(&control, one) {
                tracing::debug!(controller = %one, dir = %dir.display(), %error, "controller not delegated");
            }
        }
        Ok(())
    }

    pub(super) fn limits(&self, resources: &LinuxResources) -> Result<Limits, CgroupError> {
        let mut out = Settings { dir: &self.dir, list: Vec::new() };
        if let Some(memory) = resources.memory() {
            out.memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            out.cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            out.put("pids.max", limit(pids.limit()));
        }
        if let Some(io) = resources.block_io() {
            out.block_io(io);
        }
        for page in resources.hugepage_limits().iter().flatten() {
            out.put(&format!("hugetlb.{}.max", page.page_size()), page.limit());
        }
        for (device, limit) in resources.rdma().iter().flatten() {
            out.put("rdma.max", rdma_line(device, limit));
        }
        if resources.network().is_some() {
            return Err(CgroupError::Unsupported(
                "linux.resources.network (net_cls, net_prio) needs cgroup v1, and this host has v2"
                    .into(),
            ));
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || file.is_empty() {
                let problem = format!("linux.resources.unified: {file:?} is not a file name");
                return Err(CgroupError::Unsupported(problem));
            }
            out.put(file, value);
        }
        let devices = resources.devices().as_deref().map(devices::program).transpose()?;
        Ok(Limits { settings: out.list, devices })
    }

    pub(super) fn limit_devices(&self, program: &[u64]) -> Result<(), CgroupError> {
        let dir = fs::File::open(&self.dir).map_err(files::failed("open", &self.dir))?;
        wharf_sys::security::attach_device_program(dir.as_fd(), program)
            .map_err(files::failed("attach a device program to", &self.dir))
    }

    pub(super) fn freeze(&self, on: bool) -> Result<(), CgroupError> {
        let file = self.dir.join("cgroup.freeze");
        if !on && !file.exists() {
            return Ok(());
        }
        files::write(&file, if on { "1" } else { "0" })?;
        if !on {
            return Ok(());
        }
        let events = self.dir.join("cgroup.events");
        // cgroup.events notifies by inotify only from the next change on, which may have passed.
        for _ in 0..10_000 {
            if self.event("cgroup.events", "frozen")? == 1 {
                return Ok(());
            }
            wharf_sys::process::pause_for(Duration::from_micros(200));
        }
        files::write(&file, "0")?;
        Err(CgroupError::Unsupported(format!(
            "the processes of {} do not freeze: one of them is stuck in the kernel",
            events.display()
        )))
    }

    pub(super) fn is_frozen(&self) -> Result<bool, CgroupError> {
        Ok(self.event("cgroup.events", "frozen")? == 1)
    }

    /// Kills all at once where the kernel can (5.14); false where it cannot.
    pub(super) fn kill(&self) -> Result<bool, CgroupError> {
        let file = self.dir.join("cgroup.kill");
        match file.try_exists() {
            Ok(true) => files::write(&file, "1").map(|()| true),
            _ => Ok(false),
        }
    }

    pub(super) fn oom_events(&self) -> Result<OwnedFd, CgroupError> {
        use wharf_sys::fs::inotify;
        let file = self.dir.join("memory.events");
        let attempt = || -> io::Result<OwnedFd> {
            let watch =
                inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&watch, &file, inotify::WatchFlags::MODIFY)?;
            Ok(watch)
        };
        attempt().map_err(files::failed("watch", &file))
    }

    pub(super) fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.event("memory.events", "oom_kill")
    }

    fn event(&self, file: &str, key: &str) -> Result<u64, CgroupError> {
        let text = files::read(&self.dir.join(file))?.unwrap_or_default();
        Ok(files::pairs(&text).find(|(k, _)| *k == key).map_or(0, |(_, n)| n))
    }

    pub(super) fn stats(&self) -> Result<Stats, CgroupError> {
        let read = |name: &str| files::read(&self.dir.join(name)).map(Option::unwrap_or_default);
        let number = |name: &str| files::number(&self.dir.join(name));
        let memory = read("memory.stat")?;
        let (service_bytes, serviced) = io_entries(&read("io.stat")?);
        Ok(Stats {
            cpu: cpu_stats(&read("cpu.stat")?),
            memory: Memory {
                usage: number("memory.current")?.unwrap_or(0),
                max_usage: number("memory.peak")?.unwrap_or(0),
                limit: number("memory.max")?.unwrap_or(u64::MAX),
                failcnt: self.event("memory.events", "max")?,
                oom_kills: self.oom_kills()?,
                swap: number("memory.swap.current")?.unwrap_or(0),
                stats: files::pairs(&memory).map(|(k, v)| (k.to_owned(), v)).collect(),
            },
            blkio: Blkio { service_bytes, serviced },
            pids: Pids {
                current: number("pids.current")?.unwrap_or(0),
                limit: number("pids.max")?.filter(|&n| n != u64::MAX).unwrap_or(0),
            },
        })
    }
}

struct Settings<'a> {
    dir: &'a Path,
    list: Vec<Setting>,
}

impl Settings<'_> {
    fn put(&mut self, file: &str, value: impl ToString) {
        self.list.push(Setting { file: self.dir.join(file), value: value.to_string() });
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let max = memory.limit().filter(|&v| v != 0);
        if let Some(sum) = memory.swap().filter(|&v| v != 0) {
            self.put("memory.swap.max", swap_only(sum, max)?);
        }
        if let Some(max) = max {
            self.put("memory.max", limit(max));
        }
        if let Some(low) = memory.reservation().filter(|&v| v != 0) {
            self.put("memory.low", limit(low));
        }
        if memory.disable_oom_killer() == Some(true) {
            let problem = "memory.disableOOMKiller needs cgroup v1, and this host has v2";
            return Err(CgroupError::Unsupported(problem.into()));
        }
        // v2 has no swappiness per cgroup. Docker's command line always sends -1 for "unset";
        // anything else would be a wish not fulfilled.
        match memory.swappiness() {
            None | Some(u64::MAX) => Ok(()),
            Some(_) => Err(CgroupError::Unsupported(
                "memory.swappiness needs cgroup v1, and this host has v2".into(),
            )),
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        if let Some(idle) = cpu.idle() {
            self.put("cpu.idle", idle);
        }
        // An idle group has no weight: the kernel refuses one.
        if let Some(shares) = cpu.shares().filter(|&v| v != 0 && cpu.idle() != Some(1)) {
            self.put("cpu.weight", weight_of_shares(shares));
        }
        if cpu.quota().is_some_and(|q| q != 0) || cpu.period().is_some_and(|p| p != 0) {
            let quota = cpu.quota().filter(|&q| q > 0).map_or("max".into(), |q| q.to_string());
            match cpu.period().filter(|&p| p != 0) {
                Some(period) => self.put("cpu.max", format!("{quota} {period}")),
                None => self.put("cpu.max", quota),
            }
        }
        if let Some(burst) = cpu.burst() {
            self.put("cpu.max.burst", burst);
        }
        if cpu.realtime_period().is_some_and(|v| v != 0)
            || cpu.realtime_runtime().is_some_and(|v| v != 0)
        {
            let problem = "real-time cpu limits need cgroup v1, and this host has v2";
            return Err(CgroupError::Unsupported(problem.into()));
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                self.put(file, value);
            }
        }
        Ok(())
    }

    fn block_io(&mut self, io: &LinuxBlockIo) {
        if let Some(weight) = io.weight().filter(|&w| w != 0) {
            // BFQ takes Docker's range as it is; the general file has its own.
            if self.dir.parent().is_some_and(|p| p.join("io.bfq.weight").exists()) {
                self.put("io.bfq.weight", weight);
            } else {
                self.put("io.weight", weight_of_blkio(weight));
            }
        }
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let at = format!("{}:{}", device.major(), device.minor());
                self.put("io.bfq.weight", format!("{at} {weight}"));
            }
        }
        let throttles = [
            (io.throttle_read_bps_device(), "rbps"),
            (io.throttle_write_bps_device(), "wbps"),
            (io.throttle_read_iops_device(), "riops"),
            (io.throttle_write_iops_device(), "wiops"),
        ];
        for (list, key) in throttles {
            for device in list.iter().flatten() {
                let rate =
                    if device.rate() == 0 { "max".into() } else { device.rate().to_string() };
                self.put("io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()));
            }
        }
    }
}

fn limit(value: i64) -> String {
    if value > 0 { value.to_string() } else { "max".into() }
}

/// v1 limits memory and swap together, v2 limits swap alone.
fn swap_only(sum: i64, max: Option<i64>) -> Result<String, CgroupError> {
    match max {
        _ if sum == -1 => Ok("max".into()),
        Some(max) if max > 0 && sum >= max => Ok((sum - max).to_string()),
        Some(max) if max > 0 => Err(CgroupError::Unsupported(format!(
            "memory.swap ({sum}) is the sum of memory and swap and must not be less than memory.limit ({max})"
        ))),
        _ => Err(CgroupError::Unsupported(
            "memory.swap needs memory.limit: v2 limits swap without memory".into(),
        )),
    }
}

/// runc's older straight line from shares 2…262144 to weight 1…10000.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9999 / 990
}

pub(super) fn rdma_line(device: &str, limit: &LinuxRdma) -> String {
    let mut line = device.to_owned();
    for (key, value) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
        if let Some(value) = value {
            line.push_str(&format!(" {key}={value}"));
        }
    }
    line
}

fn cpu_stats(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    for (key, value) in files::pairs(text) {
        match key {
            "usage_usec" => cpu.total = value * 1000,
            "user_usec" => cpu.user = value * 1000,
            "system_usec" => cpu.system = value * 1000,
            "nr_periods" => cpu.throttling.periods = value,
            "nr_throttled" => cpu.throttling.throttled_periods = value,
            "throttled_usec" => cpu.throttling.throttled_time = value * 1000,
            _ => (),
        }
    }
    cpu
}

/// `io.stat` has a line per device with `key=value` pairs.
fn io_entries(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut count) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let Some((major, minor)) = parts.next().and_then(|at| at.split_once(':')) else { continue };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "read"),
                "wbytes" => (&mut bytes, "write"),
                "rios" => (&mut count, "read"),
                "wios" => (&mut count, "write"),
                _ => continue,
            };
            list.push(BlkioEntry {
                major: files::parse(major),
                minor: files::parse(minor),
                op: op.into(),
                value: files::parse(value),
            });
        }
    }
    (bytes, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory tree with the files a kernel would show.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("wharf-cg-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::io::Write::write_all(&mut fs::File::create(path).unwrap(), text.as_bytes())
                    .unwrap();
            }
            Self(root)
        }

        fn tree(&self) -> Tree {
            Tree::at(&self.0, Path::new("/"), "docker/x")
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn lines(json: &str) -> Vec<String> {
        let tree = Tree::at(Path::new("/cg"), Path::new("/"), "x");
        let limits = tree.limits(&serde_json::from_str(json).unwrap()).unwrap();
        let show =
            |s: &Setting| format!("{} {}", s.file.file_name().unwrap().to_str().unwrap(), s.value);
        limits.settings.iter().map(show).collect()
    }

    #[test]
    fn docker_memory_becomes_v2_memory() {
        assert_eq!(
            lines(r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#),
            ["memory.swap.max 200", "memory.max 100", "memory.low 50"]
        );
        assert_eq!(
            lines(r#"{"memory":{"limit":-1,"swap":-1}}"#),
            ["memory.swap.max max", "memory.max max"]
        );
    }

    #[test]
    fn cpu_shares_and_quota() {
        assert_eq!(
            lines(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"}}"#),
            ["cpu.weight 39", "cpu.max 50000 100000", "cpuset.cpus 0-1"]
        );
        assert_eq!(lines(r#"{"cpu":{"quota":-1}}"#), ["cpu.max max"]);
        assert_eq!((weight_of_shares(2), weight_of_shares(262_144)), (1, 10_000));
    }

    #[test]
    fn throttles_and_unified() {
        assert_eq!(
            lines(
                r#"{"blockIO":{"weight":500,"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":9}]},
                    "unified":{"memory.high":"7"}}"#
            ),
            ["io.weight 4950", "io.max 8:1 wiops=9", "memory.high 7"]
        );
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let tree = Tree::at(Path::new("/cg"), Path::new("/"), "x");
        let bad = serde_json::from_str(r#"{"memory":{"limit":200,"swap":100}}"#).unwrap();
        assert!(tree.limits(&bad).is_err());
    }

    #[test]
    fn create_delegates_from_the_top_down() {
        let fake = Fake::new(
            "create",
            &[
                ("cgroup.controllers", "cpu memory\n"),
                ("cgroup.subtree_control", "cpu\n"),
                ("docker/cgroup.controllers", "cpu memory\n"),
                ("docker/cgroup.subtree_control", ""),
            ],
        );
        fake.tree().create().unwrap();
        assert!(fake.text("cgroup.subtree_control").starts_with("+memory"));
        assert_eq!(fake.text("docker/cgroup.subtree_control"), "+cpu +memory");
        assert!(fake.tree().dir().is_dir());
    }

    #[test]
    fn account_is_read() {
        let fake = Fake::new(
            "stats",
            &[
                ("docker/x/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\n"),
                ("docker/x/memory.current", "4096\n"),
                ("docker/x/memory.max", "max\n"),
                ("docker/x/memory.stat", "anon 1\nfile 2\n"),
                ("docker/x/memory.events", "low 0\nmax 3\noom 1\noom_kill 2\n"),
                ("docker/x/io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n"),
                ("docker/x/pids.current", "7\n"),
                ("docker/x/pids.max", "100\n"),
                ("docker/x/cgroup.events", "populated 1\nfrozen 1\n"),
                ("docker/x/cgroup.procs", "11\n12\n"),
            ],
        );
        let stats = fake.tree().stats().unwrap();
        assert_eq!((stats.cpu.total, stats.cpu.throttling.throttled_periods), (5000, 1));
        assert_eq!((stats.memory.usage, stats.memory.limit), (4096, u64::MAX));
        assert_eq!((stats.memory.oom_kills, stats.memory.failcnt), (2, 3));
        assert_eq!(stats.memory.stats["file"], 2);
        assert_eq!(stats.blkio.service_bytes[1].value, 20);
        assert_eq!((stats.pids.current, stats.pids.limit), (7, 100));
        assert!(fake.tree().is_frozen().unwrap());
        assert_eq!(super::super::Cgroup::V2(fake.tree()).pids().unwrap(), [11, 12]);
    }
}
