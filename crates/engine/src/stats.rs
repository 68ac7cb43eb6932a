//! Resource use: the cgroup's account and the network's counters, sampled as Docker does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use wharf_runtime::cgroup;
use wharf_spec::docker;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::options::StatsOptions;

const PERIOD: Duration = Duration::from_secs(1);

/// What a stream of samples remembers.
struct Sampler {
    inner: Arc<Inner>,
    container: Arc<Container>,
    options: StatsOptions,
    before: Option<docker::Stats>,
    done: bool,
    beat: tokio::time::Interval,
}

impl Inner {
    pub(crate) fn stats(
        self: &Arc<Self>,
        container: Arc<Container>,
        options: StatsOptions,
    ) -> Result<impl Stream<Item = docker::Stats> + Send + 'static + use<>> {
        if options.stream && options.one_shot {
            return Err(EngineError::invalid("cannot have stream=true and one-shot=true"));
        }
        let mut beat = tokio::time::interval(PERIOD);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let inner = self.clone();
        let sampler = Sampler { inner, container, options, before: None, done: false, beat };
        Ok(stream::unfold(sampler, Sampler::next))
    }

    /// One reading; blank but for name and id where nothing runs.
    fn sample(&self, c: &Container) -> docker::Stats {
        let record = c.record();
        let blank = docker::Stats {
            name: format!("/{}", record.name),
            id: record.id.to_string(),
            read: docker::ZERO_TIME.into(),
            preread: docker::ZERO_TIME.into(),
            ..docker::Stats::default()
        };
        if c.state().run().is_none() {
            return blank;
        }
        // A container that ends meanwhile has no cgroup any more.
        let Ok(used) = self.cgroup(&record).stats() else { return blank };
        docker::Stats {
            read: docker::rfc3339(self.clock.unix_nanos()),
            pids_stats: docker::PidsStats { current: used.pids.current, limit: used.pids.limit },
            blkio_stats: blkio(&used.blkio, self.facts.cgroup_v2),
            cpu_stats: self.cpu(&used.cpu),
            memory_stats: memory(used.memory, self.facts.cgroup_v2),
            networks: self.traffic(c),
            ..blank
        }
    }

    fn cpu(&self, used: &cgroup::Cpu) -> docker::CpuStats {
        docker::CpuStats {
            cpu_usage: docker::CpuUsage {
                total_usage: used.total,
                percpu_usage: (!used.per_cpu.is_empty()).then(|| used.per_cpu.clone()),
                usage_in_kernelmode: used.system,
                usage_in_usermode: used.user,
            },
            system_cpu_usage: host_cpu_time(),
            online_cpus: u32::try_from(self.facts.cpus).unwrap_or(u32::MAX),
            throttling_data: docker::ThrottlingData {
                periods: used.throttling.periods,
                throttled_periods: used.throttling.throttled_periods,
                throttled_time: used.throttling.throttled_time,
            },
        }
    }

    fn traffic(&self, c: &Container) -> Option<docker::Map<docker::NetworkStats>> {
        let counters = self.net.stats(&c.id).ok()?;
        let one = |s: wharf_net::InterfaceStats| {
            let counts = docker::NetworkStats {
                rx_bytes: s.rx_bytes,
                rx_packets: s.rx_packets,
                rx_errors: s.rx_errors,
                rx_dropped: s.rx_dropped,
                tx_bytes: s.tx_bytes,
                tx_packets: s.tx_packets,
                tx_errors: s.tx_errors,
                tx_dropped: s.tx_dropped,
            };
            (s.ifname, counts)
        };
        Some(counters.into_iter().map(one).collect())
    }
}

impl Sampler {
    /// Streaming: a sample each second. Single: the second of two, so that there is one to compare
    /// with, unless one shot is enough.
    async fn next(mut self) -> Option<(docker::Stats, Sampler)> {
        if self.done || self.container.subscribe().borrow().removed {
            return None;
        }
        let mut now = self.read().await?;
        let alive = self.container.state().run().is_some();
        if !self.options.stream && !self.options.one_shot && alive {
            self.before = Some(now);
            now = self.read().await?;
        }
        if let Some(before) = self.before.take() {
            now.preread = before.read;
            now.precpu_stats = before.cpu_stats;
        }
        self.done = !self.options.stream;
        self.before = Some(now.clone());
        Some((now, self))
    }

    async fn read(&mut self) -> Option<docker::Stats> {
        self.beat.tick().await;
        let c = self.container.clone();
        self.inner.blocking(move |inner| Ok(inner.sample(&c))).await.ok()
    }
}

fn memory(used: cgroup::Memory, v2: bool) -> docker::MemoryStats {
    let host = host_memory();
    docker::MemoryStats {
        usage: used.usage,
        max_usage: if v2 { 0 } else { used.max_usage },
        stats: Some(used.stats),
        failcnt: used.failcnt,
        // Without a limit of its own the container may use what the host has.
        limit: used.limit.min(host),
    }
}

fn blkio(used: &cgroup::Blkio, v2: bool) -> docker::BlkioStats {
    let list = |entries: &[cgroup::BlkioEntry]| {
        let one = |e: &cgroup::BlkioEntry| docker::BlkioEntry {
            major: e.major,
            minor: e.minor,
            op: e.op.to_lowercase(),
            value: e.value,
        };
        Some(entries.iter().map(one).collect::<Vec<_>>())
    };
    let rest = || if v2 { None } else { Some(Vec::new()) };
    docker::BlkioStats {
        io_service_bytes_recursive: list(&used.service_bytes),
        io_serviced_recursive: if v2 { None } else { list(&used.serviced) },
        io_queue_recursive: rest(),
        io_service_time_recursive: rest(),
        io_wait_time_recursive: rest(),
        io_merged_recursive: rest(),
        io_time_recursive: rest(),
        sectors_recursive: rest(),
    }
}

/// Nanoseconds that all processors have spent, as `/proc/stat` counts them in hundredths of a second.
fn host_cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks = line.split_whitespace().skip(1).take(7).filter_map(|n| n.parse::<u64>().ok());
    ticks.sum::<u64>().saturating_mul(10_000_000)
}

fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |n| n << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_limit_of_who_has_none() {
        let used = cgroup::Memory { limit: u64::MAX, usage: 5, ..Default::default() };
        let m = memory(used, true);
        assert!(m.limit < u64::MAX && m.limit > 0);
        assert!(host_cpu_time() > 0);
    }
}
