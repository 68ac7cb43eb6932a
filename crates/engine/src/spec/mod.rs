//! From what a user asked for to what the runtime is told: Docker's configuration to an OCI spec.

pub mod user;
