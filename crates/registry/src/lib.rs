//! A registry: the OCI distribution specification's server (1.1), over the blobs of an image store.
//!
//! Start at [`Registry`]. It shares its blobs with the images of the same store ([`wharf_image::Content`]): what an
//! image brought need not be sent again, and what nothing needs any more goes from disk while the registry runs.
//!
//! - `route.rs`: which resource a path names. `answer/`: what is answered for it, one file for each kind of resource.
//! - `shelves.rs`: repositories with their manifests and tags. `uploads.rs`: blobs on their way in.
//! - `access.rs`, `auth/`: who may do what, and who somebody is.
//! - `cache.rs`: what a pull-through cache fetches, and when.
//! - `house.rs`: garbage and abandoned uploads. `serve.rs`: connections; `handover.rs`: files that the kernel sends.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod auth;
mod body;
mod cache;
mod fault;
mod handover;
mod house;
mod manifest;
mod name;
mod query;
mod range;
mod route;
mod serve;
mod settings;
mod shelves;
mod upload;

pub use access::{Rule, Rules, RulesError, Subject};
pub use answer::{OpenError, Registry};
pub use auth::{Auth, Foreign, Htpasswd, HtpasswdError, Issuer, KeyError, htpasswd_line};
pub use body::{Body, Requested, requested};
pub use cache::Cache;
pub use serve::serve;
pub use settings::Settings;
