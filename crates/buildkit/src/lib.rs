//! BuildKit's door: the gRPC services that buildx, bake and compose speak, and the sessions they open.
//!
//! A client steers its build over two connections. On one it is the client: `Control.Solve` blocks for the whole
//! build, while `LLBBridge` runs the Dockerfile frontend and gives back what is to be exported. On the other
//! it is the server, of files, secrets and agents (`session`). No build graph is ever executed: results travel as
//! graphs that name them (`graph`).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests write files as they like"))]

mod annotations;
mod attest;
mod bridge;
mod builds;
mod cache;
mod content;
mod contexts;
mod control;
mod definition;
mod deliver;
mod export;
mod fault;
mod fsutil;
mod graph;
mod history;
mod journal;
mod kit;
mod line;
mod metadata;
mod options;
mod past;
mod post;
mod proto;
mod questions;
mod remote;
mod session;
mod solve;
mod sync;
mod syntax;
mod upload;
mod usage;

#[doc(hidden)]
pub use fsutil::take_packets;
pub use kit::{BuildKit, Settings};
pub use line::{Io, Rewound};
pub use post::{Output, PostError, Posted};
pub use session::{Offer, OfferError};
pub use sync::SyncError;
