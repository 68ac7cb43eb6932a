//! `docker update`: limits and restart policy of an existing container.

use std::sync::Arc;

use wharf_spec::docker::{self, Resources};

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::record::{self, Record};
use crate::restart::Policy;
use crate::spec::{devices, resources};
use crate::state::State;

impl Inner {
    pub(crate) async fn update(
        self: &Arc<Self>,
        c: &Arc<Container>,
        request: docker::UpdateRequest,
    ) -> Result<Vec<String>> {
        let _turn = c.turn.lock().await;
        if matches!(c.state(), State::Removing(_) | State::Dead(_)) {
            return Err(EngineError::conflict(
                "container is marked for removal and cannot be \"update\".",
            ));
        }
        let mut record = Record::clone(&c.record());
        merge(&mut record.host.resources, &request.resources)?;
        let unlimited_pids = request.resources.pids_limit.is_some_and(|n| n <= 0);
        let warnings = resources::validate(&record.host.resources, self.facts.cgroup_v2)?;
        let policy = &request.restart_policy;
        if !policy.name.is_empty() {
            let parsed = Policy::parse(&policy.name, policy.maximum_retry_count)?;
            if record.host.auto_remove && parsed.is_active() {
                return Err(EngineError::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            record.host.restart_policy = policy.clone();
        }
        if c.state().run().is_some() {
            let of = record.clone();
            self.blocking(move |inner| inner.apply_limits(&of, unlimited_pids)).await?;
        }
        record::store(&self.db, &record, &c.life())?;
        c.with(|core| core.record = Arc::new(record));
        self.emit(&c.record(), "update", &[]);
        Ok(warnings)
    }

    /// To the running container's cgroup; its device rules stay. `unlimited_pids`: a limit that there may be goes.
    fn apply_limits(&self, record: &Record, unlimited_pids: bool) -> Result<()> {
        let mut host = record.host.resources.clone();
        if unlimited_pids {
            host.pids_limit = Some(-1);
        }
        let r = resources::resources(&host, Vec::new(), &devices::block_number)?;
        self.cgroup(record).apply(&r).map_err(|e| {
            EngineError::invalid(format!("Cannot update container {}", record.id)).because(e)
        })
    }
}

/// Zero values leave what is set, as in Docker.
fn merge(own: &mut Resources, new: &Resources) -> Result<()> {
    let numbers = [
        (&mut own.cpu_shares, new.cpu_shares),
        (&mut own.memory, new.memory),
        (&mut own.cpu_period, new.cpu_period),
        (&mut own.cpu_quota, new.cpu_quota),
        (&mut own.cpu_realtime_period, new.cpu_realtime_period),
        (&mut own.cpu_realtime_runtime, new.cpu_realtime_runtime),
        (&mut own.memory_reservation, new.memory_reservation),
        (&mut own.memory_swap, new.memory_swap),
    ];
    if new.nano_cpus != 0 && (new.cpu_period != 0 || new.cpu_quota != 0) {
        return Err(EngineError::conflict(
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    for (mine, theirs) in numbers {
        if theirs != 0 {
            *mine = theirs;
        }
    }
    if new.nano_cpus != 0 {
        (own.nano_cpus, own.cpu_period, own.cpu_quota) = (new.nano_cpus, 0, 0);
    } else if new.cpu_period != 0 || new.cpu_quota != 0 {
        own.nano_cpus = 0;
    }
    if new.blkio_weight != 0 {
        own.blkio_weight = new.blkio_weight;
    }
    if let Some(limit) = new.pids_limit {
        own.pids_limit = Some(limit.max(0));
    }
    for (mine, theirs) in
        [(&mut own.cpuset_cpus, &new.cpuset_cpus), (&mut own.cpuset_mems, &new.cpuset_mems)]
    {
        if !theirs.is_empty() {
            mine.clone_from(theirs);
        }
    }
    // Memory alone raised above the swap limit would be a contradiction that the user did not ask for.
    if new.memory > 0 && new.memory_swap == 0 && own.memory_swap > 0 && own.memory > own.memory_swap
    {
        return Err(EngineError::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_leaves_and_contradictions_are_refused() {
        let mut own = Resources {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            cpu_shares: 5,
            ..Default::default()
        };
        merge(&mut own, &Resources { memory: 96 << 20, ..Default::default() }).unwrap();
        assert_eq!((own.memory, own.cpu_shares), (96 << 20, 5));
        assert!(merge(&mut own, &Resources { memory: 256 << 20, ..Default::default() }).is_err());
        own.cpu_quota = 5000;
        merge(&mut own, &Resources { nano_cpus: 1, ..Default::default() }).unwrap();
        assert_eq!((own.nano_cpus, own.cpu_quota), (1, 0));
    }
}
