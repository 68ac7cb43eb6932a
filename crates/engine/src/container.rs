//! A container in the daemon's memory: its record, its life, who waits for it, and who is attached.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio_util::sync::CancellationToken;
use wharf_base::Id;
use wharf_base::sync::Mutex;
use wharf_keeper::{AttachOptions, Keeper};
use wharf_runtime::Plan;

use crate::error::{EngineError, Result};
use crate::health::Health;
use crate::record::{Life, Record};
use crate::restart::Restarts;
use crate::state::State;

/// One container. What several tasks touch is behind `core`; who changes its state holds `turn`.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its id.
    pub id: Id,
    /// Held across a whole operation that changes the state, so that operations take turns.
    /// Stopping holds it only at its end: a signal must get through to a container that is being stopped.
    pub(crate) turn: AsyncMutex<()>,
    core: Mutex<Core>,
    news: watch::Sender<News>,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) record: Arc<Record>,
    pub(crate) life: Life,
    pub(crate) restarts: Restarts,
    pub(crate) keeper: Option<Keeper>,
    /// What it runs under, for execs.
    pub(crate) plan: Option<Arc<Plan>>,
    /// Clients that attached before it runs.
    pub(crate) waiting: Vec<Waiting>,
    /// Ends the pause before a restart.
    pub(crate) backoff: Option<CancellationToken>,
    pub(crate) health: Option<Health>,
    /// Ids of execs that are not collected yet.
    pub(crate) execs: Vec<String>,
    /// The next end is part of a restart: an automatic removal waits.
    pub(crate) keep_once: bool,
}

/// A client that attached before the container runs.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) options: AttachOptions,
    pub(crate) stream: OwnedFd,
}

/// What waiters watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// How often it ended (or failed to start).
    pub(crate) exits: u64,
    /// The last exit status.
    pub(crate) code: i32,
    /// Why the last start failed, otherwise empty.
    pub(crate) error: String,
    /// Whether it has a process, or will soon again by its policy.
    pub(crate) running: bool,
    /// It is gone.
    pub(crate) removed: bool,
}

impl Container {
    pub(crate) fn new(record: Record, life: Life) -> Container {
        let running = life.state.run().is_some() || matches!(life.state, State::Restarting(_));
        let news = News {
            code: life.state.exit_code(),
            error: life.state.error().to_owned(),
            running,
            ..News::default()
        };
        Container {
            id: record.id.clone(),
            turn: AsyncMutex::new(()),
            core: Mutex::new(Core {
                record: Arc::new(record),
                restarts: Restarts::resumed(life.restarts),
                life,
                keeper: None,
                plan: None,
                waiting: Vec::new(),
                backoff: None,
                health: None,
                execs: Vec::new(),
                keep_once: false,
            }),
            news: watch::Sender::new(news),
        }
    }

    /// Its record as of now.
    pub(crate) fn record(&self) -> Arc<Record> {
        self.core.lock().record.clone()
    }

    /// Its life as of now.
    pub(crate) fn life(&self) -> Life {
        self.core.lock().life.clone()
    }

    /// Its state as of now.
    pub(crate) fn state(&self) -> State {
        self.core.lock().life.state.clone()
    }

    /// Looks at or changes the core. Never awaits, never blocks for long.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        f(&mut self.core.lock())
    }

    /// Its keeper, if it has a process.
    pub(crate) fn keeper(&self) -> Result<Keeper> {
        let core = self.core.lock();
        match (&core.life.state, &core.keeper) {
            (State::Running(_) | State::Paused(_), Some(keeper)) => Ok(keeper.clone()),
            _ => Err(EngineError::not_running(self.id.as_str())),
        }
    }

    /// As [`Container::keeper`], refusing what is paused.
    pub(crate) fn active_keeper(&self) -> Result<Keeper> {
        match self.state() {
            State::Paused(_) => Err(EngineError::paused(self.id.as_str())),
            State::Restarting(_) => Err(EngineError::restarting(self.id.as_str())),
            _ => self.keeper(),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    pub(crate) fn tell(&self, f: impl FnOnce(&mut News)) {
        self.news.send_modify(f);
    }
}
