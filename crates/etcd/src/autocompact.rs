//! Forgetting history by itself, as etcd's `--auto-compaction` flags say.

use crate::embedded::Embedded;
use crate::kv::Revision;
use crate::store::Store as _;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// What was superseded in this time.
    Time(Duration),
    /// So many revisions.
    Revisions(i64),
}

/// How often revisions are counted (as etcd does it), and the longest between two looks at the clock.
const COUNTED: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// Looks at the store now and then, and says what can be forgotten.
struct Compactor {
    retention: Retention,
    /// When the store was where.
    seen: VecDeque<(Instant, Revision)>,
    compacted: Revision,
}

impl Compactor {
    fn new(retention: Retention) -> Compactor {
        Compactor { retention, seen: VecDeque::new(), compacted: Revision(0) }
    }

    /// Between two looks: a tenth of the time that is kept, or of an hour where that is less.
    fn interval(&self) -> Duration {
        match self.retention {
            Retention::Time(time) => (time.min(HOUR) / 10).max(Duration::from_millis(100)),
            Retention::Revisions(_) => COUNTED,
        }
    }

    /// The store is at `revision`: what may be forgotten now, if that is news.
    fn look(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        let due = match self.retention {
            Retention::Revisions(n) => Revision(revision.0 - n),
            Retention::Time(time) => {
                self.seen.push_back((now, revision));
                let mut due = Revision(0);
                while let Some((at, revision)) = self.seen.front().copied()
                    && now.duration_since(at) >= time
                {
                    due = revision;
                    self.seen.pop_front();
                }
                due
            }
        };
        if due <= self.compacted || due.0 <= 0 {
            return None;
        }
        self.compacted = due;
        Some(due)
    }
}

/// Compacts `store` as `retention` says, until the future is dropped.
pub async fn run(store: Embedded, retention: Retention) {
    let mut compactor = Compactor::new(retention);
    loop {
        let Ok(revision) = store.revision().await else { return };
        if let Some(due) = compactor.look(Instant::now(), revision) {
            match store.compact(due).await {
                Ok(()) => tracing::info!(revision = %due, "compacted by itself"),
                Err(e) => tracing::warn!(error = %e, revision = %due, "history was not compacted"),
            }
        }
        tokio::time::sleep(compactor.interval()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_time_kept_is_forgotten_once() {
        let mut c = Compactor::new(Retention::Time(Duration::from_secs(10)));
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        assert_eq!(c.interval(), Duration::from_secs(1));
        assert_eq!(c.look(at(0), Revision(5)), None);
        assert_eq!(c.look(at(5), Revision(8)), None);
        assert_eq!(c.look(at(10), Revision(9)), Some(Revision(5)));
        assert_eq!(c.look(at(11), Revision(9)), None);
        assert_eq!(c.look(at(30), Revision(9)), Some(Revision(9)));
        assert_eq!(c.look(at(60), Revision(9)), None, "an idle store is left alone");
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let mut c = Compactor::new(Retention::Revisions(100));
        let now = Instant::now();
        assert_eq!(c.look(now, Revision(50)), None);
        assert_eq!(c.look(now, Revision(150)), Some(Revision(50)));
        assert_eq!(c.look(now, Revision(150)), None);
    }
}
