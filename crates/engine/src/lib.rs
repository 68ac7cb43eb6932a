//! Many containers: lifecycle, restart, logs, volumes, health, events, and re-adoption after a restart.
#![forbid(unsafe_code)]

mod attach;
mod container;
mod create;
pub mod detach;
mod engine;
pub mod error;
pub mod events;
mod exec;
mod exit;
pub mod facts;
mod files;
pub mod filters;
pub mod health;
mod inner;
mod inspect;
mod list;
pub mod logs;
pub mod merge;
pub mod mount;
mod mounts;
mod network;
mod open;
pub mod options;
pub mod ports;
mod probe;
mod read_logs;
pub mod record;
mod remove;
pub mod restart;
pub mod spec;
mod start;
pub mod state;
pub mod status;
mod stop;
mod undo;
pub mod usage;
pub mod validate;
mod view;
pub mod volume;
mod volumes;
mod wait;

pub use engine::{Config, Engine, Parts, SeccompProfile};
pub use error::{EngineError, Kind, Result};
