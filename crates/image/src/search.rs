//! Searching Docker Hub, or another registry that still has an index of version 1.

use base64::Engine as _;
use futures_util::StreamExt as _;
use serde::Deserialize;
use wharf_spec::docker::SearchResult;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::reference::DOCKER_HUB;

use crate::registry::{RegistryError, encode};
use crate::web::WebRequest;
use crate::{ErrorKind, ImageStore};

/// Where Docker Hub is searched; it is not its registry.
const HUB_INDEX: &str = "index.docker.io";
/// How many results there are at most, unless the request says.
const RESULTS: i64 = 25;
/// How many it may ask for.
const RESULTS_MAX: i64 = 100;
/// Largest answer that is read.
const ANSWER_MAX: usize = 4 << 20;

/// Why a search failed. Docker's texts.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// Too many results wanted, or fewer than one.
    #[error("limit {0} is outside the range of [1, {RESULTS_MAX}]")]
    Limit(i64),
    /// An address where a name was expected.
    #[error("invalid repository name: repository name ({0}) should not have a scheme")]
    Scheme(String),
    /// The index answered something that is no list of results.
    #[error("error decoding registry search results of {host}: {why}")]
    Answer {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The index failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl SearchError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Limit(_) | Self::Scheme(_) => ErrorKind::Invalid,
            Self::Registry(RegistryError::Status { status: 401 | 403, .. }) => {
                ErrorKind::Unauthorized
            }
            Self::Answer { .. } | Self::Registry(_) => ErrorKind::System,
        }
    }
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    results: Vec<SearchResult>,
}

impl ImageStore {
    /// Repositories whose name or description has to do with `term`: at Docker Hub, or at the registry that it
    /// begins with. `limit` is from 1 to 100; 0 means 25.
    pub async fn search(
        &self,
        term: &str,
        limit: i64,
        auth: &AuthConfig,
    ) -> Result<Vec<SearchResult>, SearchError> {
        if term.contains("://") {
            return Err(SearchError::Scheme(term.to_owned()));
        }
        let limit = if limit == 0 { RESULTS } else { limit };
        if !(1..=RESULTS_MAX).contains(&limit) {
            return Err(SearchError::Limit(limit));
        }
        let (host, words) = split(term);
        let query = encode(&[("q", words), ("n", &limit.to_string())]);
        let scheme = self.0.registries.scheme(&host).await?;
        self.ask(&host, format!("{scheme}://{host}/v1/search?{query}"), auth).await
    }

    async fn ask(
        &self,
        host: &str,
        address: String,
        auth: &AuthConfig,
    ) -> Result<Vec<SearchResult>, SearchError> {
        let authorization = (!auth.username.is_empty()).then(|| {
            let pair = format!("{}:{}", auth.username, auth.password);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let request = WebRequest {
            address,
            // The Hub answers with a token for what it has found, were we to ask on.
            headers: vec![("x-docker-token", "true".to_owned())],
            authorization,
            body: None,
        };
        let mut body = self.web(request).await?.body;
        let wrong = |why: String| SearchError::Answer { host: host.to_owned(), why };
        let mut text = Vec::new();
        while let Some(bytes) = body.next().await {
            text.extend_from_slice(&bytes.map_err(|e| wrong(e.to_string()))?);
            if text.len() > ANSWER_MAX {
                return Err(wrong(format!("it is longer than {ANSWER_MAX} bytes")));
            }
        }
        let found: Found = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        Ok(found.results)
    }
}

/// The host to ask, and what for. Docker Hub's official images are known there without `library/`.
fn split(term: &str) -> (String, &str) {
    match term.split_once('/') {
        Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => match host {
            DOCKER_HUB | HUB_INDEX => (HUB_INDEX.to_owned(), official(words)),
            host => (host.to_owned(), words),
        },
        _ => (HUB_INDEX.to_owned(), official(term)),
    }
}

fn official(words: &str) -> &str {
    words.strip_prefix("library/").unwrap_or(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_name_an_index_or_mean_the_hub() {
        for (term, host, words) in [
            ("nginx", HUB_INDEX, "nginx"),
            ("library/nginx", HUB_INDEX, "nginx"),
            ("docker.io/library/nginx", HUB_INDEX, "nginx"),
            ("team/app", HUB_INDEX, "team/app"),
            ("localhost/app", "localhost", "app"),
            ("example.com:5000/team/app", "example.com:5000", "team/app"),
        ] {
            assert_eq!(split(term), (host.to_owned(), words), "{term}");
        }
    }
}
