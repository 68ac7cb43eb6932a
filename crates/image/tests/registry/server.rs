//! The registry: it serves what it was given, and does wrong what it was told to do wrong.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_spec::image::media_type;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

/// What the next answer for a blob does wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Closes the connection after so many bytes.
    Cut(usize),
    /// Sends so many bytes and then nothing.
    Stall(usize),
    /// Answers with this status.
    Status(u16),
    /// Ignores `Range`.
    NoRange,
    /// Sends other bytes of the same length.
    Lie,
    /// Sends more than there is.
    More,
    /// Sends elsewhere.
    Redirect(String),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) blobs: HashMap<String, Bytes>,
    pub(crate) manifests: HashMap<String, (String, Bytes)>,
    pub(crate) faults: VecDeque<Fault>,
    /// Method, path, Range, Authorization.
    pub(crate) log: Vec<(Method, String, Option<String>, Option<String>)>,
    /// `Bearer` or `Basic`.
    pub(crate) auth: Option<&'static str>,
    pub(crate) address: String,
}

#[derive(Clone, Default)]
pub(crate) struct Registry(pub(crate) Arc<Mutex<State>>);

type Body = BoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).body(full(body)).unwrap()
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let registry = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        registry.0.lock().address = address.to_string();
        let shared = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { Ok::<_, Infallible>(shared.handle(&request)) }
                });
                let serve = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(serve.await) });
            }
        });
        registry
    }

    pub(crate) fn name(&self, rest: &str) -> Reference {
        Reference::parse(&format!("{}/{rest}", self.0.lock().address)).unwrap()
    }

    fn handle(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut state = self.0.lock();
        let header =
            |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let (path, authorization) = (request.uri().path().to_owned(), header("authorization"));
        let entry =
            (request.method().clone(), path.clone(), header("range"), authorization.clone());
        state.log.push(entry);
        if path == "/token" {
            let basic = "Basic bWU6c2VjcmV0";
            return match authorization.as_deref() {
                Some(value) if value == basic => {
                    answer(200, r#"{"token":"good","expires_in":300}"#)
                }
                _ => answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#),
            };
        }
        if let Some(refused) = state.refuse(authorization.as_deref()) {
            return refused;
        }
        if path == "/v2/" {
            return answer(200, "{}");
        }
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        match parts[..] {
            [what, "manifests", _] => state.manifest(request.method(), what),
            [digest, "blobs", _] => state.blob(digest, header("range")),
            ["list", "tags", _] => answer(200, r#"{"tags":["1","2"]}"#),
            _ => answer(404, ""),
        }
    }

    /// Adds an image of these layers under `tag`; returns the digest of its manifest.
    pub(crate) fn add(
        &self,
        tag: &str,
        layers: &[Vec<u8>],
        edit: impl FnOnce(&mut Value),
    ) -> Digest {
        let mut state = self.0.lock();
        let diff_ids: Vec<String> = layers.iter().map(|l| Digest::sha256(l).to_string()).collect();
        let platform = Platform::host();
        let config = json!({
            "architecture": platform.architecture, "os": "linux",
            "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let config = state.put(config.to_string().into_bytes());
        let layers: Vec<Value> = layers
            .iter()
            .map(|plain| {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(plain).unwrap();
                let (digest, size) = state.put(gz.finish().unwrap());
                json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": digest, "size": size})
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::OCI_CONFIG, "digest": config.0, "size": config.1},
            "layers": layers
        });
        edit(&mut manifest);
        state.put_manifest(tag, &manifest)
    }

    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().faults.extend(faults);
    }

    pub(crate) fn gets(&self, part: &str) -> usize {
        let state = self.0.lock();
        state.log.iter().filter(|l| l.0 == Method::GET && l.1.contains(part)).count()
    }

    pub(crate) fn ranges(&self) -> Vec<String> {
        self.0.lock().log.iter().filter_map(|l| l.2.clone()).collect()
    }
}

impl State {
    fn put(&mut self, bytes: Vec<u8>) -> (Digest, usize) {
        let digest = Digest::sha256(&bytes);
        let size = bytes.len();
        self.blobs.insert(digest.to_string(), bytes.into());
        (digest, size)
    }

    pub(crate) fn put_manifest(&mut self, tag: &str, value: &Value) -> Digest {
        let bytes = Bytes::from(value.to_string());
        let digest = Digest::sha256(&bytes);
        let kind = value["mediaType"].as_str().unwrap_or_default().to_owned();
        self.manifests.insert(tag.to_owned(), (kind.clone(), bytes.clone()));
        self.manifests.insert(digest.to_string(), (kind, bytes));
        digest
    }

    fn refuse(&self, authorization: Option<&str>) -> Option<Response<Body>> {
        let (challenge, expected) = match self.auth? {
            "Bearer" => (
                format!(
                    "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:a/b:pull\"",
                    self.address
                ),
                "Bearer good",
            ),
            _ => ("Basic realm=\"r\"".to_owned(), "Basic bWU6c2VjcmV0"),
        };
        if authorization == Some(expected) {
            return None;
        }
        let mut refused = answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#);
        refused.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        Some(refused)
    }

    fn manifest(&mut self, method: &Method, what: &str) -> Response<Body> {
        let Some((kind, bytes)) = self.manifests.get(what).cloned() else {
            return answer(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#);
        };
        let mut response =
            answer(200, if method == Method::HEAD { Bytes::new() } else { bytes.clone() });
        response.headers_mut().insert("content-type", kind.parse().unwrap());
        let digest =
            if what.contains(':') { what.to_owned() } else { Digest::sha256(&bytes).to_string() };
        response.headers_mut().insert("docker-content-digest", digest.parse().unwrap());
        response
    }

    fn blob(&mut self, digest: &str, range: Option<String>) -> Response<Body> {
        let Some(mut bytes) = self.blobs.get(digest).cloned() else { return answer(404, "") };
        // Configs are small and are never at fault.
        let fault = if bytes.len() > 1000 { self.faults.pop_front() } else { None };
        let from: usize = match (&range, &fault) {
            (None, _) | (_, Some(Fault::NoRange)) => 0,
            (Some(range), _) => {
                range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
            }
        };
        let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let length = bytes.len() - from;
        bytes = bytes.slice(from..);
        let body = match fault {
            None | Some(Fault::NoRange) => full(bytes),
            Some(Fault::Status(status)) => {
                let mut response = answer(status, "");
                response.headers_mut().insert("retry-after", "0".parse().unwrap());
                return response;
            }
            Some(Fault::Redirect(to)) => {
                let mut response = answer(307, "");
                response
                    .headers_mut()
                    .insert("location", format!("{to}/v2/a/b/blobs/{digest}").parse().unwrap());
                return response;
            }
            Some(Fault::Lie) => full(vec![7; length]),
            Some(Fault::More) => full([&bytes[..], &[0; 5000]].concat()),
            Some(Fault::Cut(n)) => {
                let end = Err(std::io::Error::other("cut"));
                let frames = [Ok(Frame::data(bytes.slice(..n.min(length)))), end];
                // The frame is sent before the error ends the connection.
                let frames = futures_util::stream::iter(frames).then(|f| async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    f
                });
                BoxBody::new(StreamBody::new(frames))
            }
            Some(Fault::Stall(n)) => {
                let head =
                    futures_util::stream::iter([Ok(Frame::data(bytes.slice(..n.min(length))))]);
                BoxBody::new(StreamBody::new(head.chain(futures_util::stream::pending())))
            }
        };
        Response::builder().status(status).body(body).unwrap()
    }
}
