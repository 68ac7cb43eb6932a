//! Housekeeping while the registry runs: blobs that nothing needs, uploads that nobody goes on with.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Registry;
use crate::answer::Inner;

/// What a round of housekeeping did, and when the next has something to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// Blobs removed.
    removed: usize,
    /// Seconds from now until something is due; `None` while there is nothing that could be.
    next: Option<i64>,
}

impl Registry {
    /// Keeps house until `shutdown`. Sleeps until something is due, and for ever while nothing is.
    pub(crate) async fn keep_house(self, shutdown: CancellationToken) {
        loop {
            let registry = self.clone();
            let round = tokio::task::spawn_blocking(move || registry.0.round()).await;
            let next = round.map(|round| round.next).unwrap_or_default();
            let wait = next.map(|next| Duration::from_secs(u64::try_from(next).unwrap_or(0)));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = pause(wait) => (),
                // Something new may be due earlier. It is never due at once, unless the grace is nothing.
                () = self.0.stirred.notified() => (),
            }
        }
    }
}

/// At least a second, so that a clock that stands does not make a loop.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait.max(Duration::from_secs(1))).await,
        None => std::future::pending().await,
    }
}

impl Inner {
    fn round(&self) -> Round {
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        let (grace, lifetime) =
            (seconds(self.settings.grace), seconds(self.settings.upload_lifetime));
        let now = self.now();
        self.uploads.expire(now.saturating_sub(lifetime));
        let mut round = Round::default();
        let mut due = self.uploads.oldest().map(|oldest| oldest.saturating_add(lifetime));
        for (repository, digest, since) in self.shelves.garbage() {
            let end = since.saturating_add(grace);
            if end > now {
                due = Some(due.map_or(end, |due| due.min(end)));
                continue;
            }
            match self.shelves.discard(&repository, &digest, since) {
                Ok(true) => round.removed += 1,
                // Somebody needs it after all, or will be asked about again.
                Ok(false) => (),
                Err(error) => {
                    let error = wharf_base::error::chain(&error).to_string();
                    tracing::error!(error, %digest, "garbage cannot be removed");
                }
            }
        }
        if round.removed > 0 {
            tracing::info!(blobs = round.removed, "garbage removed");
        }
        round.next = due.map(|due| due.saturating_sub(now).max(0));
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::tests::{Fixture, config_and_layer};

    #[tokio::test]
    async fn garbage_goes_after_its_grace_and_not_what_somebody_asks_for() {
        let fixture = Fixture::new(|settings| settings.grace = Duration::from_secs(100));
        let round = || fixture.registry.0.round();
        assert_eq!(round(), Round::default());
        let (config, layer) = config_and_layer();
        let digest = fixture.push_image("a", "1", &config, &layer).await;
        fixture.push_blob("a", b"stray").await;
        assert_eq!(round(), Round { removed: 0, next: Some(100) });
        fixture.clock.advance(Duration::from_secs(99));
        assert_eq!(round(), Round { removed: 0, next: Some(1) });
        fixture
            .expect(
                "HEAD",
                &format!("/v2/a/blobs/{}", wharf_spec::digest::Digest::sha256(b"stray")),
                200,
            )
            .await;
        fixture.clock.advance(Duration::from_secs(1));
        assert_eq!(round(), Round { removed: 0, next: Some(99) }, "the question renewed it");
        fixture.clock.advance(Duration::from_secs(99));
        assert_eq!(round(), Round { removed: 1, next: None });
        fixture.expect("DELETE", &format!("/v2/a/manifests/{digest}"), 202).await;
        assert_eq!(round(), Round { removed: 0, next: Some(100) });
        fixture.clock.advance(Duration::from_secs(100));
        assert_eq!(round(), Round { removed: 2, next: None });
        assert_eq!(fixture.blobs_on_disk(), 0);
    }

    #[tokio::test]
    async fn abandoned_uploads_go() {
        let fixture = Fixture::new(|settings| settings.upload_lifetime = Duration::from_secs(50));
        let answer = fixture.expect("POST", "/v2/a/blobs/uploads/", 202).await;
        let location = answer.header("location");
        assert_eq!(fixture.registry.0.round().next, Some(50));
        fixture.clock.advance(Duration::from_secs(50));
        assert_eq!(fixture.registry.0.round(), Round::default());
        fixture.expect("GET", &location, 404).await;
    }
}
