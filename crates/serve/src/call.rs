//! One request, decoded as far as every handler needs it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyDataStream, BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use wharf_engine::options::{ByteReader, ByteStream};

use crate::fault::Fault;
use crate::query::Query;
use crate::version::ApiVersion;

/// The most that a JSON body may measure.
const MAX_JSON: usize = 16 << 20;
/// The most that is read of an archive after its fate is known.
const MAX_DISCARD: usize = 1 << 30;
/// How long that may take.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(30);

/// A request whose path has been understood.
#[derive(Debug)]
pub(crate) struct Call {
    /// The API version that its path asks for.
    pub(crate) version: ApiVersion,
    /// Its parameters.
    pub(crate) query: Query,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Upload,
}

impl Call {
    /// The first value of a header, empty if it is absent or not text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Whether the client asked to switch protocols.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(UPGRADE)
    }

    /// Reads the body as JSON. `None` if there is no body, which is not an error.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Fault> {
        let bare = self.body.is_end_stream() || self.header(CONTENT_LENGTH) == "0";
        check_content_type(self.headers.get(CONTENT_TYPE).map(|v| v.as_bytes()), bare)?;
        if bare {
            return Ok(None);
        }
        let bytes = self.bytes().await?;
        parse(&bytes).map(Some)
    }

    /// Reads a body that should be short, whatever its type.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, Fault> {
        match Limited::new(&mut self.body, MAX_JSON).collect().await {
            Ok(all) => Ok(all.to_bytes()),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Fault::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("request body is larger than {} MiB", MAX_JSON >> 20),
            )),
            Err(e) => Err(Fault::invalid(format!("request body cannot be read: {e}"))),
        }
    }

    /// The body as blocks.
    pub(crate) fn into_stream(self) -> ByteStream {
        Box::pin(self.body.into_data_stream().map_err(io::Error::other))
    }

    /// The body as a reader.
    pub(crate) fn into_reader(self) -> ByteReader {
        Box::pin(tokio_util::io::StreamReader::new(self.into_stream()))
    }
}

/// A request's body. What nobody reads of it is read and thrown away, within bounds: most clients look for an answer
/// only after they have sent everything, and would see a broken pipe in its place.
#[derive(Debug)]
pub(crate) struct Upload(Option<Incoming>);

impl Upload {
    pub(crate) fn new(body: Incoming) -> Upload {
        Upload(Some(body))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let next = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        // Without a runtime the daemon is at its end, and the connection with it.
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            let rest = discard(rest.into_data_stream());
            runtime.spawn(tokio::time::timeout(MAX_DISCARD_TIME, rest));
        }
    }
}

async fn discard(mut rest: BodyDataStream<Incoming>) {
    let mut discarded = 0;
    while let Some(Ok(block)) = rest.next().await {
        discarded += block.len();
        if discarded > MAX_DISCARD {
            return;
        }
    }
}

/// Reads exactly one JSON value.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(&mut reader).map_err(|e| {
        if e.is_eof() && bytes.iter().all(u8::is_ascii_whitespace) {
            return Fault::invalid("invalid JSON: got EOF while reading request body");
        }
        // A text that is JSON has a value of the wrong type.
        let why = crate::syntax::mistake(bytes).unwrap_or_else(|| e.to_string());
        Fault::invalid(format!("invalid JSON: {why}"))
    })?;
    match reader.end() {
        Ok(()) => Ok(value),
        Err(_) => Err(Fault::invalid("unexpected content after JSON")),
    }
}

fn check_content_type(header: Option<&[u8]>, bare: bool) -> Result<(), Fault> {
    let Some(header) = header else {
        // No type is fine as long as there is no body.
        return if bare { Ok(()) } else { Err(malformed("")) };
    };
    let text = String::from_utf8_lossy(header);
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.is_empty() && bare {
        return Ok(());
    }
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    match kind.split_once('/') {
        Some((a, b)) if token(a) && token(b) => (),
        _ => return Err(malformed(&text)),
    }
    if kind == "application/json" {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "unsupported Content-Type header ({text}): must be 'application/json'"
    )))
}

fn malformed(text: &str) -> Fault {
    Fault::invalid(format!("malformed Content-Type header ({text}): mime: no media type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn content_type(header: Option<&str>, bare: bool, expected: Result<(), &str>) {
        let got = check_content_type(header.map(str::as_bytes), bare);
        assert_eq!(got.as_ref().copied().map_err(Fault::message), expected);
    }

    #[test]
    fn bodies_must_say_that_they_are_json() {
        content_type(None, true, Ok(()));
        content_type(Some("application/json; charset=utf-8"), false, Ok(()));
        content_type(Some("Application/JSON"), true, Ok(()));
        content_type(
            Some("text/plain"),
            false,
            Err("unsupported Content-Type header (text/plain): must be 'application/json'"),
        );
        content_type(None, false, Err("malformed Content-Type header (): mime: no media type"));
        content_type(
            Some("nonsense"),
            false,
            Err("malformed Content-Type header (nonsense): mime: no media type"),
        );
    }

    #[track_caller]
    fn json(body: &str, expected: Result<u64, &str>) {
        let got = parse::<u64>(body.as_bytes());
        assert_eq!(got.as_ref().map_err(Fault::message).copied(), expected, "{body:?}");
    }

    #[test]
    fn exactly_one_value_is_read() {
        json("5", Ok(5));
        json(" 5\n", Ok(5));
        json("", Err("invalid JSON: got EOF while reading request body"));
        json("5 {}", Err("unexpected content after JSON"));
        assert!(parse::<u64>(b"{").unwrap_err().message().starts_with("invalid JSON: "));
    }
}
