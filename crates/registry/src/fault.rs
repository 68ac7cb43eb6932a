//! What a request is answered when it fails: the specification's codes, a status, and what a person should know.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use wharf_image::StoreError;

use crate::body::Body;

/// The codes of the distribution specification, and `NOT_FOUND` for what is no address of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    PaginationNumberInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    NotFound,
    Unknown,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::NotFound => "NOT_FOUND",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::NotFound => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// A failed request.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    code: Code,
    message: String,
    detail: Value,
    headers: HeaderMap,
}

impl Fault {
    /// A failure with the status that its code has.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let (status, message) = (code.status(), message.into());
        Self { status, code, message, detail: Value::Null, headers: HeaderMap::new() }
    }

    /// The same with another status.
    #[must_use]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with facts for programs.
    #[must_use]
    pub(crate) fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// The same with a header.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// No such upload, or not in this repository.
    pub(crate) fn upload_unknown() -> Self {
        Self::new(Code::BlobUploadUnknown, "blob upload unknown to registry")
    }

    /// What the code is.
    #[cfg(test)]
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// Which status it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer.
    pub(crate) fn response(self) -> Response<Body> {
        let mut error = json!({ "code": self.code.text(), "message": self.message });
        if !self.detail.is_null() {
            error["detail"] = self.detail;
        }
        let body = json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::Whole(Bytes::from(body)));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl From<StoreError> for Fault {
    /// Paths and causes are for the log; clients get the fact.
    fn from(error: StoreError) -> Self {
        let chain = wharf_base::error::chain(&error).to_string();
        tracing::error!(error = chain, "the registry's store failed");
        Self::new(Code::Unknown, "the registry's store failed; its log says why")
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        tracing::error!(%error, "the registry's disk failed");
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let what = if full {
            "the registry's disk is full"
        } else {
            "the registry's disk failed; its log says why"
        };
        let fault = Self::new(Code::Unknown, what);
        if full { fault.with_status(StatusCode::INSUFFICIENT_STORAGE) } else { fault }
    }
}

impl From<wharf_base::db::DbError> for Fault {
    fn from(error: wharf_base::db::DbError) -> Self {
        Self::from(StoreError::from(error))
    }
}

impl From<tokio::task::JoinError> for Fault {
    fn from(error: tokio::task::JoinError) -> Self {
        tracing::error!(%error, "a thread of the registry ended early");
        Self::new(Code::Unknown, "the registry failed; its log says why")
    }
}
