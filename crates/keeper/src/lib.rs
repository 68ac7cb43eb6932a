//! The processes that outlive the daemon: the launcher, one keeper per container, and the log it writes.
//!
//! ```text
//! daemon ──exec──▶ launcher ──fork──▶ keeper ──clone3──▶ the container's first process
//!    └────────────── unix socket in the container's directory ──────┘
//! ```
//!
//! The launcher is wharf executed again, with one thread and nearly no memory, so that a fork of it is cheap
//! and safe. A keeper is such a fork: it creates the container, holds its pipes or terminal, writes its log,
//! serves clients that attach, runs execs, and records how the container ended. It lives until the daemon has
//! acknowledged that, and needs neither daemon nor launcher to go on.
#![forbid(unsafe_code)]

pub mod client;
pub mod launcher;
pub mod log;
mod process;
pub mod protocol;
mod record;
mod remains;
mod wire;

pub use client::{Keeper, LaunchError, Launched, Launcher};
pub use protocol::{AttachOptions, Exit, IoConfig, Launch, Slow};
