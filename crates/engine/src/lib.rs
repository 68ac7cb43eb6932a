//! Many containers: lifecycle, restart, logs, volumes, health, events, and re-adoption after a restart.
#![forbid(unsafe_code)]

mod container;
pub mod detach;
mod engine;
pub mod error;
pub mod events;
pub mod facts;
pub mod filters;
mod floors;
pub mod health;
pub mod images;
pub mod info;
pub mod logs;
pub mod mount;
pub mod networks;
pub mod options;
pub mod ports;
pub mod record;
pub mod restart;
pub mod spec;
pub mod state;
pub mod validate;

pub use engine::{Config, Engine, Parts, SeccompProfile};
pub use error::{EngineError, Kind, Result};
