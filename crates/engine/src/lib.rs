//! Many containers: lifecycle, restart, logs, volumes, health, events, and re-adoption after a restart.
#![forbid(unsafe_code)]

pub mod detach;
mod engine;
pub mod error;
pub mod events;
pub mod filters;
mod floors;
pub mod images;
pub mod info;
pub mod mount;
pub mod networks;
pub mod options;
pub mod restart;
pub mod spec;

pub use engine::{Config, Engine, Parts, SeccompProfile};
pub use error::{EngineError, Kind, Result};
