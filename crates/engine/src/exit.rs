//! The end of a container: noticed, recorded, told, and answered by its restart policy.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_keeper::Exit;
use wharf_keeper::client::{Attachment, Event, Watch};
use wharf_keeper::protocol::Detached;

use crate::container::Container;
use crate::inner::Inner;
use crate::record;
use crate::start::Starter;

impl Inner {
    /// Follows a running container to its end, in a task of its own.
    pub(crate) fn watch_container(self: &Arc<Self>, c: &Arc<Container>, watch: Watch) {
        let (inner, c) = (self.clone(), c.clone());
        self.spawn(async move {
            let exit = inner.await_exit(&c, watch).await;
            // To the end even if the daemon stops meanwhile: half an end would be repaired, but a whole one is better.
            let worker = inner.clone();
            drop(inner.tasks.spawn(async move { worker.ended(&c, exit).await }).await);
        });
    }

    async fn await_exit(self: &Arc<Self>, c: &Arc<Container>, mut watch: Watch) -> Exit {
        loop {
            match watch.next().await {
                Ok(Event::Oom) => self.emit(&c.record(), "oom", &[]),
                Ok(Event::Exited(exit)) => return exit,
                Err(e) => {
                    tracing::warn!(container = %c.id, error = %e, "keeper is gone, ending its container");
                    return self.bury(c).await;
                }
            }
        }
    }

    /// Ends a container whose keeper was killed.
    pub(crate) async fn bury(self: &Arc<Self>, c: &Arc<Container>) -> Exit {
        let dir = self.run_dir(&c.id);
        let cgroup = self.cgroup(&c.record());
        let buried = self
            .blocking(move |inner| {
                let buried = wharf_keeper::client::bury(&dir, &inner.clock).and_then(|exit| {
                    // The keeper may have died before it noted the cgroup that it had made.
                    wharf_keeper::client::bury_unborn(&cgroup).map(|()| exit)
                });
                Ok(buried.unwrap_or_else(|e| {
                    let error = wharf_base::error::chain(&e).to_string();
                    tracing::error!(dir = %dir.display(), error, "container without keeper was not ended");
                    None
                }))
            })
            .await;
        let unknown = Exit { code: 137, signal: Some(9), oom: false, at: self.clock.unix_nanos() };
        buried.ok().flatten().unwrap_or(unknown)
    }

    /// Records the end and does what follows from it.
    pub(crate) async fn ended(self: &Arc<Self>, c: &Arc<Container>, exit: Exit) {
        let _turn = c.turn.lock().await;
        let Some(run) = c.state().run() else { return };
        let record = c.record();
        let (inner, of) = (self.clone(), record.clone());
        // Addresses and ports are free again before anyone hears of the end.
        drop(tokio::task::spawn_blocking(move || inner.clean_up(&of)).await);
        let ran = Duration::from_nanos(u64::try_from(exit.at - run.started).unwrap_or(0));
        let (life, keeper, delay, keep) = c.with(|core| {
            let state = std::mem::take(&mut core.life.state);
            core.life.state = state.exited(exit.code, exit.oom, exit.at);
            let stopped = core.life.stopped_by_user;
            let delay = core.restarts.after_exit(record.policy(), exit.code, ran, stopped);
            if let Some(delay) = delay {
                let pause = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
                core.life.due = exit.at.saturating_add(pause);
                core.life.state = std::mem::take(&mut core.life.state).will_restart();
                core.life.restarts = core.restarts.count();
            }
            core.health = None;
            (core.life.clone(), core.keeper.take(), delay, core.keep_once)
        });
        let remove = record.host.auto_remove && delay.is_none() && !keep;
        if let Err(e) = record::store_life(&self.db, &c.id, &life) {
            tracing::error!(container = %c.id, error = %e.message(), "exit was not recorded");
        }
        self.collect_execs_of(c);
        let (code, seconds) = (exit.code.to_string(), ran.as_secs().to_string());
        self.emit(&record, "die", &[("execDuration", &seconds), ("exitCode", &code)]);
        if let Some(keeper) = keeper {
            self.spawn_acknowledge(c, keeper);
        }
        c.tell(|news| {
            news.exits += 1;
            (news.code, news.running) = (exit.code, delay.is_some());
        });
        if remove && let Err(e) = self.remove_in_turn(c, true).await {
            tracing::error!(container = %c.id, error = %e.message(), "container was not removed after its end");
        }
        if let Some(delay) = delay {
            self.restart_later(c, delay);
        }
    }

    fn spawn_acknowledge(self: &Arc<Self>, c: &Arc<Container>, keeper: wharf_keeper::Keeper) {
        let id = c.id.clone();
        self.tasks.spawn(async move {
            if let Err(e) = keeper.acknowledge().await {
                tracing::debug!(container = %id, error = %e, "keeper was not acknowledged");
            }
        });
    }

    /// What a container leaves outside of its own namespaces.
    pub(crate) fn clean_up(&self, record: &record::Record) {
        self.leave_network(record);
        self.release_mounts(record);
    }

    /// Waits as long as the policy says, then starts the container again unless someone changed its mind.
    pub(crate) fn restart_later(self: &Arc<Self>, c: &Arc<Container>, delay: Duration) {
        let token = CancellationToken::new();
        c.with(|core| core.backoff = Some(token.clone()));
        let (inner, c) = (self.clone(), c.clone());
        self.spawn(async move {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(delay) => (),
            }
            let _turn = c.turn.lock().await;
            let mine = !token.is_cancelled();
            if mine && matches!(c.state(), crate::state::State::Restarting(_)) {
                c.with(|core| core.backoff = None);
                if let Err(e) = inner.start_in_turn(&c, Starter::Policy).await {
                    tracing::warn!(container = %c.id, error = %e.message(), "restart failed");
                }
            }
        });
    }

    /// Tells when a client detached by its keys.
    pub(crate) fn watch_attachment(self: &Arc<Self>, c: &Arc<Container>, mut attached: Attachment) {
        let (inner, c) = (self.clone(), c.clone());
        self.spawn(async move {
            if let Ok(Detached::Keys) = attached.ended().await {
                inner.emit(&c.record(), "detach", &[]);
            }
        });
    }
}
