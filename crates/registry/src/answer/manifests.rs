//! Manifests: sent, stored under digests and tags, deleted.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{Method, StatusCode};
use wharf_spec::digest::Digest;

use super::{Answer, Call, Inner, created, empty, names, put_text, stamp};
use crate::body::{Body, Requested, next};
use crate::fault::{Code, Fault};
use crate::manifest::{MANIFEST_MAX, receive};
use crate::name::{Repository, Target};
use crate::shelves::{Found, Put};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one request may give to a manifest; the specification asks for ten.
const TAGS_MAX: usize = 100;

impl Inner {
    pub(super) async fn manifest(&self, name: &Repository, target: Target, call: Call) -> Answer {
        match call.method {
            Method::PUT => self.put_manifest(name, target, call).await,
            Method::DELETE => self.delete_manifest(name, &target),
            _ => self.send_manifest(name, &target, &call).await,
        }
    }

    async fn send_manifest(&self, name: &Repository, target: &Target, call: &Call) -> Answer {
        if let Some(cache) = &self.settings.cache {
            self.refresh(cache, name, target).await?;
        }
        let found = self.shelves.find(name, target);
        let Found { digest, record } = found.ok_or_else(|| self.manifest_unknown(name, target))?;
        let mut response = empty(StatusCode::OK);
        stamp(response.headers_mut(), &digest);
        put_text(response.headers_mut(), CONTENT_TYPE, &record.media_type);
        if call.has(&digest) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        if call.method == Method::HEAD {
            response.headers_mut().insert(CONTENT_LENGTH, record.size.into());
            return Ok(response);
        }
        let content = self.shelves.content.clone();
        let bytes = tokio::task::spawn_blocking(move || content.read(&digest)).await??;
        *response.body_mut() = Body::Whole(bytes.into());
        Ok(response)
    }

    async fn put_manifest(&self, name: &Repository, target: Target, mut call: Call) -> Answer {
        let body =
            std::mem::replace(&mut call.body, crate::body::requested(http_body_util::Empty::new()));
        let bytes = self.read_manifest(body, &call).await?;
        let (digest, tags) = match target {
            Target::Digest(digest) => (digest, tags_of(&call)?),
            Target::Tag(tag) => (Digest::sha256(&bytes), vec![tag]),
        };
        if !digest.matches(&bytes) {
            let text = format!("the manifest does not have digest {digest}");
            return Err(Fault::new(Code::DigestInvalid, text));
        }
        let outside = call.header(CONTENT_TYPE).unwrap_or_default();
        let received = receive(&bytes, outside, self.now())?;
        let subject = received.record.subject.clone();
        let may_move =
            |tag: &str, old: Option<&Digest>| self.may_move(name, tag, old, &digest, &call);
        let put = Put {
            repository: name,
            digest: &digest,
            bytes: &bytes,
            tags: &tags,
            may_move: &may_move,
            whole: true,
        };
        self.shelves.put(&put, received)?;
        tracing::info!(repository = name.as_str(), %digest, tags = tags.join(" "), who = %call.who, "manifest stored");
        let by_tag = tags.first().filter(|_| call.query.get("tag").is_none());
        let what = by_tag.cloned().unwrap_or_else(|| digest.to_string());
        let mut response = created(&format!("/v2/{name}/manifests/{what}"), &digest);
        if let Some(subject) = subject {
            put_text(response.headers_mut(), SUBJECT, &subject.to_string());
        }
        if call.query.get("tag").is_some() {
            tags.iter().for_each(|tag| put_text(response.headers_mut(), TAG, tag));
        }
        Ok(response)
    }

    async fn read_manifest(&self, mut body: Requested, call: &Call) -> Result<Bytes, Fault> {
        let too_large = || {
            let text = format!("a manifest may have {MANIFEST_MAX} bytes");
            Fault::new(Code::ManifestInvalid, text).with_status(StatusCode::PAYLOAD_TOO_LARGE)
        };
        let announced = call.header(CONTENT_LENGTH).and_then(|l| l.parse::<usize>().ok());
        if announced.is_some_and(|announced| announced > MANIFEST_MAX) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(block) = next(&mut body, self.settings.stall).await {
            let block = block.map_err(|e| {
                Fault::new(Code::ManifestInvalid, format!("the manifest did not arrive whole: {e}"))
            })?;
            if bytes.len() + block.len() > MANIFEST_MAX {
                return Err(too_large());
            }
            bytes.extend_from_slice(&block);
        }
        Ok(bytes.into())
    }

    /// Preconditions of the request, and rules of the repository.
    fn may_move(
        &self,
        name: &Repository,
        tag: &str,
        old: Option<&Digest>,
        new: &Digest,
        call: &Call,
    ) -> Result<(), Fault> {
        let failed = |text: String| {
            Err(Fault::new(Code::Denied, text).with_status(StatusCode::PRECONDITION_FAILED))
        };
        if let Some(tags) = call.header(IF_MATCH)
            && !old.is_some_and(|old| names(tags, old))
        {
            return failed(format!("tag {tag} is not what If-Match says"));
        }
        if let (Some(tags), Some(old)) = (call.header(IF_NONE_MATCH), old)
            && names(tags, old)
        {
            return failed(format!("tag {tag} is what If-None-Match excludes"));
        }
        match old {
            Some(old) if old != new && self.settings.rules.is_immutable(name, tag) => {
                Err(immutable(name, tag))
            }
            _ => Ok(()),
        }
    }

    fn delete_manifest(&self, name: &Repository, target: &Target) -> Answer {
        let may_go = |tag: &str| match self.settings.rules.is_immutable(name, tag) {
            true => Err(immutable(name, tag)),
            false => Ok(()),
        };
        let removed = match target {
            Target::Tag(tag) => {
                if self.shelves.find(name, target).is_some() {
                    may_go(tag)?;
                }
                self.shelves.remove_tag(name, tag)?
            }
            Target::Digest(digest) => self.shelves.remove_manifest(name, digest, may_go)?,
        };
        if !removed {
            return Err(self.manifest_unknown(name, target));
        }
        tracing::info!(repository = name.as_str(), %target, "manifest or tag deleted");
        self.stirred.notify_one();
        Ok(empty(StatusCode::ACCEPTED))
    }

    fn manifest_unknown(&self, name: &Repository, target: &Target) -> Fault {
        if !self.shelves.exists(name) {
            return name_unknown(name);
        }
        let what = match target {
            Target::Tag(_) => "tag",
            Target::Digest(_) => "digest",
        };
        let detail = serde_json::json!({ "name": name.as_str(), what: target.to_string() });
        Fault::new(Code::ManifestUnknown, "manifest unknown").with_detail(detail)
    }
}

pub(super) fn name_unknown(name: &Repository) -> Fault {
    let detail = serde_json::json!({ "name": name.as_str() });
    Fault::new(Code::NameUnknown, "repository name not known to registry").with_detail(detail)
}

fn immutable(name: &Repository, tag: &str) -> Fault {
    Fault::new(Code::Denied, format!("tag {tag} of {name} is immutable by this registry's rules"))
}

/// The `tag` parameters of a push by digest.
fn tags_of(call: &Call) -> Result<Vec<String>, Fault> {
    let tags: Vec<String> = call.query.all("tag").map(str::to_owned).collect();
    if tags.len() > TAGS_MAX {
        let text = format!("one request may give {TAGS_MAX} tags");
        return Err(Fault::new(Code::TagInvalid, text).with_status(StatusCode::URI_TOO_LONG));
    }
    match tags.iter().find(|tag| !wharf_spec::reference::is_tag(tag)) {
        Some(tag) => Err(Fault::new(Code::TagInvalid, format!("invalid tag {tag:?}"))),
        None => Ok(tags),
    }
}
