//! Answers: status, headers, and a body that is whole or streams.

use crate::media::{Accept, Notation};
use crate::watching::Events;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use wharf_kube::status::Fault;

/// An answer before it becomes HTTP.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Headers beyond the usual ones.
    pub headers: HeaderMap,
    /// The body.
    pub body: Content,
}

/// A body.
pub enum Content {
    /// All of it.
    Whole(Bytes),
    /// Events, as they happen.
    Stream(Box<Events>),
    /// These bytes, then the end: a watch that could not begin.
    Ended(Bytes),
    /// What another server answers, as it comes.
    Passed(hyper::body::Incoming),
}

impl Answer {
    /// Bytes of a media type.
    pub fn bytes(status: StatusCode, media: &str, body: impl Into<Bytes>) -> Answer {
        let mut answer =
            Answer { status, headers: HeaderMap::new(), body: Content::Whole(body.into()) };
        answer.header("content-type", media);
        answer
    }

    /// Plain text.
    pub fn text(body: impl Into<Bytes>) -> Answer {
        let mut answer = Answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", body);
        answer.header("x-content-type-options", "nosniff");
        answer
    }

    /// JSON, indented for people.
    pub fn json(status: StatusCode, value: &Value, pretty: bool) -> Answer {
        Answer::bytes(status, "application/json", json_bytes(value, pretty))
    }

    /// An object in the notation that was negotiated; `sealed` is its protobuf.
    pub fn object(
        status: StatusCode,
        accept: Accept,
        value: &Value,
        pretty: bool,
        sealed: impl FnOnce() -> Vec<u8>,
    ) -> Answer {
        match accept.notation {
            Notation::Json => Answer::json(status, value, pretty),
            Notation::Yaml => {
                Answer::bytes(status, "application/yaml", wharf_kube::yaml::write(value))
            }
            Notation::Protobuf => {
                Answer::bytes(status, "application/vnd.kubernetes.protobuf", sealed())
            }
        }
    }

    /// A refusal.
    pub fn fault(f: &Fault, accept: Option<Accept>, pretty: bool) -> Answer {
        let status = StatusCode::from_u16(f.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let value = f.to_value();
        let json =
            Accept { notation: Notation::Json, view: crate::media::View::Whole, stream: false };
        let mut answer = Answer::object(status, accept.unwrap_or(json), &value, pretty, || {
            crate::render::sealed(&value)
        });
        if let Some(after) = f.details.as_ref().map(|d| d.retry_after).filter(|s| *s > 0) {
            answer.header("retry-after", &after.to_string());
        }
        if f.reason == "Forbidden" {
            answer.header("x-content-type-options", "nosniff");
        }
        answer
    }

    /// Sets a header.
    pub fn header(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
    }

    /// Adds a warning for the client to print.
    pub fn warn(&mut self, text: &str) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            self.headers.append(http::header::WARNING, value);
        }
    }
}

/// JSON as the reference server writes it.
pub fn json_bytes(value: &Value, pretty: bool) -> Vec<u8> {
    if pretty {
        // Into memory, of a tree: neither can fail.
        serde_json::to_vec_pretty(value).unwrap_or_default()
    } else {
        let mut out = value.to_string().into_bytes();
        out.push(b'\n');
        out
    }
}

/// Whether a client is one that people read: the query says so, or else its name.
pub fn is_pretty(query: Option<bool>, agent: &str) -> bool {
    query.unwrap_or_else(|| ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p)))
}
