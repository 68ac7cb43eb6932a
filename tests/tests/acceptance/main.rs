//! The stock docker CLI against an engine: the ladder from `docker version` to a crash under load.
//!
//! Every test here passes against Debian's docker too (`WHARF_TEST_ENGINE=dockerd`), except those
//! that say what wharf does better.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod attach;
mod build;
mod build_sources;
mod builtin;
mod compose;
mod compose_bad_days;
mod compose_images;
mod compose_upstream;
mod compose_verbs;
mod copy;
mod crash;
mod doors;
mod errors;
mod events;
mod exec;
mod health;
mod images;
mod isolation;
mod lifecycle;
mod limits;
mod logs;
mod names;
mod network;
mod networks;
mod pull;
mod races;
mod record;
mod run;
mod system;
mod tour;
mod volumes;
