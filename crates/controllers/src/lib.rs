//! The loops that move a cluster towards what its objects say, one file each.
//!
//! All of them read one [`world::World`], which one stream of changes feeds. A loop is woken with the names of
//! what changed, compares what is with what should be, and writes only where they differ; the same step does the
//! same thing after a restart. Each acts under its own name, so that roles and the audit log hold for it.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod aggregation;
pub mod certificates;
pub mod collector;
pub mod cron;
pub mod daemons;
pub mod deployments;
pub mod disruption;
pub mod endings;
pub mod endpoints;
mod events;
pub mod fake;
pub mod flows;
pub mod graph;
pub mod jobs;
pub mod nodes;
pub mod object;
pub mod podgc;
mod pods;
pub mod policies;
pub mod protection;
pub mod quotas;
pub mod replicas;
pub mod roots;
pub mod run;
pub mod scaling;
pub mod schedule;
mod sets;
pub mod stateful;
pub mod tokens;
pub mod ttl;
pub mod volumes;
pub mod world;

use run::Loop;
use std::sync::Arc;
use tokio::task::JoinSet;
use wharf_client::Cluster;

pub use certificates::Authority;

/// What the loops need to know that is in no object.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who signs certificates; nothing leaves that to others.
    pub authority: Option<Authority>,
    /// Nodes without a runtime to pretend; with any, pods are scheduled here as well.
    pub fake_nodes: usize,
    /// The authority's certificate, in PEM, which every namespace gets.
    pub root: String,
}

/// Starts the loops. They end when the set is dropped.
pub fn start(cluster: &Arc<dyn Cluster>, settings: &Settings) -> JoinSet<()> {
    let mut loops: Vec<Arc<dyn Loop>> = vec![
        Arc::new(accounts::Accounts),
        Arc::new(roots::Roots::new(settings.root.clone())),
        Arc::new(endings::Endings),
        Arc::new(collector::Collector),
        Arc::new(aggregation::Aggregation),
        Arc::new(quotas::Quotas),
        Arc::new(certificates::Certificates::new(settings.authority.clone())),
        Arc::new(nodes::Nodes),
        Arc::new(flows::Flows),
        Arc::new(policies::Policies),
        Arc::new(protection::Claims),
        Arc::new(protection::Volumes),
        Arc::new(protection::Ephemeral),
        Arc::new(volumes::Binder),
        Arc::<podgc::Leftovers>::default(),
        Arc::new(ttl::Finished),
        Arc::new(ttl::Tokens),
        Arc::new(tokens::AccountTokens::new(&settings.root)),
        Arc::<scaling::Autoscalers>::default(),
        Arc::new(replicas::Replicas::sets()),
        Arc::new(replicas::Replicas::controllers()),
        Arc::new(deployments::Deployments),
        Arc::new(jobs::Jobs),
        Arc::new(cron::CronJobs),
        Arc::<daemons::DaemonSets>::default(),
        Arc::new(stateful::StatefulSets),
        Arc::new(disruption::Budgets),
        Arc::new(endpoints::Slices),
        Arc::new(endpoints::Endpoints),
        Arc::new(endpoints::Mirrors),
    ];
    if settings.fake_nodes > 0 {
        loops.push(Arc::new(fake::FakeNodes::new(settings.fake_nodes)));
        loops.push(Arc::new(fake::FakePods::default()));
        loops.push(Arc::new(schedule::Scheduler::default()));
    }
    run::start(cluster, loops)
}
