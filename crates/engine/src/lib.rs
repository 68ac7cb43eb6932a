//! Many containers: lifecycle, restart, logs, volumes, health, events, and re-adoption after a restart.
#![forbid(unsafe_code)]

pub mod detach;
mod engine;
pub mod error;
pub mod events;
pub mod facts;
pub mod filters;
pub mod mount;
pub mod options;
pub mod restart;
pub mod spec;

pub use engine::{Config, Engine, Parts, SeccompProfile};
pub use error::{EngineError, Kind, Result};
