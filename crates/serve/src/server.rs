//! A door with its listeners, from start to the last answer.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Door;
use crate::listen::Listener;

/// Serves `door` on every listener until `shutdown`; then lets requests in progress finish for at most `grace`.
///
/// Streams that never end (events, followed logs, attached sessions) are cut at shutdown.
pub async fn serve(
    door: Arc<Door>,
    listeners: Vec<Listener>,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let tasks = TaskTracker::new();
    let accepting = TaskTracker::new();
    for listener in listeners {
        accepting.spawn(listener.run(door.clone(), tasks.clone(), shutdown.clone()));
    }
    accepting.close();
    accepting.wait().await;
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "clients cut off at shutdown");
    }
}
