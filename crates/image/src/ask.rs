//! Questions to registries that bring no image: logins, and what a name means there.

use bytes::Bytes;
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Descriptor, Document, ImageConfig, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::{DOCKER_HUB, Reference};

use crate::pull::{choose, explain, parse};
use crate::registry::{RawManifest, RegistryError, Remote};
use crate::{ErrorKind, ImageStore, PullError};

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// Media type, digest and size of the manifest or index.
    pub descriptor: Descriptor,
    /// For which platforms.
    pub platforms: Vec<Platform>,
}

/// The config of an image at a registry.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Digest of what has the name: an index or a manifest.
    pub digest: Digest,
    /// The config as it came, verified.
    pub config: Bytes,
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The registry does not know these credentials. Docker's text.
    #[error("login attempt to {url} failed with status: 401 Unauthorized ({message})")]
    Refused {
        /// Where.
        url: String,
        /// What the registry says.
        message: String,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl LoginError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } => ErrorKind::Unauthorized,
            Self::Registry(RegistryError::Setting { .. }) => ErrorKind::Invalid,
            Self::Registry(_) => ErrorKind::System,
        }
    }
}

impl ImageStore {
    /// Tries credentials at the registry that they name (empty: Docker Hub). Returns the identity token that the
    /// registry gives in place of the password, which most do not: then it is empty.
    pub async fn login(&self, auth: &AuthConfig) -> Result<String, LoginError> {
        let domain = login_domain(&auth.serveraddress);
        let remote = self.0.registries.origin(&domain, auth).await?;
        match remote.login().await {
            Err(RegistryError::Status { status: 401 | 403, message, .. }) => {
                Err(LoginError::Refused { url: remote.root(), message })
            }
            other => Ok(other?),
        }
    }

    /// Asks the registry what `name` means there, without fetching the image.
    pub async fn distribution(
        &self,
        name: &Reference,
        auth: &AuthConfig,
    ) -> Result<Distribution, PullError> {
        let name = name.clone().or_latest();
        let mut asked = Asked::default();
        for remote in self.askable(&name, auth).await? {
            match look_up(&remote, &name).await {
                Ok(found) => return Ok(found),
                Err(error) => asked.failed(&remote, error)?,
            }
        }
        Err(asked.in_vain(&name))
    }

    /// The config of the image that the registry has under `name` for a platform (default:
    /// [`crate::Settings::platform`]), without fetching its layers.
    pub async fn remote_config(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        auth: &AuthConfig,
    ) -> Result<RemoteConfig, PullError> {
        let name = name.clone().or_latest();
        let wanted = platform.unwrap_or(&self.0.settings.platform);
        let mut asked = Asked::default();
        for remote in self.askable(&name, auth).await? {
            match config_of(&remote, &name, wanted).await {
                Ok(found) => return Ok(found),
                Err(error) => asked.failed(&remote, error)?,
            }
        }
        Err(asked.in_vain(&name))
    }

    /// The addresses that may say what `name` means, mirrors first.
    async fn askable(
        &self,
        name: &Reference,
        auth: &AuthConfig,
    ) -> Result<Vec<Remote<'_>>, PullError> {
        let mut remotes = self.0.registries.remotes(name, auth).await?;
        remotes.retain(|r| !r.endpoint.mirror || name.digest().is_some() || r.endpoint.resolves);
        Ok(remotes)
    }
}

/// The addresses of one registry, asked one after the other.
#[derive(Default)]
struct Asked(Option<PullError>);

impl Asked {
    /// One could not say. Mirrors may fail; what the registry itself says is the answer.
    fn failed(&mut self, remote: &Remote<'_>, error: PullError) -> Result<(), PullError> {
        if !remote.endpoint.mirror {
            return Err(error);
        }
        self.0.get_or_insert(error);
        Ok(())
    }

    fn in_vain(self, name: &Reference) -> PullError {
        let nowhere = || RegistryError::Setting { what: name.domain().to_owned() }.into();
        self.0.unwrap_or_else(nowhere)
    }
}

async fn look_up(remote: &Remote<'_>, name: &Reference) -> Result<Distribution, PullError> {
    let raw = named(remote, name).await?;
    let (media_type, platforms) = match parse(&raw)? {
        Document::Index(index) => {
            let all = index.manifests.into_iter().filter_map(|m| m.platform).collect();
            (index.media_type, all)
        }
        Document::Manifest(manifest) => {
            let config = &manifest.config;
            let bytes = remote.small_blob(&config.digest, config.size).await?;
            // What is no image has a config of its own kind, and no platform.
            let config = serde_json::from_slice::<ImageConfig>(&bytes).ok();
            (manifest.media_type, config.map(|c| c.platform()).into_iter().collect())
        }
    };
    Ok(Distribution { descriptor: describe(raw, media_type), platforms })
}

/// The manifest or index that has the name.
async fn named(remote: &Remote<'_>, name: &Reference) -> Result<RawManifest, PullError> {
    let what = match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or_default().to_owned(),
    };
    remote.manifest(&what, name.digest()).await.map_err(|e| explain(e, name))
}

async fn config_of(
    remote: &Remote<'_>,
    name: &Reference,
    wanted: &Platform,
) -> Result<RemoteConfig, PullError> {
    let raw = named(remote, name).await?;
    let missing = || PullError::Platform { platform: wanted.clone() };
    let manifest = match parse(&raw)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => {
            let chosen = choose(index.manifests, wanted).ok_or_else(missing)?;
            let digest = &chosen.digest;
            let child = remote.manifest(&digest.to_string(), Some(digest)).await;
            let child = child.map_err(|e| explain(e, name))?;
            match parse(&RawManifest { media_type: chosen.media_type, ..child })? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(missing()),
            }
        }
    };
    let Descriptor { media_type, digest, size, .. } = &manifest.config;
    if !media_type::is_config(media_type) {
        let (name, media_type) = (name.familiar(), media_type.clone());
        return Err(PullError::NotAnImage { name, media_type });
    }
    let config = remote.small_blob(digest, *size).await?;
    Ok(RemoteConfig { digest: raw.digest, config })
}

fn describe(raw: RawManifest, media_type: String) -> Descriptor {
    let media_type = if media_type.is_empty() { raw.media_type } else { media_type };
    Descriptor::new(&media_type, raw.digest, raw.bytes.len() as u64)
}

/// The registry that a login means: `https://index.docker.io/v1/` and nothing are Docker Hub.
fn login_domain(server: &str) -> String {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_name_registries_in_many_ways() {
        for (given, domain) in [
            ("", DOCKER_HUB),
            ("https://index.docker.io/v1/", DOCKER_HUB),
            ("docker.io", DOCKER_HUB),
            ("ghcr.io", "ghcr.io"),
            ("http://localhost:5000/v2/", "localhost:5000"),
        ] {
            assert_eq!(login_domain(given), domain, "{given}");
        }
    }
}
