//! The Engine API from the client's side: requests, streams, hijacked connections.

pub mod connect;
pub mod frames;
pub mod host;
pub mod resolve;
pub mod tls;

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncRead;

use host::Endpoint;

/// The version that wharf's command line speaks; older engines are asked in theirs.
pub const API_VERSION: &str = "1.51";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What can go wrong between the command line and an engine.
#[derive(Debug)]
pub enum ApiError {
    /// No engine answers there.
    Connect {
        /// Where.
        host: String,
        /// Why, when it is not simply absent.
        why: String,
    },
    /// The engine refused.
    Daemon {
        /// The HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The connection broke or said something that is not HTTP.
    Broken(String),
}

impl ApiError {
    /// Whether the engine does not have the thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Daemon { status: 404, .. })
    }

    /// The HTTP status, if the engine answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { host, why } if why.is_empty() => {
                write!(
                    f,
                    "Cannot connect to the Docker daemon at {host}. Is the docker daemon running?"
                )
            }
            Self::Connect { host, why } => write!(f, "cannot connect to {host}: {why}"),
            Self::Daemon { message, .. } => write!(f, "Error response from daemon: {message}"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// What a request carries.
pub enum Payload {
    /// Nothing.
    Empty,
    /// JSON.
    Json(Value),
    /// A stream of this media type.
    Stream(Pin<Box<dyn AsyncRead + Send>>, &'static str),
}

/// A client of one engine.
pub struct Client {
    endpoint: Endpoint,
    version: RefCell<String>,
    fixed: bool,
    headers: HeaderMap,
    traced: bool,
    idle: RefCell<Option<SendRequest<Body>>>,
}

/// The connection after an upgrade: bytes both ways.
pub type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

type Answer<T> = Result<T, ApiError>;

impl Client {
    /// A client; `version` overrides the version that requests ask for.
    pub fn new(endpoint: Endpoint, version: Option<String>, headers: HeaderMap) -> Self {
        Self {
            endpoint,
            fixed: version.is_some(),
            version: RefCell::new(version.unwrap_or_else(|| API_VERSION.to_owned())),
            headers,
            traced: false,
            idle: RefCell::new(None),
        }
    }

    /// Tells every request and its answer on standard error, for `--debug`.
    pub fn traced(self, traced: bool) -> Self {
        Self { traced, ..self }
    }

    /// The version that requests ask for.
    pub fn version(&self) -> String {
        self.version.borrow().clone()
    }

    /// The engine's address as docker writes it.
    pub fn host(&self) -> String {
        self.endpoint.to_string()
    }

    /// Connects without HTTP, as `system dial-stdio` does.
    pub async fn dial(&self) -> Answer<connect::Io> {
        connect::connect(&self.endpoint).await
    }

    /// A request whose answer is JSON, or nothing.
    pub async fn call(&self, method: Method, path: &str, payload: Payload) -> Answer<Value> {
        self.call_with(method, path, payload, &[]).await
    }

    /// The same, with headers.
    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        headers: &[(&'static str, String)],
    ) -> Answer<Value> {
        let response = self.send(method, path, payload, headers).await?;
        let bytes = collect(response).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            ApiError::Broken(format!("the engine's answer to {path} is not JSON: {e}"))
        })
    }

    /// GET with a JSON answer.
    pub async fn get(&self, path: &str) -> Answer<Value> {
        self.call(Method::GET, path, Payload::Empty).await
    }

    /// POST with a JSON answer.
    pub async fn post(&self, path: &str, payload: Payload) -> Answer<Value> {
        self.call(Method::POST, path, payload).await
    }

    /// DELETE with a JSON answer.
    pub async fn delete(&self, path: &str) -> Answer<Value> {
        self.call(Method::DELETE, path, Payload::Empty).await
    }

    /// A request whose answer is read as it comes. Errors of the engine are errors here.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        headers: &[(&'static str, String)],
    ) -> Answer<Response<Incoming>> {
        // A stream cannot be sent twice, so it goes where no version can be wrong.
        let (again, body) = match payload {
            Payload::Empty => (Some(None), Payload::Empty),
            Payload::Json(value) => (Some(Some(value.clone())), Payload::Json(value)),
            stream @ Payload::Stream(..) => (None, stream),
        };
        let versioned = again.is_some() || self.fixed;
        let response = self.send_once(&method, path, body, headers, versioned).await?;
        if response.status() != StatusCode::BAD_REQUEST {
            return check(response).await;
        }
        let failure = refusal(response).await;
        match (again, older_version(&failure)) {
            (Some(again), Some(version)) if !self.fixed && version != *self.version.borrow() => {
                *self.version.borrow_mut() = version;
                let body = again.map_or(Payload::Empty, Payload::Json);
                check(self.send_once(&method, path, body, headers, true).await?).await
            }
            _ => Err(failure),
        }
    }

    async fn send_once(
        &self,
        method: &Method,
        path: &str,
        payload: Payload,
        headers: &[(&'static str, String)],
        versioned: bool,
    ) -> Answer<Response<Incoming>> {
        let path = match versioned {
            true => format!("/v{}{path}", self.version.borrow()),
            false => path.to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(&path)
            .header("Host", self.endpoint.host_header())
            .header("User-Agent", concat!("wharf/", env!("CARGO_PKG_VERSION"), " (linux)"));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body: Body = match payload {
            Payload::Empty => Empty::new().map_err(|e| match e {}).boxed_unsync(),
            Payload::Json(value) => {
                request = request.header("Content-Type", "application/json");
                Full::from(value.to_string()).map_err(|e| match e {}).boxed_unsync()
            }
            Payload::Stream(reader, kind) => {
                request = request.header("Content-Type", kind);
                let stream = tokio_util::io::ReaderStream::with_capacity(reader, 256 << 10);
                let frames = futures_util::StreamExt::map(stream, |b| b.map(Frame::data));
                StreamBody::new(frames).boxed_unsync()
            }
        };
        let request = request
            .body(body)
            .map_err(|e| ApiError::Broken(format!("cannot ask for {path}: {e}")))?;
        let (begun, line) = (tokio::time::Instant::now(), format!("{method} {path}"));
        let answer = self.exchange(request).await;
        if self.traced {
            let outcome = match &answer {
                Ok(response) => response.status().as_u16().to_string(),
                Err(error) => error.to_string(),
            };
            let took = begun.elapsed().as_millis();
            crate::app::warn(format!("DEBUG {line}: {outcome} after {took} ms"));
        }
        answer
    }

    async fn exchange(&self, request: Request<Body>) -> Answer<Response<Incoming>> {
        let idle = self.idle.borrow_mut().take().filter(SendRequest::is_ready);
        let mut sender = match idle {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        *self.idle.borrow_mut() = Some(sender);
        Ok(response)
    }

    async fn connect(&self) -> Answer<SendRequest<Body>> {
        let io = connect::connect(&self.endpoint).await?;
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| broken(&e))?;
        tokio::task::spawn_local(async move {
            // Whoever waits for an answer on this connection sees the error too.
            drop(connection.with_upgrades().await);
        });
        Ok(sender)
    }

    /// Takes the connection over, as attach and exec do. Also says whether the stream is raw.
    pub async fn hijack(&self, path: &str, body: Option<Value>) -> Answer<(Hijacked, bool)> {
        let payload = body.map_or(Payload::Empty, Payload::Json);
        let upgrade = [("Connection", "Upgrade".to_owned()), ("Upgrade", "tcp".to_owned())];
        // This connection will be gone, so it must not become the idle one.
        let idle = self.idle.borrow_mut().take();
        let response = self.send(Method::POST, path, payload, &upgrade).await;
        *self.idle.borrow_mut() = idle;
        let response = response?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let message =
                format!("unable to upgrade to tcp, received {}", response.status().as_u16());
            return Err(ApiError::Broken(message));
        }
        let raw = response
            .headers()
            .get("content-type")
            .is_some_and(|t| t.as_bytes() == b"application/vnd.docker.raw-stream");
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| broken(&e))?;
        Ok((TokioIo::new(upgraded), raw))
    }
}

fn broken(error: &hyper::Error) -> ApiError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    ApiError::Broken(format!("error during connect: {text}"))
}

async fn check(response: Response<Incoming>) -> Answer<Response<Incoming>> {
    let status = response.status();
    match status.is_client_error() || status.is_server_error() {
        true => Err(refusal(response).await),
        false => Ok(response),
    }
}

/// No refusal is longer than this.
const MAX_REFUSAL: usize = 1 << 20;

async fn refusal(response: Response<Incoming>) -> ApiError {
    let status = response.status().as_u16();
    let limited = http_body_util::Limited::new(response.into_body(), MAX_REFUSAL);
    let bytes = limited.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|v| v["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| text.into_owned());
    let message = match message.trim() {
        "" => format!("the engine answered with status {status} and no message"),
        message => message.to_owned(),
    };
    ApiError::Daemon { status, message }
}

/// The version to ask in, from `... Maximum supported API version is 1.50`.
fn older_version(error: &ApiError) -> Option<String> {
    let ApiError::Daemon { message, .. } = error else { return None };
    let (_, version) = message.split_once("Maximum supported API version is ")?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    Some(version[..end].trim_end_matches('.').to_owned())
}

/// The whole answer.
pub async fn collect(response: Response<Incoming>) -> Answer<Bytes> {
    let body = response.into_body().collect().await.map_err(|e| broken(&e))?;
    Ok(body.to_bytes())
}

/// The next bytes of an answer, `None` at its end.
pub async fn next(body: &mut Incoming) -> Answer<Option<Bytes>> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(e)) => return Err(broken(&e)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// An answer that is a sequence of JSON values, one at a time.
pub struct JsonStream {
    body: Incoming,
    pending: Vec<u8>,
}

impl JsonStream {
    /// Reads values from an answer's body.
    pub fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), pending: Vec::new() }
    }

    /// The next value, `None` at the end.
    pub async fn next(&mut self) -> Answer<Option<Value>> {
        loop {
            if let Some(value) = self.take()? {
                return Ok(Some(value));
            }
            match next(&mut self.body).await? {
                Some(bytes) => self.pending.extend_from_slice(&bytes),
                None if self.pending.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return Err(ApiError::Broken("unexpected EOF".to_owned())),
            }
        }
    }

    fn take(&mut self) -> Answer<Option<Value>> {
        let mut values = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Value>();
        let found = values.next();
        let used = values.byte_offset();
        match found {
            Some(Ok(value)) => {
                self.pending.drain(..used);
                Ok(Some(value))
            }
            Some(Err(e)) if e.is_eof() => Ok(None),
            Some(Err(e)) => Err(ApiError::Broken(format!("the engine's stream is not JSON: {e}"))),
            None => Ok(None),
        }
    }
}

/// A path with its query; parameters without a value are left out.
pub fn url(path: &str, query: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(separator);
        out.push_str(&format!("{name}={}", escape(value, false)));
        separator = '&';
    }
    out
}

/// One segment of a path, such as a container's name.
pub fn segment(text: &str) -> String {
    escape(text, false)
}

/// An image's name in a path: its slashes stay.
pub fn image_path(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, slashes: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' | b':' | b'@' if slashes => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `--filter` values as the API's JSON.
pub fn filters(given: &[String]) -> String {
    use std::collections::BTreeMap;
    let mut map: BTreeMap<String, BTreeMap<&str, bool>> = BTreeMap::new();
    for (name, value) in given.iter().filter_map(|f| f.split_once('=')) {
        map.entry(name.trim().to_lowercase()).or_default().insert(value.trim(), true);
    }
    match map.is_empty() {
        true => String::new(),
        false => serde_json::json!(map).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_escaped() {
        assert_eq!(url("/a", &[("x", "a b/c"), ("y", "")]), "/a?x=a%20b%2Fc");
        assert_eq!(image_path("host:5000/a@sha256:0"), "host:5000/a@sha256:0");
        assert_eq!(segment("a/b?c"), "a%2Fb%3Fc");
    }

    #[test]
    fn filters_become_json() {
        let given = ["name=a".to_owned(), "Name = b".to_owned(), "label=x=y".to_owned()];
        assert_eq!(filters(&given), r#"{"label":{"x=y":true},"name":{"a":true,"b":true}}"#);
        assert_eq!(filters(&[]), "");
    }

    #[test]
    fn the_engines_version_is_found_in_its_refusal() {
        let error = |m: &str| ApiError::Daemon { status: 400, message: m.to_owned() };
        let text = "client version 1.51 is too new. Maximum supported API version is 1.50";
        assert_eq!(older_version(&error(text)).as_deref(), Some("1.50"));
        assert_eq!(older_version(&error("no")), None);
    }
}
