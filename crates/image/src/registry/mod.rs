//! The registry client: distribution-spec over HTTP, with mirrors, tokens, resumption and retries.
//!
//! Retries live in one place, [`Client::send`]: a request that may be repeated is, with growing pauses; what
//! a registry really answers is never retried.

mod auth;
mod dns;
mod endpoint;
mod hosts;
mod payload;
mod tls;
mod transport;
mod upload;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use wharf_base::backoff::Backoff;
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::media_type;
use wharf_spec::reference::Reference;

use crate::settings::Settings;
use crate::web::WebRequest;

pub(crate) use auth::encode;
pub(crate) use endpoint::{Endpoint, is_insecure};
use payload::Payload;
use transport::Greeting;
pub(crate) use upload::{Begun, Blob};

/// Largest manifest that is read; the distribution specification's limit.
const MANIFEST_MAX: usize = 4 << 20;
/// Largest answer that explains an error.
const ERROR_MAX: usize = 64 << 10;
/// Longest chain of redirects.
const REDIRECTS_MAX: usize = 10;
/// What we accept where a manifest is expected.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Talks to registries. Shares connections and tokens.
pub(crate) struct Client {
    settings: Settings,
    http: transport::Http,
    tokens: auth::Tokens,
}

/// One repository at one address, as one user.
pub(crate) struct Remote<'a> {
    pub(crate) client: &'a Client,
    pub(crate) endpoint: Endpoint,
    /// `library/nginx`
    pub(crate) repository: String,
    /// Credentials; mirrors get none.
    pub(crate) auth: AuthConfig,
}

/// A manifest or index as it came.
pub(crate) struct RawManifest {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
}

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection.
    #[error("cannot reach {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It speaks plain HTTP where TLS was expected. Docker's text.
    #[error(
        "http: server gave HTTP response to HTTPS client (add {host:?} to insecure-registries if that is intended)"
    )]
    PlainHttp {
        /// Host and port.
        host: String,
    },
    /// It answered with an error.
    #[error("{host}: {message}")]
    Status {
        /// Who answered.
        host: String,
        /// HTTP status.
        status: u16,
        /// First error code of the answer, such as `MANIFEST_UNKNOWN`; may be empty.
        code: String,
        /// The errors as text.
        message: String,
        /// How long to wait, if it says.
        retry_after: Option<Duration>,
    },
    /// It answered something that makes no sense.
    #[error("{host} answered {what}")]
    Protocol {
        /// Who answered.
        host: String,
        /// What.
        what: String,
    },
    /// The connection broke within an answer.
    #[error("{host} answered with a body that cannot be read ({why})")]
    Broken {
        /// Who answered.
        host: String,
        /// What broke.
        why: String,
    },
    /// The content is not what was asked for.
    #[error("{host} sent content with digest {found}, expected {expected}")]
    Digest {
        /// Who sent it.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A setting is wrong.
    #[error("{what} is not a valid registry setting")]
    Setting {
        /// Which.
        what: String,
    },
}

impl RegistryError {
    /// Whether the same request may succeed later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            http: transport::Http::new(settings),
            tokens: auth::Tokens::default(),
        }
    }

    /// How long nothing may arrive before a transfer has stalled.
    pub(crate) fn stall(&self) -> Duration {
        self.settings.registries.stall
    }

    /// The addresses at which `name` may be had, in the order to try them.
    pub(crate) async fn remotes(
        &self,
        name: &Reference,
        auth: &AuthConfig,
    ) -> Result<Vec<Remote<'_>>, RegistryError> {
        let endpoints = self.endpoints(name.domain()).await?;
        Ok(endpoints
            .into_iter()
            .map(|endpoint| Remote {
                client: self,
                repository: name.path().to_owned(),
                // Credentials for a registry are not for its mirrors.
                auth: if endpoint.mirror { AuthConfig::default() } else { auth.clone() },
                endpoint,
            })
            .collect())
    }

    /// The registry `domain` itself, never a mirror, for questions about no repository.
    pub(crate) async fn origin(
        &self,
        domain: &str,
        auth: &AuthConfig,
    ) -> Result<Remote<'_>, RegistryError> {
        // Its own address is the last, and always there.
        let own = self.endpoints(domain).await?.pop();
        let endpoint = own.ok_or_else(|| RegistryError::Setting { what: domain.to_owned() })?;
        Ok(Remote { client: self, endpoint, repository: String::new(), auth: auth.clone() })
    }

    /// `https`, or `http` where that is allowed and `host` speaks no TLS.
    pub(crate) async fn scheme(&self, host: &str) -> Result<&'static str, RegistryError> {
        if !is_insecure(host, &self.settings.registries) {
            return Ok("https");
        }
        match self.http.greet(&format!("https://{host}/")).await? {
            Greeting::Tls => Ok("https"),
            Greeting::Plain => Ok("http"),
            Greeting::Nobody(error) => Err(error),
        }
    }

    /// The addresses of `domain`. One that may go without TLS is greeted, to learn whether it does: to find out with
    /// requests would take all the patience that those have with a registry that is busy.
    async fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let mut all = endpoint::endpoints(domain, &self.settings.registries)?;
        let Some(own) = all.pop_if(|e| e.may_be_plain) else { return Ok(all) };
        all.push(match self.http.greet(own.base()).await? {
            Greeting::Tls => own,
            Greeting::Plain => own.into_plain(),
            // Its mirrors may be there; without any there is nobody to ask.
            Greeting::Nobody(error) if all.is_empty() => return Err(error),
            Greeting::Nobody(_) => own,
        });
        Ok(all)
    }

    /// Asks a server that is no registry. Given conditions, the answer may be 304.
    pub(crate) async fn web(
        &self,
        uri: Uri,
        request: WebRequest,
    ) -> Result<Response<Incoming>, RegistryError> {
        let host = host_of(&uri);
        let method = if request.body.is_some() { Method::POST } else { Method::GET };
        let mut ask = Ask::to(method, uri);
        for (name, value) in &request.headers {
            ask = ask.header(header::HeaderName::from_static(name), value);
        }
        ask.authorization = request.authorization;
        ask.body = Payload::Whole(request.body.unwrap_or_default());
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => Err(failure(&host, response).await),
            _ => Ok(response),
        }
    }

    /// One exchange, without retries; follows redirects. `Authorization` stays with the origin it was meant
    /// for (CVE-2020-15157).
    async fn exchange(&self, request: &Ask) -> Result<Response<Incoming>, RegistryError> {
        self.exchange_within(request, Some(self.settings.registries.stall)).await
    }

    /// The same, with as much patience for the head of the answer; `None` is without end.
    async fn exchange_within(
        &self,
        request: &Ask,
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut uri = request.uri.clone();
        let mut authorization = request.authorization.clone();
        for _ in 0..REDIRECTS_MAX {
            let host = host_of(&uri);
            let mut builder = Request::builder().method(&request.method).uri(&uri);
            builder =
                builder.header(header::USER_AGENT, concat!("wharf/", env!("CARGO_PKG_VERSION")));
            for (name, value) in &request.headers {
                builder = builder.header(name, value);
            }
            if let Some(value) = &authorization {
                builder = builder.header(header::AUTHORIZATION, value);
            }
            if request.body.is_empty() && matches!(request.method, Method::POST | Method::PUT) {
                // hyper leaves it out, and some registries insist.
                builder = builder.header(header::CONTENT_LENGTH, 0);
            }
            let wrong =
                |what: &str| RegistryError::Protocol { host: host.clone(), what: what.into() };
            let built = builder
                .body(request.body.body())
                .map_err(|_| wrong("with an address that is none"))?;
            let response = self.http.send(built, patience).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED
            {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let location = location.ok_or_else(|| wrong("with a redirect to nowhere"))?;
            let next = join(&uri, location).ok_or_else(|| wrong("with a malformed redirect"))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(wrong("with a redirect from https to http"));
            }
            if origin(&next) != origin(&uri) {
                authorization = None;
            }
            uri = next;
        }
        let what = format!("with more than {REDIRECTS_MAX} redirects");
        Err(RegistryError::Protocol { host: host_of(&uri), what })
    }

    /// An exchange that is repeated while that may help. Returns answers of success, 401, and 304 to a condition.
    async fn send(&self, request: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let registries = &self.settings.registries;
        let mut backoff = Backoff::new(registries.retry_pause, registries.retry_pause_max);
        let mut attempt = 1;
        loop {
            let error = match self.exchange(request).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response)
                    if matches!(
                        response.status(),
                        StatusCode::UNAUTHORIZED | StatusCode::NOT_MODIFIED
                    ) =>
                {
                    return Ok(response);
                }
                Ok(response) => failure(&host_of(&request.uri), response).await,
                Err(error) => error,
            };
            if attempt >= self.settings.download_attempts || !error.is_transient() {
                return Err(error);
            }
            attempt += 1;
            let pause = error.pause().unwrap_or_else(|| backoff.step_jittered());
            tokio::time::sleep(pause.min(registries.retry_pause_max)).await;
        }
    }
}

/// One request, to be sent as often as needed.
struct Ask {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    authorization: Option<String>,
    body: Payload,
}

impl Ask {
    fn new(method: Method, url: &str) -> Result<Self, RegistryError> {
        let uri = url.parse().map_err(|_| RegistryError::Setting { what: url.to_owned() })?;
        Ok(Self::to(method, uri))
    }

    fn to(method: Method, uri: Uri) -> Self {
        let body = Payload::Whole(Bytes::new());
        Self { method, uri, headers: HeaderMap::new(), authorization: None, body }
    }

    fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = value.parse() {
            self.headers.insert(name, value);
        }
        self
    }
}

impl Remote<'_> {
    /// Who is asked, for messages.
    pub(crate) fn host(&self) -> String {
        self.endpoint.host().to_owned()
    }

    /// Where the registry's API begins.
    pub(crate) fn root(&self) -> String {
        format!("{}/", self.endpoint.base())
    }

    /// Tries the credentials; returns the identity token, if one is given for them.
    pub(crate) async fn login(&self) -> Result<String, RegistryError> {
        let ask = Ask::new(Method::GET, &self.root())?;
        let response = self.client.send(&ask).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(String::new());
        }
        let challenges = challenges(&response);
        let denied = failure(&self.host(), response).await;
        let Some(granted) = self.client.tokens.log_in(self, &challenges).await? else {
            return Err(denied);
        };
        let ask = Ask { authorization: Some(granted.authorization), ..ask };
        let response = self.client.send(&ask).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => Err(failure(&self.host(), response).await),
            _ => Ok(granted.identity),
        }
    }

    /// The digest that `what` (a tag or digest) has there, without fetching it: a HEAD does not count against pull
    /// limits. `None` if the registry does not say.
    pub(crate) async fn head(&self, what: &str) -> Result<Option<Digest>, RegistryError> {
        let ask = Ask::new(Method::HEAD, &self.url(&format!("manifests/{what}")))?;
        let response = self.authorized(ask.header(header::ACCEPT, ACCEPT)).await?;
        Ok(digest_header(response.headers()))
    }

    /// The manifest or index `what`. By digest, it is verified against that; by tag, against the registry's own claim.
    pub(crate) async fn manifest(
        &self,
        what: &str,
        expected: Option<&Digest>,
    ) -> Result<RawManifest, RegistryError> {
        let ask = Ask::new(Method::GET, &self.url(&format!("manifests/{what}")))?;
        let response = self.authorized(ask.header(header::ACCEPT, ACCEPT)).await?;
        let claimed = digest_header(response.headers());
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media_type = kind.unwrap_or_default().to_owned();
        let bytes = self.read(response, MANIFEST_MAX).await?;
        let wanted = expected.or(claimed.as_ref());
        let digest = match wanted {
            Some(wanted) if wanted.matches(&bytes) => wanted.clone(),
            Some(wanted) => {
                return Err(RegistryError::Digest {
                    host: self.host(),
                    expected: wanted.clone(),
                    found: Digest::sha256(&bytes),
                });
            }
            None => Digest::sha256(&bytes),
        };
        Ok(RawManifest { bytes, media_type, digest })
    }

    /// A small blob, verified.
    pub(crate) async fn small_blob(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<Bytes, RegistryError> {
        let limit = usize::try_from(size).unwrap_or(usize::MAX).min(2 * MANIFEST_MAX);
        let bytes = self.whole_blob(digest, limit).await?;
        if digest.matches(&bytes) {
            return Ok(bytes);
        }
        let (expected, found) = (digest.clone(), Digest::sha256(&bytes));
        Err(RegistryError::Digest { host: self.host(), expected, found })
    }

    /// Asks again when the connection breaks within the answer, which `send` has let go by then.
    async fn whole_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes, RegistryError> {
        let settings = &self.client.settings;
        let registries = &settings.registries;
        let mut backoff = Backoff::new(registries.retry_pause, registries.retry_pause_max);
        let mut attempt = 1;
        loop {
            let response = self.blob(digest, 0).await?;
            match self.read(response, limit).await {
                Err(RegistryError::Broken { .. }) if attempt < settings.download_attempts => {
                    attempt += 1;
                    let pause = backoff.step_jittered().min(registries.retry_pause_max);
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }

    /// A blob from byte `from` on. The answer may be the whole all the same: 200 instead of 206.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        from: u64,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut ask = Ask::new(Method::GET, &self.url(&format!("blobs/{digest}")))?;
        if from > 0 {
            ask = ask.header(header::RANGE, &format!("bytes={from}-"));
        }
        self.authorized(ask).await
    }

    /// All tags of the repository.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut all = Vec::new();
        let mut url = self.url("tags/list?n=1000");
        // A registry that links in circles is stopped.
        for _ in 0..1000 {
            let response = self.authorized(Ask::new(Method::GET, &url)?).await?;
            let next = response.headers().get(header::LINK).and_then(|l| l.to_str().ok());
            let next =
                next.and_then(|l| l.split_once('<')?.1.split_once('>')).map(|l| l.0.to_owned());
            let bytes = self.read(response, MANIFEST_MAX).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|_| RegistryError::Protocol {
                    host: self.host(),
                    what: "with a malformed list of tags".into(),
                })?;
            all.extend(page.tags.unwrap_or_default());
            let base: Option<Uri> = url.parse().ok();
            match next.and_then(|link| join(&base?, &link)) {
                Some(uri) => url = uri.to_string(),
                None => break,
            }
        }
        Ok(all)
    }

    fn url(&self, rest: &str) -> String {
        self.endpoint.url(&self.repository, rest)
    }

    /// Sends with the credentials that the registry asks for.
    async fn authorized(&self, mut ask: Ask) -> Result<Response<Incoming>, RegistryError> {
        ask.authorization = self.client.tokens.known(self);
        let response = self.client.send(&ask).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = challenges(&response);
        let denied = failure(&self.host(), response).await;
        let Some(authorization) = self.client.tokens.obtain(self, &challenges).await? else {
            return Err(denied);
        };
        ask.authorization = Some(authorization);
        let response = self.client.send(&ask).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(failure(&self.host(), response).await);
        }
        Ok(response)
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let stall = self.client.settings.registries.stall;
        read(&self.host(), response, limit, stall).await
    }
}

fn challenges(response: &Response<Incoming>) -> Vec<String> {
    let all = response.headers().get_all(header::WWW_AUTHENTICATE);
    all.iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
}

async fn read(
    host: &str,
    response: Response<Incoming>,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, RegistryError> {
    let collect = Limited::new(response.into_body(), limit).collect();
    let wrong = |what: String| RegistryError::Protocol { host: host.to_owned(), what };
    match tokio::time::timeout(patience, collect).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(wrong(format!("with more than {limit} bytes")))
        }
        Ok(Err(error)) => {
            Err(RegistryError::Broken { host: host.to_owned(), why: error.to_string() })
        }
        Err(_) => Err(wrong("too slowly".into())),
    }
}

/// What an answer that is no success says.
async fn failure(host: &str, response: Response<Incoming>) -> RegistryError {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
    let retry_after = after.and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
    let body = read(host, response, ERROR_MAX, Duration::from_secs(5)).await.unwrap_or_default();
    let errors: Vec<One> =
        serde_json::from_slice::<Errors>(&body).map(|e| e.errors).unwrap_or_default();
    let code = errors.first().map(|e| e.code.clone()).unwrap_or_default();
    let texts: Vec<String> = errors
        .iter()
        .map(|e| format!("{}: {}", e.code.to_lowercase().replace('_', " "), e.message))
        .collect();
    let message = if texts.is_empty() {
        format!("unexpected status {status}")
    } else {
        // Docker Hub's clients look for "toomanyrequests".
        texts.join(", ")
    };
    RegistryError::Status {
        host: host.to_owned(),
        status: status.as_u16(),
        code,
        message,
        retry_after,
    }
}

fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn host_of(uri: &Uri) -> String {
    // Without a name and a password, which no message may repeat.
    let whole = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    whole.rsplit('@').next().unwrap_or_default().to_owned()
}

fn origin(uri: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        _ => Some(80),
    });
    (uri.scheme_str(), uri.host(), port)
}

/// `location` as seen from `base`.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{scheme}://{authority}{dir}/{location}").parse().ok()
}

/// Whether a manifest of this type is one to follow.
pub(crate) fn is_known(kind: &str) -> bool {
    media_type::is_manifest(kind) || media_type::is_index(kind)
}
