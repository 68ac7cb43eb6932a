//! Gives memory back when nothing has been asked of the daemon for a while.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::Notify;

/// How long it has to be quiet. By then the threads for what blocks have gone too.
const QUIET: Duration = Duration::from_secs(3);

/// Rests once in each lull of all `doors`, of which there is at least one. A daemon that nobody talks to is not woken
/// by this.
pub(super) async fn watch(doors: Vec<Arc<Notify>>) {
    let traffic = || select_all(doors.iter().map(|door| Box::pin(door.notified())));
    loop {
        while tokio::time::timeout(QUIET, traffic()).await.is_ok() {}
        wharf_sys::daemon::rest();
        traffic().await;
    }
}
