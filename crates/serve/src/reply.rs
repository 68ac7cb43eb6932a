//! Responses: JSON with a trailing newline, bare statuses, streams, and the headers that every response has.

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_TYPE, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::body::Body;
use crate::fault::Fault;
use crate::version::{self, ApiVersion, v};

/// What a handler returns when it does not take the connection over.
pub(crate) type Reply = Response<Body>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A value as one line of JSON.
pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Reply {
    respond(status, JSON, line(value).into())
}

/// 200 with a value.
pub(crate) fn ok<T: Serialize + ?Sized>(value: &T) -> Reply {
    json(StatusCode::OK, value)
}

/// A status without a body.
pub(crate) fn status(status: StatusCode) -> Reply {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// 204.
pub(crate) fn no_content() -> Reply {
    status(StatusCode::NO_CONTENT)
}

/// 200 with blocks as they come; the head is sent at once.
pub(crate) fn stream(
    content_type: &'static str,
    blocks: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Reply {
    respond(StatusCode::OK, HeaderValue::from_static(content_type), Body::stream(blocks))
}

/// 200 with plain text.
pub(crate) fn text(text: &'static str) -> Reply {
    respond(StatusCode::OK, TEXT, Bytes::from_static(text.as_bytes()).into())
}

/// The answer to a failed request: JSON, or plain text for clients older than 1.24.
pub(crate) fn fault(fault: &Fault, asked: ApiVersion) -> Reply {
    #[derive(Serialize)]
    struct Message<'a> {
        message: &'a str,
    }
    if fault.status() == StatusCode::NOT_MODIFIED {
        // A 304 has no body.
        return status(fault.status());
    }
    if asked < v(24) {
        let mut response = respond(fault.status(), TEXT, format!("{}\n", fault.message()).into());
        let nosniff = HeaderValue::from_static("nosniff");
        response.headers_mut().insert("X-Content-Type-Options", nosniff);
        return response;
    }
    json(fault.status(), &Message { message: fault.message() })
}

/// A value as JSON and a newline.
pub(crate) fn line<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // The API's values have string keys and derived impls, so encoding them cannot fail.
    let mut bytes = serde_json::to_vec(value).unwrap_or_else(|e| {
        tracing::error!(error = %e, "value cannot be encoded");
        b"null".to_vec()
    });
    bytes.push(b'\n');
    bytes
}

/// Headers that every response carries, and a hijacked exec repeats.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    server: HeaderValue,
    api_version: HeaderValue,
    experimental: HeaderValue,
}

impl Headers {
    /// Made once per door.
    pub(crate) fn new(product_version: &str, experimental: bool) -> Headers {
        let value = |text: String| {
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        };
        Headers {
            server: value(format!("Docker/{product_version} (linux)")),
            api_version: value(version::MAX.to_string()),
            experimental: HeaderValue::from_static(if experimental { "true" } else { "false" }),
        }
    }

    /// Adds them to a response.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        headers.insert(HeaderName::from_static("api-version"), self.api_version.clone());
        headers.insert(HeaderName::from_static("docker-experimental"), self.experimental.clone());
        headers.insert(HeaderName::from_static("ostype"), HeaderValue::from_static("linux"));
        headers.insert(SERVER, self.server.clone());
    }

    /// The same as lines, in the order in which dockerd writes them.
    pub(crate) fn lines(&self) -> String {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        format!(
            "Api-Version: {}\r\nDocker-Experimental: {}\r\nOstype: linux\r\nServer: {}\r\n",
            text(&self.api_version),
            text(&self.experimental),
            text(&self.server)
        )
    }
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Body) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(reply: Reply) -> String {
        match reply.into_body() {
            Body::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn faults_are_json_or_text_by_version() {
        let f = Fault::page_not_found();
        let new = fault(&f, v(24));
        assert_eq!((new.status().as_u16(), &new.headers()[CONTENT_TYPE]), (404, &JSON));
        assert_eq!(body(new), "{\"message\":\"page not found\"}\n");
        let old = fault(&f, v(23));
        assert_eq!(old.headers()[CONTENT_TYPE], TEXT);
        assert_eq!(body(old), "page not found\n");
    }

    #[test]
    fn not_modified_has_no_body() {
        let f = Fault::new(StatusCode::NOT_MODIFIED, "container already started");
        assert_eq!(body(fault(&f, version::MAX)), "Empty");
    }

    #[test]
    fn json_is_not_escaped_for_html() {
        assert_eq!(line("<a & b>"), b"\"<a & b>\"\n");
    }
}
