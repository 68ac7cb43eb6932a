//! What a build may ask of whoever started it: files, secrets, agents, credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::UnixStream;
use wharf_image::ByteStream;
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;

use crate::built::Built;
use crate::context::{Context, Empty};

/// Everything that comes from outside.
#[derive(Clone)]
pub struct Inputs {
    /// The build context.
    pub context: Arc<dyn Context>,
    /// `--build-context`, by name in lower case: found before stages and images of that name.
    pub named: BTreeMap<String, Named>,
    /// `--secret`.
    pub secrets: Arc<dyn Secrets>,
    /// `--ssh`.
    pub ssh: Arc<dyn Ssh>,
    /// For pulls of base images.
    pub credentials: Arc<dyn Credentials>,
    /// Caches that are in no registry (`--cache-from type=local`).
    pub caches: Vec<CacheList>,
}

/// A list of cache, as `--cache-to` writes it, among other blobs.
#[derive(Clone)]
pub struct CacheList {
    /// For messages.
    pub name: String,
    /// The list.
    pub digest: Digest,
    /// Where it is, with what it names.
    pub blobs: Arc<dyn Blobs>,
}

/// Blobs that are neither here nor in a registry. What comes is checked by whoever asks.
pub trait Blobs: Send + Sync {
    /// A blob as it comes.
    fn read<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<ByteStream, String>>;
}

/// What a named context is.
#[derive(Clone)]
pub enum Named {
    /// Files.
    Context(Arc<dyn Context>),
    /// An image of that reference (`docker-image://`).
    Image(String),
    /// The result of another build (`target:`).
    Built(Arc<Built>),
}

/// Gives secrets by id.
pub trait Secrets: Send + Sync {
    /// The secret `id`; `None` if there is none.
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, String>>;
}

/// Reaches ssh agents by id.
pub trait Ssh: Send + Sync {
    /// Whether the agent `id` is there.
    fn has<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, String>>;
    /// Carries one connection to the agent `id`, until either side ends it.
    fn serve<'a>(&'a self, id: &'a str, stream: UnixStream) -> BoxFuture<'a, Result<(), String>>;
}

/// Gives registry credentials.
pub trait Credentials: Send + Sync {
    /// For a registry's host name (`docker.io` for Docker Hub); the default is none.
    fn auth<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<AuthConfig, String>>;
}

/// Nothing of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Secrets for Nothing {
    fn secret<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, String>> {
        Box::pin(async { Ok(None) })
    }
}

impl Ssh for Nothing {
    fn has<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async { Ok(false) })
    }

    fn serve<'a>(&'a self, id: &'a str, _stream: UnixStream) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { Err(format!("no ssh agent {id:?}")) })
    }
}

impl Credentials for Nothing {
    fn auth<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Result<AuthConfig, String>> {
        Box::pin(async { Ok(AuthConfig::default()) })
    }
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            context: Arc::new(Empty),
            named: BTreeMap::new(),
            secrets: Arc::new(Nothing),
            ssh: Arc::new(Nothing),
            credentials: Arc::new(Nothing),
            caches: Vec::new(),
        }
    }
}
