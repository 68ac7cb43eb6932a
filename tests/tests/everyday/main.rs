//! The Dockerfiles of everyday, from Debian's packages, through wharf's three doors and Debian's docker.io: the same
//! files, configurations, histories and cache, and images that run and answer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod apps;
mod lab;
