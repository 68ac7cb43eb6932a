//! Signals, stopping, killing, pausing and restarting.

use std::sync::Arc;
use std::time::Duration;

use wharf_keeper::Keeper;
use wharf_keeper::client::KeeperError;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::options::StopOptions;
use crate::record;
use crate::start::Starter;
use crate::state::State;
use crate::validate;

const TERM: i32 = 15;
const KILL: i32 = 9;
/// Between the stop signal and SIGKILL where nobody says.
const GRACE: Duration = Duration::from_secs(10);
/// A first process of a pid namespace never sees a signal that it does not handle. Programs install
/// their handlers in their first moments; who has none after this long is not waited for, unless somebody
/// has said for how long: the program may be about to end by itself.
const HANDLER_GRACE: Duration = Duration::from_secs(1);

impl Inner {
    pub(crate) async fn stop(
        self: &Arc<Self>,
        c: &Arc<Container>,
        options: StopOptions,
    ) -> Result<()> {
        let state = self.settled(c).await;
        if matches!(state, State::Restarting(_)) {
            return self.cancel_restart(c).await;
        }
        if state.run().is_none() {
            return Err(EngineError::not_modified(format!("container {} is not running", c.id)));
        }
        let (inner, c) = (self.clone(), c.clone());
        self.finish(async move { inner.stop_running(&c, &options).await }).await
    }

    /// The state of a container once a start that is going on has come to its end: whoever stops a
    /// container while somebody else starts it wants it stopped, and Docker's lock has it so.
    async fn settled(&self, c: &Container) -> State {
        let state = c.state();
        if state.run().is_some() || matches!(state, State::Restarting(_)) {
            return state;
        }
        drop(c.turn.lock().await);
        c.state()
    }

    async fn stop_running(self: &Arc<Self>, c: &Arc<Container>, o: &StopOptions) -> Result<()> {
        let record = c.record();
        let signal = match o.signal.as_deref().filter(|s| !s.is_empty()) {
            Some(text) => validate::signal(text)?,
            None => stop_signal(&record)?,
        };
        let told = o.timeout.or(record.config.stop_timeout);
        self.remember_stop(c)?;
        let mut news = c.subscribe();
        self.send(c, signal).await?;
        let ended = async {
            // The sender lives in the container, which this task holds.
            _ = news.wait_for(|n| !n.running || n.removed).await;
        };
        tokio::pin!(ended);
        let given_up = tokio::select! {
            () = &mut ended => false,
            () = self.patience(c, signal, told) => true,
        };
        if given_up {
            self.send(c, KILL).await?;
            ended.await;
        }
        self.emit(&record, "stop", &[]);
        Ok(())
    }

    /// Returns when it is time for SIGKILL: after `told` seconds, never if that is negative.
    async fn patience(&self, c: &Container, signal: i32, told: Option<i64>) {
        if let Some(told) = told {
            return match u64::try_from(told) {
                Ok(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                Err(_) => std::future::pending().await,
            };
        }
        tokio::time::sleep(HANDLER_GRACE).await;
        if c.state().run().is_some_and(|run| ignores(run.pid, signal)) {
            tracing::info!(container = %c.id, signal, "first process does not handle the stop signal, killing it");
            return;
        }
        tokio::time::sleep(GRACE - HANDLER_GRACE).await;
    }

    /// `docker kill`: SIGKILL waits for the end, other signals do not.
    pub(crate) async fn kill(self: &Arc<Self>, c: &Arc<Container>, text: &str) -> Result<()> {
        let signal = if text.is_empty() { KILL } else { validate::signal(text)? };
        if matches!(c.state(), State::Restarting(_)) {
            return self.cancel_restart(c).await;
        }
        if c.state().run().is_none() {
            let text = format!(
                "cannot kill container: {}: container {} is not running",
                c.record().name,
                c.id
            );
            return Err(EngineError::conflict(text));
        }
        let record = c.record();
        if signal == KILL || record.config.stop_signal.is_empty() || stop_signal(&record)? == signal
        {
            self.remember_stop(c)?;
        }
        let mut news = c.subscribe();
        self.send(c, signal).await?;
        if signal == KILL {
            _ = news.wait_for(|n| !n.running || n.removed).await;
        }
        Ok(())
    }

    /// Sends a signal and tells of it. A container that has just ended is no error.
    async fn send(self: &Arc<Self>, c: &Arc<Container>, signal: i32) -> Result<()> {
        let Ok(keeper) = c.keeper() else { return Ok(()) };
        self.emit(&c.record(), "kill", &[("signal", &signal.to_string())]);
        deliver(&keeper, signal).await?;
        // A frozen process dies only when it is thawed.
        if matches!(c.state(), State::Paused(_)) && [KILL, TERM].contains(&signal) {
            let record = c.record();
            self.blocking(move |inner| {
                inner
                    .cgroup(&record)
                    .thaw()
                    .map_err(|e| EngineError::system("thaw the container", e))
            })
            .await?;
        }
        Ok(())
    }

    fn remember_stop(&self, c: &Container) -> Result<()> {
        let life = c.with(|core| {
            core.life.stopped_by_user = true;
            core.life.clone()
        });
        record::store_life(&self.db, &c.id, &life)
    }

    /// A container that waits for its restart is stopped by not restarting it.
    pub(crate) async fn cancel_restart(self: &Arc<Self>, c: &Arc<Container>) -> Result<()> {
        if let Some(token) = c.with(|core| core.backoff.take()) {
            token.cancel();
        }
        let _turn = c.turn.lock().await;
        let life = c.with(|core| {
            core.life.state = std::mem::take(&mut core.life.state).restart_cancelled();
            core.life.stopped_by_user = true;
            core.life.clone()
        });
        record::store_life(&self.db, &c.id, &life)?;
        c.tell(|news| news.running = life.state.run().is_some());
        self.emit(&c.record(), "stop", &[]);
        Ok(())
    }

    pub(crate) async fn restart(
        self: &Arc<Self>,
        c: &Arc<Container>,
        options: StopOptions,
    ) -> Result<()> {
        let (inner, c) = (self.clone(), c.clone());
        self.finish(async move {
            let auto_remove = c.record().host.auto_remove;
            if auto_remove {
                // The stop in the middle must not remove it.
                c.with(|core| core.keep_once = true);
            }
            let stopped = match inner.stop(&c, options).await {
                Err(e) if e.kind() == crate::Kind::NotModified => Ok(()),
                other => other,
            };
            c.with(|core| core.keep_once = false);
            stopped?;
            inner.start(&c, Starter::User).await?;
            inner.emit(&c.record(), "restart", &[]);
            Ok(())
        })
        .await
    }

    pub(crate) async fn pause(self: &Arc<Self>, c: &Arc<Container>) -> Result<()> {
        let _turn = c.turn.lock().await;
        let paused = c.state().paused(c.id.as_str())?;
        let record = c.record();
        self.blocking(move |inner| {
            inner
                .cgroup(&record)
                .freeze()
                .map_err(|e| EngineError::system("freeze the container", e))
        })
        .await?;
        self.move_to(c, paused, "pause")
    }

    pub(crate) async fn unpause(self: &Arc<Self>, c: &Arc<Container>) -> Result<()> {
        let _turn = c.turn.lock().await;
        let running = c.state().unpaused(c.id.as_str())?;
        let record = c.record();
        self.blocking(move |inner| {
            inner.cgroup(&record).thaw().map_err(|e| EngineError::system("thaw the container", e))
        })
        .await?;
        self.move_to(c, running, "unpause")
    }

    fn move_to(&self, c: &Container, state: State, event: &str) -> Result<()> {
        let life = c.with(|core| {
            core.life.state = state;
            core.life.clone()
        });
        record::store_life(&self.db, &c.id, &life)?;
        self.emit(&c.record(), event, &[]);
        Ok(())
    }
}

fn stop_signal(record: &record::Record) -> Result<i32> {
    match record.config.stop_signal.as_str() {
        "" => Ok(TERM),
        text => validate::signal(text),
    }
}

async fn deliver(keeper: &Keeper, signal: i32) -> Result<()> {
    match keeper.signal(signal).await {
        Ok(()) | Err(KeeperError::Gone) => Ok(()),
        Err(e) => Err(EngineError::system(format!("send signal {signal}"), e)),
    }
}

/// Whether `pid` is the first process of its own pid namespace and will never see `signal`: the kernel
/// drops for such a process what it neither handles nor blocks.
fn ignores(pid: i32, signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let first = field("NSpid:").is_some_and(|l| {
        l.split_whitespace().count() > 1 && l.split_whitespace().last() == Some("1")
    });
    let has = |name: &str| {
        let bits = field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        bits & (1 << (signal - 1)) != 0
    };
    first && signal != KILL && !has("SigCgt:") && !has("SigBlk:")
}
