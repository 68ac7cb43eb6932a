//! Etcd's API as JSON over plain HTTP: each path is a method, which is called in gRPC and answered in JSON.
//!
//! The mapping is that of grpc-gateway, which etcd serves on the same port.

mod messages;
mod table;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use prost_reflect::MethodDescriptor;
use serde_json::json;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tower_service::Service as _;

use super::Host;
use messages::{Answers, Requests};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Metadata of gRPC comes in headers with this before their names.
const METADATA: &str = "grpc-metadata-";

/// What is asked for behind `/v3`, if anything is. `/v3beta` is what it was called before.
pub(super) fn path(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v3beta").or_else(|| path.strip_prefix("/v3"))?;
    rest.starts_with('/').then_some(rest)
}

/// Answers a request whose path [`path`] knows.
pub(super) async fn answer(host: &Host, routes: Routes, r: Request<Body>) -> Response<Body> {
    let method = match refusal(host, &r) {
        Ok(method) => method,
        Err((code, text)) => return plain(code, text),
    };
    match call(routes, &method, r).await {
        Ok(answer) => answer,
        Err(status) => failed(&status),
    }
}

/// The method that is asked for, or why not.
fn refusal(host: &Host, r: &Request<Body>) -> Result<MethodDescriptor, (StatusCode, &'static str)> {
    let found = path(r.uri().path()).and_then(table::method);
    let method = found.ok_or((StatusCode::NOT_FOUND, "Not Found"))?;
    if r.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    if is_foreign(r) {
        // Any page in a browser on this machine could write to the store otherwise.
        return Err((StatusCode::FORBIDDEN, "pages of other origins may not use the gateway"));
    }
    if named_by_certificate(r) && host.store.auth().is_enabled() {
        return Err((
            StatusCode::BAD_REQUEST,
            "CommonName of client sending a request against gateway will be ignored and not used as expected",
        ));
    }
    Ok(method)
}

/// Whether a browser says that the page which asks came from elsewhere.
fn is_foreign(r: &Request<Body>) -> bool {
    let Some(origin) = r.headers().get(header::ORIGIN) else { return false };
    let text = origin.to_str().unwrap_or_default();
    let host = r.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let own = host.or_else(|| r.uri().authority().map(|a| a.as_str()));
    text.split_once("://").map(|(_, authority)| authority) != own
}

fn named_by_certificate(r: &Request<Body>) -> bool {
    let tls = r.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let chain = tls.and_then(TlsConnectInfo::peer_certs);
    let first = chain.as_ref().and_then(|chain| chain.first());
    first.and_then(|der| super::caller::common_name(der)).is_some_and(|name| !name.is_empty())
}

async fn call(
    mut routes: Routes,
    method: &MethodDescriptor,
    r: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (head, body) = r.into_parts();
    let mut requests = Requests::new(body, method.input());
    let body = match method.is_client_streaming() {
        false => Body::new(Full::new(requests.only().await?)),
        true => {
            // What is wrong with the first request can still be answered with a status.
            let first = requests.next().await?;
            Body::new(StreamBody::new(frames(first, requests)))
        }
    };
    let uri = format!("http://gateway/{}/{}", method.parent_service().full_name(), method.name());
    let mut request = Request::post(uri).body(body).map_err(|e| Status::internal(e.to_string()))?;
    *request.headers_mut() = metadata(&head.headers);
    let answer = match routes.call(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let (head, body) = answer.into_parts();
    messages::ended(&head.headers)?;
    let mut answers = Answers::new(body, method.output());
    let first = answers.next().await?;
    if method.is_server_streaming() {
        return Ok(respond(StatusCode::OK, Body::new(StreamBody::new(lines(first, answers)))));
    }
    // The status comes behind the message.
    answers.next().await?;
    Ok(respond(StatusCode::OK, Body::new(Full::new(Bytes::from(first.unwrap_or_default())))))
}

fn metadata(asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for (name, value) in asked {
        let inner = match name.as_str().strip_prefix(METADATA) {
            Some(inner) => HeaderName::try_from(inner).ok(),
            None => (name == header::AUTHORIZATION).then(|| name.clone()),
        };
        // What gRPC itself says in headers is not the client's to say.
        if let Some(inner) = inner.filter(|n| !n.as_str().starts_with("grpc-")) {
            headers.entry(inner).or_insert_with(|| value.clone());
        }
    }
    headers
}

/// The first request and all that follow.
fn frames(
    first: Option<Bytes>,
    requests: Requests,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Status>> {
    stream::unfold((first, Some(requests)), |(first, requests)| async {
        let mut requests = requests?;
        let next = match first {
            Some(first) => Ok(Some(first)),
            None => requests.next().await,
        };
        match next {
            Ok(Some(frame)) => Some((Ok(Frame::data(frame)), (None, Some(requests)))),
            Ok(None) => None,
            Err(status) => Some((Err(status), (None, None))),
        }
    })
}

/// The first answer and all that follow, each in a line.
fn lines(
    first: Option<Vec<u8>>,
    answers: Answers,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Status>> {
    stream::unfold((first, Some(answers)), |(first, answers)| async {
        let mut answers = answers?;
        let next = match first {
            Some(first) => Ok(Some(first)),
            None => answers.next().await,
        };
        match next {
            Ok(Some(json)) => {
                let line = [b"{\"result\":", &json[..], b"}\n"].concat();
                Some((Ok(Frame::data(line.into())), (None, Some(answers))))
            }
            Ok(None) => None,
            Err(status) => {
                let http = http_status(status.code());
                let error = json!({"error": {
                    "grpc_code": i32::from(status.code()),
                    "http_code": http.as_u16(),
                    "message": status.message(),
                    "http_status": http.canonical_reason(),
                }});
                Some((Ok(Frame::data(format!("{error}\n").into())), (None, None)))
            }
        }
    })
}

fn failed(status: &Status) -> Response<Body> {
    let error = json!({
        "error": status.message(),
        "message": status.message(),
        "code": i32::from(status.code()),
    });
    respond(http_status(status.code()), Body::new(Full::new(Bytes::from(error.to_string()))))
}

fn respond(code: StatusCode, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
    answer
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut answer = respond(code, Body::new(Full::new(Bytes::from(format!("{text}\n")))));
    let media = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, media);
    answer
}

/// The statuses of grpc-gateway.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
