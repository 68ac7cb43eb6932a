//! What is to be done, and what after what; found without touching anything.

pub mod down;
pub mod ports;
mod steps;
mod unused;
pub mod up;

use std::fmt;

pub use down::{DownOptions, down};
pub use steps::{Action, Container, Plan, Step};
pub use up::{Recreate, UpOptions, diverged_volumes, up};

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Something that neither Compose nor wharf can do.
    #[error("{0}")]
    Unsupported(String),
    /// An external network that there is not.
    #[error("network {0} declared as external, but could not be found")]
    NoNetwork(String),
    /// An external volume that there is not.
    #[error("external volume {0:?} not found")]
    NoVolume(String),
    /// A network of the same name that belongs to something else.
    #[error(
        "network {name} was found but has incorrect label com.docker.compose.network set to {found:?} (expected: {key:?})"
    )]
    ForeignNetwork {
        /// Its name.
        name: String,
        /// What its label says.
        found: String,
        /// What it should say.
        key: String,
    },
    /// A service whose namespace or volumes are shared has no container.
    #[error("cannot share {what} with service {service}: container missing")]
    Missing {
        /// What is shared.
        what: &'static str,
        /// The service.
        service: String,
    },
}

/// Something the user should know although the plan stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark(pub String);

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
