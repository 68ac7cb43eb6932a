//! What a request is answered when it fails: a status and the text that clients show and match.

use http::StatusCode;
use wharf_base::error::chain;
use wharf_engine::EngineError;
use wharf_engine::filters::FilterError;
use wharf_net::{ErrorKind, NetError};

use crate::version::RangeError;

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    status: StatusCode,
    message: String,
}

impl Fault {
    /// A failure with any status.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Fault {
        Fault { status, message: message.into() }
    }

    /// 400: the request itself is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, message)
    }

    /// 501: understood, and not done by this engine.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 404 for an unknown path and for a known path with the wrong method.
    pub(crate) fn page_not_found() -> Fault {
        Fault::new(StatusCode::NOT_FOUND, "page not found")
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The same failure with words before its message.
    #[must_use]
    pub(crate) fn prefixed(mut self, words: &str) -> Fault {
        self.message.insert_str(0, words);
        self
    }
}

impl From<EngineError> for Fault {
    fn from(e: EngineError) -> Fault {
        let status = StatusCode::from_u16(e.kind().status());
        Fault::new(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), e.message())
    }
}

impl From<NetError> for Fault {
    fn from(e: NetError) -> Fault {
        let status = match e.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Fault::new(status, chain(&e).to_string())
    }
}

impl From<FilterError> for Fault {
    fn from(e: FilterError) -> Fault {
        Fault::invalid(e.to_string())
    }
}

impl From<RangeError> for Fault {
    fn from(e: RangeError) -> Fault {
        Fault::invalid(e.to_string())
    }
}
