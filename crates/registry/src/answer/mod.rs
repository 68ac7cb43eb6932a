//! The registry: every request's way from its head to its answer.

pub(crate) mod blobs;
mod lists;
mod manifests;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod uploads;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::Notify;
use wharf_base::db::Db;
use wharf_image::Content;
use wharf_spec::digest::Digest;

use crate::access::{Verb, Who};
use crate::body::{Body, Requested};
use crate::cache::Flights;
use crate::fault::{Code, Fault};
use crate::name::Repository;
use crate::query::Query;
use crate::route::{Resource, route};
use crate::settings::Settings;
use crate::shelves::Shelves;
use crate::upload::Uploads;

/// What a client calls the content of an answer.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Old clients ask for this before they believe that they talk to a registry.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// Shown by a push of this process: what it has need not be sent (`wharf_image::Content::is_offered`).
const OFFER: HeaderName = HeaderName::from_static("wharf-offer");

/// A registry. Clones are the same one.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) shelves: Shelves,
    pub(crate) uploads: Uploads,
    /// Something may have become garbage.
    pub(crate) stirred: Notify,
    /// Somebody asks, or has left.
    pub(crate) traffic: Arc<Notify>,
    pub(crate) flights: Flights,
}

/// Why a registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] wharf_image::StoreError),
    /// The directory of uploads cannot be used.
    #[error("prepare the directory of uploads")]
    Uploads(#[source] std::io::Error),
}

/// One request, taken apart.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) body: Requested,
    pub(crate) who: Who,
    /// How the client reaches us: `https://host:port`.
    pub(crate) base: String,
}

/// What is to be answered, or why not.
pub(crate) type Answer = Result<Response<Body>, Fault>;

impl Registry {
    /// Opens the registry whose repositories are in `db` and whose blobs are in `content`.
    pub fn open(content: Content, db: Db, settings: Settings) -> Result<Self, OpenError> {
        let root = content.root().to_owned();
        let uploads = Uploads::open(&root, db.clone(), settings.clock.clone());
        let inner = Inner {
            uploads: uploads.map_err(OpenError::Uploads)?,
            shelves: Shelves::open(content, db)?,
            settings,
            stirred: Notify::new(),
            traffic: Arc::default(),
            flights: Flights::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Told of each request that comes over a connection, and of each connection that ends.
    pub fn traffic(&self) -> Arc<Notify> {
        self.0.traffic.clone()
    }

    /// Answers a request. `secure`: it came over TLS. Dropping the future keeps what an upload has received.
    pub async fn answer(&self, request: Request<Requested>, secure: bool) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let head = parts.method == Method::HEAD;
        let line = format!("{} {}", parts.method, parts.uri.path());
        let answered = self.0.answer(parts, body, secure).await;
        let mut response = answered.unwrap_or_else(Fault::response);
        tracing::debug!(request = line, status = response.status().as_u16(), "answered");
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if head {
            bodyless(&mut response);
        }
        response
    }
}

/// Answers to HEAD say how long the body would be.
fn bodyless(response: &mut Response<Body>) {
    let length = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    if !response.headers().contains_key(CONTENT_LENGTH) {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::Empty;
}

impl Inner {
    async fn answer(self: &Arc<Self>, parts: Parts, body: Requested, secure: bool) -> Answer {
        let resource = route(parts.uri.path())?;
        let base = base_of(&parts, secure);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let who = self.identify(&resource, &parts, &base).await?;
        let Parts { method, headers, .. } = parts;
        let call = Call { method, headers, query, body, who, base };
        self.permit(&resource, &call)?;
        match resource {
            Resource::Base => Ok(json(StatusCode::OK, &serde_json::json!({}))),
            Resource::Token => self.token(call).await,
            Resource::Catalog => self.catalog(&call),
            Resource::Tags(name) => self.tags(&name, &call).await,
            Resource::Referrers(name, digest) => self.referrers(&name, &digest, &call),
            Resource::Blob(name, digest) => self.blob(&name, &digest, &call).await,
            Resource::Uploads(name) => self.begin_upload(&name, call).await,
            Resource::Upload(name, id) => self.upload(&name, &id, call).await,
            Resource::Manifest(name, target) => self.manifest(&name, target, call).await,
        }
    }

    async fn identify(&self, resource: &Resource, parts: &Parts, base: &str) -> Result<Who, Fault> {
        if *resource == Resource::Token {
            // It looks at the credentials itself: they are not tokens.
            return Ok(Who::Anonymous);
        }
        let known = self.settings.auth.identify(&parts.headers, self.now()).await;
        let wanted = wanted(resource, &parts.method);
        known.map_err(|fault| self.challenged(fault, base, wanted))
    }

    /// Refuses what the registry does not do at all, and what this client may not do.
    fn permit(&self, resource: &Resource, call: &Call) -> Result<(), Fault> {
        check_method(resource, &call.method)?;
        let wanted = wanted(resource, &call.method);
        let is_read = matches!(call.method, Method::GET | Method::HEAD);
        if !is_read && *resource != Resource::Token {
            if self.settings.cache.is_some() && call.method != Method::DELETE {
                let text = "the registry is a cache of another; push there";
                return Err(Fault::new(Code::Unsupported, text));
            }
            if self.settings.read_only {
                return Err(Fault::new(Code::Unsupported, "the registry is read-only"));
            }
            let deletes = matches!(resource, Resource::Blob(..) | Resource::Manifest(..))
                && call.method == Method::DELETE;
            if deletes && !self.settings.deletes {
                return Err(Fault::new(
                    Code::Unsupported,
                    "deletion is switched off in this registry",
                ));
            }
        }
        match (resource, wanted) {
            // A login asks here whether its credentials are right.
            (Resource::Base | Resource::Catalog, _) if call.who == Who::Anonymous => {
                Err(self.refuse(call, None))
            }
            (Resource::Catalog, _) if !call.who.may_list() => Err(self.refuse(call, None)),
            (_, Some((name, verb))) if !self.may(&call.who, verb, name) => {
                Err(self.refuse(call, Some((name, verb))))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn may(&self, who: &Who, verb: Verb, name: &Repository) -> bool {
        self.settings.rules.allow(who, verb, name)
    }

    /// 401 to those who could say more about themselves, 403 to those who cannot.
    pub(crate) fn refuse(&self, call: &Call, wanted: Option<(&Repository, Verb)>) -> Fault {
        match call.who {
            Who::Anonymous | Who::Granted(_) => {
                let fault = Fault::new(Code::Unauthorized, "authentication required");
                self.challenged(fault, &call.base, wanted)
            }
            Who::Anyone | Who::User(_) => {
                Fault::new(Code::Denied, "requested access to the resource is denied")
            }
        }
    }

    fn challenged(&self, fault: Fault, base: &str, wanted: Option<(&Repository, Verb)>) -> Fault {
        if fault.status() != StatusCode::UNAUTHORIZED {
            return fault;
        }
        let headers = self.settings.auth.challenge(base, wanted);
        let mut fault = fault;
        for (name, value) in headers {
            if let Some(name) = name {
                fault = fault.with_header(name, value);
            }
        }
        fault
    }

    pub(crate) fn now(&self) -> i64 {
        self.settings.clock.unix_nanos() / 1_000_000_000
    }
}

/// What a request does to which repository.
fn wanted<'a>(resource: &'a Resource, method: &Method) -> Option<(&'a Repository, Verb)> {
    let verb = match *method {
        Method::GET | Method::HEAD => Verb::Pull,
        Method::DELETE => Verb::Delete,
        _ => Verb::Push,
    };
    match resource {
        Resource::Base | Resource::Catalog | Resource::Token => None,
        // To look after an upload, or to give it up, is part of pushing.
        Resource::Uploads(name) | Resource::Upload(name, _) => Some((name, Verb::Push)),
        Resource::Blob(name, _)
        | Resource::Manifest(name, _)
        | Resource::Tags(name)
        | Resource::Referrers(name, _) => Some((name, verb)),
    }
}

fn check_method(resource: &Resource, method: &Method) -> Result<(), Fault> {
    let allowed = match resource {
        Resource::Base | Resource::Catalog | Resource::Tags(_) | Resource::Referrers(..) => {
            "GET, HEAD"
        }
        Resource::Token => "GET, POST",
        Resource::Blob(..) => "GET, HEAD, DELETE",
        Resource::Uploads(_) => "POST",
        Resource::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        Resource::Manifest(..) => "GET, HEAD, PUT, DELETE",
    };
    if allowed.split(", ").any(|one| one == method.as_str()) {
        return Ok(());
    }
    let fault = Fault::new(Code::Unsupported, format!("{method} is not possible here"));
    Err(fault.with_header(ALLOW, HeaderValue::from_static(allowed)))
}

/// Behind a proxy, what the client sees is what the proxy says.
fn base_of(parts: &Parts, secure: bool) -> String {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let scheme = match header("x-forwarded-proto") {
        Some(proto @ ("http" | "https")) => proto,
        _ if secure => "https",
        _ => "http",
    };
    let host =
        header("x-forwarded-host").or(header("host")).or(parts.uri.authority().map(|a| a.as_str()));
    let host = host.unwrap_or("localhost");
    // It goes between quotes of a header.
    let host = if host.contains(['"', '\\', '/', ' ']) { "localhost" } else { host };
    format!("{scheme}://{host}")
}

impl Call {
    /// A header as text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Whether the client has the content with this digest already.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.header(IF_NONE_MATCH).is_some_and(|tags| names(tags, digest))
    }

    /// The page that is asked for: how many names, and behind which.
    fn page(&self, default: usize, max: usize) -> Result<(usize, Option<&str>), Fault> {
        let n = match self.query.all("n").next() {
            None => default,
            Some(text) => text.parse::<usize>().map_err(|_| {
                Fault::new(Code::PaginationNumberInvalid, format!("n is not a number: {text:?}"))
            })?,
        };
        // More than the most is the most, with a link to the rest (CVE-2023-2253 was an `n` without bound).
        Ok((n.min(max), self.query.get("last")))
    }
}

/// Whether a list of entity tags has that of `digest`; weak tags and bare digests count too, as clients send them.
fn names(tags: &str, digest: &Digest) -> bool {
    let digest = digest.to_string();
    tags.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.trim_matches('"') == digest
    })
}

/// A JSON answer.
fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::Whole(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// Names the content of an answer.
pub(crate) fn stamp(headers: &mut HeaderMap, digest: &Digest) {
    let text = digest.to_string();
    if let (Ok(value), Ok(tag)) = (text.parse(), format!("\"{text}\"").parse()) {
        headers.insert(CONTENT_DIGEST, value);
        headers.insert(ETAG, tag);
    }
}

/// 201 with where the new thing is.
fn created(location: &str, digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    put_text(response.headers_mut(), LOCATION, location);
    put_text(response.headers_mut(), CONTENT_DIGEST, &digest.to_string());
    response
}

/// A header whose value is made of checked names.
fn put_text(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}
