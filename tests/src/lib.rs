//! The acceptance harness: hosts, stock clients, fixture images, leak checks.
//!
//! A test takes a [`Host`]: a network, mount and process namespace with an engine of its own, so
//! that tests run side by side and leave the machine as it was. The engine is wharf, or, with
//! `WHARF_TEST_ENGINE=dockerd`, Debian's docker: the suite is first run against the reference.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "a test harness: it runs programs, and a broken expectation is a panic"
)]
#![forbid(unsafe_code)]

pub mod docker;
pub mod host;
pub mod http;
pub mod image;
pub mod kube;
pub mod namespace;
pub mod program;
pub mod registry;
pub mod relay;
pub mod server;
pub mod terminal;
pub mod tools;
pub mod web;
pub mod world;

pub use docker::Output;
pub use host::Host;
pub use terminal::Terminal;

use std::time::{Duration, Instant};

/// How long any single event may take before the test fails. Far above what a loaded two-core
/// machine needs, and a database in an emulated one; no test passes or fails by how fast something was.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Whether `met` gives a value within [`PATIENCE`].
pub fn settles(mut met: impl FnMut() -> Option<()>) -> bool {
    let start = Instant::now();
    while met().is_none() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Waits until `met` gives a value, for facts that no client can subscribe to.
#[track_caller]
pub fn eventually<T>(what: &str, mut met: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = met() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
