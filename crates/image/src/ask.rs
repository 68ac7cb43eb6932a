//! Questions to registries that bring no image: logins, and what a name means there.

use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Descriptor, Document, ImageConfig};
use wharf_spec::platform::Platform;
use wharf_spec::reference::{DOCKER_HUB, Reference};

use crate::pull::{explain, parse};
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
        let mut last = None;
        for remote in self.0.registries.origins(&domain, auth)? {
            match remote.login().await {
                Ok(token) => return Ok(token),
                Err(RegistryError::Status { status: 401 | 403, message, .. }) => {
                    return Err(LoginError::Refused { url: remote.root(), message });
                }
                // The first of several addresses of one registry is the one that counts.
                Err(e) if e.is_about_the_address() => last = last.or(Some(e)),
                Err(e) => return Err(e.into()),
            }
        }
        Err(last.unwrap_or(RegistryError::Setting { what: domain }).into())
    }

    /// Asks the registry what `name` means there, without fetching the image.
    pub async fn distribution(
        &self,
        name: &Reference,
        auth: &AuthConfig,
    ) -> Result<Distribution, PullError> {
        let name = name.clone().or_latest();
        let mut last = None;
        for remote in self.0.registries.remotes(&name, auth)? {
            let mirror = remote.endpoint.mirror;
            if mirror && name.digest().is_none() && !remote.endpoint.resolves {
                continue;
            }
            match look_up(&remote, &name).await {
                Ok(found) => return Ok(found),
                Err(e) => {
                    let elsewhere =
                        mirror || matches!(&e, PullError::Registry(e) if e.is_about_the_address());
                    if !elsewhere {
                        return Err(e);
                    }
                    last = last.or(Some(e));
                }
            }
        }
        let nowhere = || RegistryError::Setting { what: name.domain().to_owned() }.into();
        Err(last.unwrap_or_else(nowhere))
    }
}

async fn look_up(remote: &Remote<'_>, name: &Reference) -> Result<Distribution, PullError> {
    let what = match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or_default().to_owned(),
    };
    let raw = remote.manifest(&what, name.digest()).await.map_err(|e| explain(e, name))?;
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
