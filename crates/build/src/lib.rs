//! Images from Dockerfiles: a graph of content-addressed steps, its cache, and the execution of instructions.
//!
//! [`Builder::build`] takes a [`Request`] (plain data: the Dockerfile and every option), [`Inputs`] (where files,
//! secrets and credentials come from: traits that a door implements), a sender of [`progress::Event`]s and a
//! cancellation token. It gives a [`Built`], whose layers stay alive while it does. What becomes of that is
//! a separate step: [`Built::store`] makes it an image with names, [`Built::tree`] and [`Built::tar`] are for
//! `--output type=local` and `type=tar`.
//!
//! Progress has BuildKit's shape: vertices with a digest, a name and inputs, which start, log, count bytes and
//! complete, cached or not. The classic stream and BuildKit's `Status` are both rendered from it.
//!
//! No container and no image is recorded per step. A `RUN` is one keeper over an overlay whose upper directory
//! becomes the layer by a rename; `COPY` writes through a detached overlay mount that no mount table shows.
#![forbid(unsafe_code)]

mod base;
mod builder;
mod built;
mod cache;
pub mod context;
mod copy;
mod error;
mod export;
mod files;
mod git;
mod import;
mod inline;
pub mod inputs;
mod job;
mod layers;
mod listed;
mod material;
mod mounts;
pub mod progress;
mod remote;
pub mod request;
mod run;
mod scratch;
mod state;
mod upload;

pub use builder::{Builder, Settings};
pub use built::Built;
pub use cache::{CacheEntry, PruneCache, PrunedCache};
pub use context::{Context, ContextError, Tree, Want};
pub use error::{BuildError, ErrorKind, Location};
pub use export::{CacheError, CacheParts, CacheScope};
pub use git::{GitAddress, GitError};
pub use inputs::{Blobs, CacheList, Credentials, Inputs, Named, Secrets, Ssh};
pub use material::{Material, package_url};
pub use progress::Event;
pub use request::{NetworkMode, NoCache, Request};
pub use upload::{Fetched, read_small};
