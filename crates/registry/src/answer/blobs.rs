//! Blobs: sent whole or in part, looked for, deleted.

use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue,
    IF_RANGE, RANGE,
};
use http::{HeaderMap, Method, Response, StatusCode};
use wharf_spec::digest::Digest;

use super::{Answer, Call, Inner, empty, names, put_text, stamp};
use crate::body::Body;
use crate::cache::Passed;
use crate::fault::{Code, Fault};
use crate::name::Repository;
use crate::range::{Wanted, wanted};

impl Inner {
    pub(super) async fn blob(
        self: &Arc<Self>,
        name: &Repository,
        digest: &Digest,
        call: &Call,
    ) -> Answer {
        match call.method {
            Method::DELETE => self.delete_blob(name, digest),
            _ => self.send_blob(name, digest, call).await,
        }
    }

    async fn send_blob(
        self: &Arc<Self>,
        name: &Repository,
        digest: &Digest,
        call: &Call,
    ) -> Answer {
        let link = self.shelves.content.linked(&name.owner(), digest);
        let link = match (link, &self.settings.cache) {
            (Some(link), _) => link,
            (None, Some(cache)) => match self.fetch_blob(cache, name, digest, call).await? {
                Passed::Here(link) => link,
                Passed::Answered(response) => return Ok(response),
            },
            (None, None) => return Err(blob_unknown(name, digest)),
        };
        let is_head = call.method == Method::HEAD;
        if is_head && !self.shelves.needs(name, digest) {
            // Who looks is probably about to push a manifest that needs it: it must not go meanwhile.
            self.shelves.content.renew(&name.owner(), digest)?;
        }
        let mut response = empty(StatusCode::OK);
        let headers = response.headers_mut();
        stamp(headers, digest);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // Content with this digest never changes.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=31536000"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if call.has(digest) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let (from, to) = match wanted(range_of(call, digest), link.size) {
            Wanted::Whole => (0, link.size),
            Wanted::Part(first, last) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let text = format!("bytes {first}-{last}/{}", link.size);
                put_text(response.headers_mut(), CONTENT_RANGE, &text);
                (first, last + 1)
            }
            Wanted::Outside => return Ok(outside(response, link.size)),
        };
        response.headers_mut().insert(CONTENT_LENGTH, (to - from).into());
        if !is_head && from < to {
            let content = self.shelves.content.clone();
            let digest = digest.clone();
            let file = tokio::task::spawn_blocking(move || content.file(&digest)).await??;
            *response.body_mut() = Body::part(file, from, to);
        }
        Ok(response)
    }

    fn delete_blob(&self, name: &Repository, digest: &Digest) -> Answer {
        let owner = name.owner();
        if self.shelves.content.linked(&owner, digest).is_none() {
            return Err(blob_unknown(name, digest));
        }
        if !self.shelves.discard(name, digest, i64::MAX)? {
            let text = format!("a manifest in {name} needs blob {digest}; delete that first");
            return Err(Fault::new(Code::Unsupported, text));
        }
        Ok(empty(StatusCode::ACCEPTED))
    }
}

/// The range, unless it is of another version of the content.
fn range_of<'a>(call: &'a Call, digest: &Digest) -> Option<&'a str> {
    let current = call.header(IF_RANGE).is_none_or(|tag| names(tag, digest));
    call.header(RANGE).filter(|_| current)
}

fn outside(mut response: Response<Body>, size: u64) -> Response<Body> {
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    put_text(headers, CONTENT_RANGE, &format!("bytes */{size}"));
    response
}

pub(crate) fn blob_unknown(name: &Repository, digest: &Digest) -> Fault {
    let detail = serde_json::json!({ "name": name.as_str(), "digest": digest });
    Fault::new(Code::BlobUnknown, "blob unknown to registry").with_detail(detail)
}
