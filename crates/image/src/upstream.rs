//! Repositories of other registries, for whoever copies between them: a cache, a tool.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::reference::Reference;

use crate::RegistryError;
use crate::body::ByteStream;
use crate::registry::{Begun, Blob, Client, Endpoint, Remote};
use crate::settings::Settings;

/// A client of registries, without a store. Clones share connections and tokens.
#[derive(Clone)]
pub struct Registries(Arc<Client>);

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registries")
    }
}

/// One repository there.
#[derive(Clone)]
pub struct Upstream {
    client: Arc<Client>,
    endpoint: Endpoint,
    repository: String,
    auth: AuthConfig,
}

/// A manifest or index as it came, verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// As which it was served.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
}

impl Registries {
    /// A client with these settings.
    pub fn new(settings: &Settings) -> Self {
        Self(Arc::new(Client::new(settings)))
    }

    /// The repository of `name` at its own registry; mirrors are not asked.
    pub async fn repository(
        &self,
        name: &Reference,
        auth: &AuthConfig,
    ) -> Result<Upstream, RegistryError> {
        let remote = self.0.writable(name.domain(), name.path(), auth).await?;
        Ok(Upstream {
            client: self.0.clone(),
            endpoint: remote.endpoint,
            repository: name.path().to_owned(),
            auth: auth.clone(),
        })
    }
}

impl Upstream {
    fn remote(&self) -> Remote<'_> {
        Remote {
            client: &self.client,
            endpoint: self.endpoint.clone(),
            repository: self.repository.clone(),
            auth: self.auth.clone(),
        }
    }

    /// The digest that a tag has, without fetching what it names; `None` if the registry does not say.
    pub async fn resolve(&self, what: &str) -> Result<Option<Digest>, RegistryError> {
        self.remote().head(what).await
    }

    /// The manifest or index `what`.
    pub async fn manifest(&self, what: &str) -> Result<Fetched, RegistryError> {
        let expected: Option<Digest> = what.parse().ok();
        let fetched = |raw: crate::registry::RawManifest| Fetched {
            bytes: raw.bytes,
            media_type: raw.media_type,
            digest: raw.digest,
        };
        self.remote().manifest(what, expected.as_ref()).await.map(fetched)
    }

    /// Every tag.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        self.remote().tags().await
    }

    /// A small blob, verified.
    pub async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Bytes, RegistryError> {
        self.remote().small_blob(digest, size).await
    }

    /// A blob from byte `from` on, not verified, and how many bytes it has in all. Ends with an error when nothing
    /// arrives for long.
    pub async fn blob(
        &self,
        digest: &Digest,
        from: u64,
    ) -> Result<(u64, ByteStream), RegistryError> {
        let response = self.ask_for_blob(digest, from).await?;
        self.stream(response, from)
    }

    async fn ask_for_blob(
        &self,
        digest: &Digest,
        from: u64,
    ) -> Result<http::Response<hyper::body::Incoming>, RegistryError> {
        self.remote().blob(digest, from).await
    }

    fn stream(
        &self,
        response: http::Response<hyper::body::Incoming>,
        from: u64,
    ) -> Result<(u64, ByteStream), RegistryError> {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length: Option<u64> = length.and_then(|l| l.to_str().ok()?.parse().ok());
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let wrong = |what: &str| RegistryError::Protocol {
            host: self.endpoint.shown(),
            what: what.to_owned(),
        };
        let length = length.ok_or_else(|| wrong("without saying how long the blob is"))?;
        let size = if is_part { from + length } else { length };
        let skip = if is_part { 0 } else { from };
        let stall = self.client.stall();
        let body = response.into_body().into_data_stream();
        let blocks =
            futures_util::stream::unfold((Some(body), skip), move |(body, skip)| async move {
                let mut body = body?;
                match tokio::time::timeout(stall, body.next()).await {
                    Ok(None) => None,
                    Ok(Some(Ok(mut bytes))) => {
                        let passed =
                            usize::try_from(skip).map_or(bytes.len(), |s| s.min(bytes.len()));
                        drop(bytes.split_to(passed));
                        Some((Ok(bytes), (Some(body), skip - passed as u64)))
                    }
                    Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), (None, 0))),
                    Err(_) => {
                        let text = format!("no byte arrived for {} s", stall.as_secs());
                        let error = io::Error::new(io::ErrorKind::TimedOut, text);
                        Some((Err(error), (None, 0)))
                    }
                }
            });
        Ok((size, Box::pin(blocks)))
    }

    /// Whether a blob is there.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.remote().has_blob(digest).await
    }

    /// Has a blob taken from another repository of the same registry; false if it must be sent.
    pub async fn mount(&self, digest: &Digest, from: &Upstream) -> Result<bool, RegistryError> {
        if self.endpoint != from.endpoint {
            return Ok(false);
        }
        let begun: Result<Begun, RegistryError> = self.begin(digest, Some(&from.repository)).await;
        match begun {
            Ok(Begun::Mounted) => Ok(true),
            Ok(Begun::Session(_)) | Err(RegistryError::Status { status: 401 | 403, .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, digest: &Digest, from: Option<&str>) -> Result<Begun, RegistryError> {
        self.remote().begin(digest, from, "").await
    }

    /// Sends a blob, resuming as often as needed.
    pub async fn send_blob(
        &self,
        digest: &Digest,
        size: u64,
        file: File,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let blob = Blob { digest, size, file: Arc::new(file), tell };
        send(&self.remote(), &blob).await
    }

    /// Stores a manifest under a tag or its digest.
    pub async fn put_manifest(
        &self,
        what: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        self.remote().put_manifest(what, media_type, bytes.clone()).await
    }
}

async fn send(remote: &Remote<'_>, blob: &Blob<'_>) -> Result<(), RegistryError> {
    match remote.begin(blob.digest, None, "").await? {
        Begun::Mounted => Ok(()),
        Begun::Session(session) => remote.send_blob(session, blob).await,
    }
}

impl RegistryError {
    /// Whether the registry says that it does not have it, or not for us.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Status { status: 401 | 403 | 404, .. })
    }
}
