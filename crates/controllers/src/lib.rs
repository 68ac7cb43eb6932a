//! The loops that move a cluster towards what its objects say, one file each.
//!
//! All of them read one [`world::World`], which one stream of changes feeds. A loop is woken with the names of
//! what changed, compares what is with what should be, and writes only where they differ; the same step does the
//! same thing after a restart. Each acts under its own name, so that roles and the audit log hold for it.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod aggregation;
pub mod certificates;
pub mod choice;
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
pub use choice::Choice;

/// What the loops need to know that is in no object.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who signs certificates; nothing leaves that to others.
    pub authority: Option<Authority>,
    /// The loops that run. It says nothing of those of nodes without a runtime, nor of what belongs to the API itself.
    pub controllers: Choice,
    /// Nodes without a runtime to pretend; with any, pods are scheduled here as well.
    pub fake_nodes: usize,
    /// The authority's certificate, in PEM, which every namespace gets.
    pub root: String,
}

/// Starts the loops. They end when the set is dropped.
pub fn start(cluster: &Arc<dyn Cluster>, settings: &Settings) -> JoinSet<()> {
    let has = |(name, l): (&str, Arc<dyn Loop>)| settings.controllers.has(name).then_some(l);
    let mut loops: Vec<Arc<dyn Loop>> = named(settings).into_iter().filter_map(has).collect();
    loops.extend(shared(settings));
    // The API server of Kubernetes does this itself.
    loops.push(Arc::new(flows::Flows));
    if settings.fake_nodes > 0 {
        loops.push(Arc::new(fake::FakeNodes::new(settings.fake_nodes)));
        loops.push(Arc::new(fake::FakePods::default()));
        loops.push(Arc::new(schedule::Scheduler::default()));
    }
    run::start(cluster, loops)
}

/// The loops that are one controller each.
fn named(settings: &Settings) -> Vec<(&'static str, Arc<dyn Loop>)> {
    vec![
        ("serviceaccount-controller", Arc::new(accounts::Accounts)),
        (
            "root-ca-certificate-publisher-controller",
            Arc::new(roots::Roots::new(settings.root.clone())),
        ),
        ("namespace-controller", Arc::new(endings::Endings)),
        ("garbage-collector-controller", Arc::new(collector::Collector)),
        ("clusterrole-aggregation-controller", Arc::new(aggregation::Aggregation)),
        ("resourcequota-controller", Arc::new(quotas::Quotas)),
        ("validatingadmissionpolicy-status-controller", Arc::new(policies::Policies)),
        ("persistentvolumeclaim-protection-controller", Arc::new(protection::Claims)),
        ("persistentvolume-protection-controller", Arc::new(protection::Volumes)),
        ("ephemeral-volume-controller", Arc::new(protection::Ephemeral)),
        ("persistentvolume-binder-controller", Arc::new(volumes::Binder)),
        ("pod-garbage-collector-controller", Arc::<podgc::Leftovers>::default()),
        ("ttl-after-finished-controller", Arc::new(ttl::Finished)),
        ("token-cleaner-controller", Arc::new(ttl::Tokens)),
        ("serviceaccount-token-controller", Arc::new(tokens::AccountTokens::new(&settings.root))),
        ("horizontal-pod-autoscaler-controller", Arc::<scaling::Autoscalers>::default()),
        ("replicaset-controller", Arc::new(replicas::Replicas::sets())),
        ("replicationcontroller-controller", Arc::new(replicas::Replicas::controllers())),
        ("deployment-controller", Arc::new(deployments::Deployments)),
        ("job-controller", Arc::new(jobs::Jobs)),
        ("cronjob-controller", Arc::new(cron::CronJobs)),
        ("daemonset-controller", Arc::<daemons::DaemonSets>::default()),
        ("statefulset-controller", Arc::new(stateful::StatefulSets)),
        ("disruption-controller", Arc::new(disruption::Budgets)),
        ("endpointslice-controller", Arc::new(endpoints::Slices)),
        ("endpoints-controller", Arc::new(endpoints::Endpoints)),
        ("endpointslice-mirroring-controller", Arc::new(endpoints::Mirrors)),
    ]
}

/// The loops that are several controllers in one.
fn shared(settings: &Settings) -> Vec<Arc<dyn Loop>> {
    let has = |name: &str| settings.controllers.has(name);
    let certificates = certificates::Certificates {
        approves: has("certificatesigningrequest-approving-controller"),
        signs: has("certificatesigningrequest-signing-controller")
            .then(|| settings.authority.clone())
            .flatten(),
        cleans: has("certificatesigningrequest-cleaner-controller"),
    };
    let nodes = nodes::Nodes {
        judges: has("node-lifecycle-controller"),
        evicts: has("taint-eviction-controller"),
    };
    vec![Arc::new(certificates), Arc::new(nodes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_controller_can_be_named() {
        let mut ours: BTreeSet<&str> =
            named(&Settings::default()).iter().map(|(n, _)| *n).collect();
        for part in ["approving", "cleaner", "signing"] {
            let name = format!("certificatesigningrequest-{part}-controller");
            ours.extend(choice::names().find(|n| *n == name));
        }
        ours.extend(["node-lifecycle-controller", "taint-eviction-controller"]);
        assert_eq!(ours, choice::names().collect());
    }
}
