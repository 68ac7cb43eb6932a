//! What every crate of wharf shares: ids, the state database, clocks, durable files, error chains.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod clock;
pub mod db;
pub mod error;
pub mod fs;
pub mod id;
pub mod names;
pub mod sync;

pub use id::Id;
