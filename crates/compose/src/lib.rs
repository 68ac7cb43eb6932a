//! Compose projects on an engine: a project and what there is become a plan, a plan becomes containers.
//!
//! Planning is pure: [`plan::up`] and [`plan::down`] look at a [`Project`](wharf_spec::compose::Project)
//! and an [`Observed`] world and say what is to be done, step by step and what after what.
//! [`apply::run`] does it on an [`Engine`], as much at once as the order allows.
#![forbid(unsafe_code)]

pub mod apply;
pub mod create;
pub mod engine;
pub mod fake;
pub mod labels;
mod links;
mod mounts;
pub mod observe;
pub mod plan;

pub use engine::{Engine, EngineError};
pub use observe::Observed;
pub use plan::{Plan, PlanError};

#[cfg(test)]
mod tests;
