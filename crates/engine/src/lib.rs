//! Many containers: lifecycle, restart, logs, volumes, health, events, and re-adoption after a restart.
#![forbid(unsafe_code)]

pub mod events;
pub mod filters;
