//! Docker Engine API objects as data, with Go's JSON habits.
//!
//! Clients are written in Go, Python and Rust against what Go's `encoding/json` emits: a field is
//! always there with its zero value unless it is marked `omitempty`, a nil slice or map is `null`,
//! and in a request `null` means the zero value and keys may be written in any case. [`go_struct!`] says this once.
#![allow(
    missing_docs,
    reason = "fields carry the Engine API's own names and meaning, which its reference documents"
)]

#[macro_use]
pub(crate) mod go;

mod container;
mod events;
mod exec;
mod host;
mod image;
mod inspect;
mod network;
mod stats;
mod system;
mod volume;

pub use container::*;
pub use events::*;
pub use exec::*;
pub use go::{Empty, Fields, Map, ZERO_TIME, rfc3339, rfc3339_secs};
pub use host::*;
pub use image::*;
pub use inspect::*;
pub use network::*;
pub use stats::*;
pub use system::*;
pub use volume::*;

#[cfg(test)]
mod tests;
