//! The sending side of the client: which blobs are there, uploads that survive interruptions, manifests.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use wharf_base::backoff::Backoff;
use wharf_spec::digest::Digest;

use super::payload::{Part, Payload};
use super::{Ask, Client, RegistryError, Remote, failure, host_of, join, origin};
use crate::settings::Settings;

/// Asks a registry of this process to take a blob without its bytes (`content.rs`).
const OFFER: HeaderName = HeaderName::from_static("wharf-offer");
/// How long a registry may think after the last byte of a blob: it may be copying to slow storage.
const FINISH: Duration = Duration::from_secs(300);
/// Most interruptions that one upload is worth, however much went through between them.
const BREAKS_MAX: u32 = 100;

/// How an upload begins.
pub(crate) enum Begun {
    /// The registry had the blob elsewhere and has taken it from there.
    Mounted,
    /// The bytes are to be sent here.
    Session(Uri),
}

/// A blob to be sent.
pub(crate) struct Blob<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    pub(crate) file: Arc<File>,
    /// Told how many bytes went through.
    pub(crate) tell: &'a (dyn Fn(u64) + Send + Sync),
}

impl Client {
    /// Where `repository` of `domain` can be written: never a mirror.
    pub(crate) async fn writable(
        &self,
        domain: &str,
        repository: &str,
        auth: &wharf_spec::dockerconfig::AuthConfig,
    ) -> Result<Remote<'_>, RegistryError> {
        let remote = self.origin(domain, auth).await?;
        Ok(Remote { repository: repository.to_owned(), ..remote })
    }
}

impl Remote<'_> {
    /// Whether the repository has the blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let ask = Ask::new(Method::HEAD, &self.url(&format!("blobs/{digest}")))?;
        match self.authorized(ask).await {
            Ok(_) => Ok(true),
            Err(RegistryError::Status { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins an upload of `digest`, or has it taken from the repository `from`.
    pub(crate) async fn begin(
        &self,
        digest: &Digest,
        from: Option<&str>,
        offer: &str,
    ) -> Result<Begun, RegistryError> {
        let mut query = format!("mount={digest}");
        if let Some(from) = from {
            query.push_str(&format!("&from={}", from.replace('/', "%2F")));
        }
        let ask = Ask::new(Method::POST, &self.url(&format!("blobs/uploads/?{query}")))?;
        let ask = ask.header(OFFER, offer);
        let response = self.authorized(ask).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Begun::Mounted),
            _ => self.session(&response).map(Begun::Session),
        }
    }

    /// Begins an upload that is to be filled.
    async fn begin_plain(&self) -> Result<Uri, RegistryError> {
        let ask = Ask::new(Method::POST, &self.url("blobs/uploads/"))?;
        self.session(&self.authorized(ask).await?)
    }

    /// Sends a blob to the upload `session`, going on after each interruption with what the registry lacks.
    pub(crate) async fn send_blob(
        &self,
        session: Uri,
        blob: &Blob<'_>,
    ) -> Result<(), RegistryError> {
        let settings = &self.client.settings;
        let mut tries = Tries::new(settings);
        let (mut session, mut at) = (session, 0);
        loop {
            let (error, taken) = match self.fill(&mut session, blob, at).await {
                Ok(()) => match self.finish(&session, blob.digest).await {
                    Ok(()) => return Ok(()),
                    // An earlier attempt may have been heard although its answer was lost.
                    Err(RegistryError::Status { status: 404, .. })
                        if tries.breaks > 0 && self.has_blob(blob.digest).await? =>
                    {
                        return Ok(());
                    }
                    Err(error) => (error, at),
                },
                Err(error) => (error, at),
            };
            let again = is_worth_a_try(&error);
            if !again || !tries.pause(settings, &error).await {
                self.cancel(&session).await;
                return Err(error);
            }
            (session, at) = match self.progress_of(&session).await {
                Ok(there) => there,
                // The session is gone or unusable: a new one.
                Err(_) => (self.begin_plain().await?, 0),
            };
            if at > taken {
                tries.earned();
            }
        }
    }

    /// Sends what is behind `at`. `session` becomes what the registry says is next.
    async fn fill(&self, session: &mut Uri, blob: &Blob<'_>, at: u64) -> Result<(), RegistryError> {
        if at >= blob.size {
            return Ok(());
        }
        let mut ask = self.at(Method::PATCH, session);
        ask = ask.header(header::CONTENT_TYPE, "application/octet-stream");
        if at > 0 {
            ask = ask.header(header::CONTENT_RANGE, &format!("{at}-{}", blob.size - 1));
        }
        let sent = Arc::new(AtomicU64::new(at));
        ask.body = Payload::Part(Part { file: blob.file.clone(), from: at, to: blob.size, sent });
        let response = self.client.patiently(&ask, blob.tell).await?;
        if !response.status().is_success() {
            return Err(failure(&self.host(), response).await);
        }
        *session = self.session(&response).unwrap_or_else(|_| session.clone());
        Ok(())
    }

    async fn finish(&self, session: &Uri, digest: &Digest) -> Result<(), RegistryError> {
        let mark = if session.query().is_some() { '&' } else { '?' };
        let url = format!("{session}{mark}digest={}", digest.to_string().replace(':', "%3A"));
        let uri = url.parse().map_err(|_| RegistryError::Setting { what: url })?;
        let ask = self.at(Method::PUT, &uri);
        let response = self.client.patiently(&ask, &|_| ()).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            _ => Err(failure(&self.host(), response).await),
        }
    }

    /// Where a broken upload is to be continued, and from which byte.
    async fn progress_of(&self, session: &Uri) -> Result<(Uri, u64), RegistryError> {
        let response = self.client.send(&self.at(Method::GET, session)).await?;
        let wrong = || RegistryError::Protocol {
            host: self.host(),
            what: "with no state of an upload".into(),
        };
        if response.status() != StatusCode::NO_CONTENT {
            return Err(wrong());
        }
        let range = response.headers().get(header::RANGE).and_then(|v| v.to_str().ok());
        let last = range.and_then(|r| r.rsplit_once('-')?.1.parse::<u64>().ok());
        let last = last.ok_or_else(wrong)?;
        // `0-0` is said of an empty upload as well as of one byte; sending that byte again is always right.
        let at = if last == 0 { 0 } else { last + 1 };
        Ok((self.session(&response).unwrap_or_else(|_| session.clone()), at))
    }

    /// Frees what the registry holds of it. It expires by itself if this fails.
    async fn cancel(&self, session: &Uri) {
        if let Err(error) = self.client.exchange(&self.at(Method::DELETE, session)).await {
            tracing::debug!(host = self.host(), %error, "upload was not cancelled");
        }
    }

    /// Stores a manifest under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        what: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        let mut ask = Ask::new(Method::PUT, &self.url(&format!("manifests/{what}")))?;
        ask = ask.header(header::CONTENT_TYPE, media_type);
        ask.body = Payload::Whole(bytes);
        self.authorized(ask).await.map(drop)
    }

    /// A request to where an upload is. Credentials stay with the registry (CVE-2020-15157).
    fn at(&self, method: Method, session: &Uri) -> Ask {
        let own: Option<Uri> = self.root().parse().ok();
        let is_own = own.is_some_and(|own| origin(&own) == origin(session));
        let mut ask = Ask::to(method, session.clone());
        ask.authorization = is_own.then(|| self.client.tokens.known(self)).flatten();
        ask
    }

    fn session(&self, response: &Response<Incoming>) -> Result<Uri, RegistryError> {
        let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let base: Option<Uri> = self.root().parse().ok();
        location.and_then(|l| join(&base?, l)).ok_or_else(|| RegistryError::Protocol {
            host: self.host(),
            what: "without saying where to upload".into(),
        })
    }
}

impl Client {
    /// One exchange whose body may take long: it fails when nothing moves, not when much does.
    async fn patiently(
        &self,
        ask: &Ask,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Response<Incoming>, RegistryError> {
        let stall = self.settings.registries.stall;
        let exchange = self.exchange_within(ask, None);
        tokio::pin!(exchange);
        let (mut before, mut quiet) = (ask.body.sent(), Duration::ZERO);
        let tick = (stall / 10).clamp(Duration::from_millis(10), Duration::from_millis(100));
        loop {
            if let Ok(done) = tokio::time::timeout(tick, &mut exchange).await {
                tell(ask.body.sent());
                return done;
            }
            let now = ask.body.sent();
            quiet = if now == before { quiet + tick } else { Duration::ZERO };
            before = now;
            tell(now);
            let patience = if ask.body.is_sent() { stall.max(FINISH) } else { stall };
            if quiet >= patience {
                let source = format!("nothing moved for {} s", patience.as_secs()).into();
                return Err(RegistryError::Connect { host: host_of(&ask.uri), source });
            }
        }
    }
}

/// Whether sending again what is missing may succeed. A range that did not fit is asked about.
fn is_worth_a_try(error: &RegistryError) -> bool {
    error.is_transient() || matches!(error, RegistryError::Status { status: 404 | 416, .. })
}

/// Attempts: what moves something forward earns new ones.
struct Tries {
    backoff: Backoff,
    attempt: u32,
    breaks: u32,
}

impl Tries {
    fn new(settings: &Settings) -> Self {
        let registries = &settings.registries;
        let backoff = Backoff::new(registries.retry_pause, registries.retry_pause_max);
        Self { backoff, attempt: 1, breaks: 0 }
    }

    fn earned(&mut self) {
        self.attempt = 1;
    }

    /// Waits before another attempt; false if there is none left.
    async fn pause(&mut self, settings: &Settings, error: &RegistryError) -> bool {
        self.attempt += 1;
        self.breaks += 1;
        if self.attempt > settings.download_attempts || self.breaks >= BREAKS_MAX {
            return false;
        }
        let pause = error.pause().unwrap_or_else(|| self.backoff.step_jittered());
        tokio::time::sleep(pause.min(settings.registries.retry_pause_max)).await;
        true
    }
}
