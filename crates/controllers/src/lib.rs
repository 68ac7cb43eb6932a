//! The loops that move a cluster towards what its objects say, one file each.
//!
//! All of them read one [`world::World`], which one stream of changes feeds. A loop is woken with the names of
//! what changed, compares what is with what should be, and writes only where they differ; the same step does the
//! same thing after a restart. Each acts under its own name, so that roles and the audit log hold for it.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod collector;
pub mod endings;
pub mod graph;
pub mod object;
pub mod roots;
pub mod run;
pub mod world;

use run::Loop;
use std::sync::Arc;
use tokio::task::JoinSet;
use wharf_client::Cluster;

/// What the loops need to know that is in no object.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The authority's certificate, in PEM, which every namespace gets.
    pub root: String,
}

/// Starts the loops. They end when the set is dropped.
pub fn start(cluster: &Arc<dyn Cluster>, settings: &Settings) -> JoinSet<()> {
    let loops: Vec<Arc<dyn Loop>> = vec![
        Arc::new(accounts::Accounts),
        Arc::new(roots::Roots::new(settings.root.clone())),
        Arc::new(endings::Endings),
        Arc::new(collector::Collector),
    ];
    run::start(cluster, loops)
}
