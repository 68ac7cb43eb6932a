//! The daemon's log: to standard error, as text or JSON, with a level that a reload can change.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::{Registry, fmt};

use super::settings::Log;

/// Changes the level while the daemon runs.
pub(super) struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// From now on.
    pub(super) fn set(&self, level: LevelFilter) {
        if let Err(error) = self.0.reload(level) {
            tracing::warn!(%error, "log level cannot be changed");
        }
    }
}

/// Starts to log. Call it once.
pub(super) fn init(log: Log) -> Level {
    use std::io::IsTerminal as _;
    let (filter, handle) = reload::Layer::new(log.level);
    let registry = tracing_subscriber::registry().with(filter);
    let set = if log.json {
        let layer = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
        tracing::subscriber::set_global_default(registry.with(layer))
    } else {
        let colour = log.colour && std::io::stderr().is_terminal();
        let layer = fmt::layer().with_ansi(colour).with_target(false).with_writer(std::io::stderr);
        tracing::subscriber::set_global_default(registry.with(layer))
    };
    // A second subscriber can only be a test's; its log is as good.
    drop(set);
    Level(handle)
}
