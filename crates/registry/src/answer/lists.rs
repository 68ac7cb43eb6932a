//! Lists: tags, repositories, referrers.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use wharf_spec::digest::Digest;
use wharf_spec::image::media_type::OCI_INDEX;

use super::manifests::name_unknown;
use super::{Answer, Call, Inner, put_text};
use crate::access::Verb;
use crate::body::Body;
use crate::name::Repository;
use crate::query::encode;
use crate::shelves::{Found, Page, page_of};

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Tags in one answer: all, in any repository that people look at.
const TAGS_MAX: usize = 10_000;
/// Repositories in one answer, and how many are the default.
const REPOSITORIES_MAX: usize = 1_000;
const REPOSITORIES: usize = 100;
/// Referrers in one answer.
const REFERRERS_MAX: usize = 1_000;
/// An index must stay readable as a manifest, so a page ends before its limit.
const REFERRERS_BYTES: usize = 3 << 20;

impl Inner {
    pub(super) async fn tags(&self, name: &Repository, call: &Call) -> Answer {
        let (n, last) = call.page(TAGS_MAX, TAGS_MAX)?;
        let page = match &self.settings.cache {
            Some(cache) => match cache.tags(name).await {
                Some(all) => Some(page_of(&all, last, n)),
                None => self.shelves.tags(name, last, n),
            },
            None => self.shelves.tags(name, last, n),
        };
        let page = page.ok_or_else(|| name_unknown(name))?;
        let mut response =
            super::json(StatusCode::OK, &json!({ "name": name.as_str(), "tags": page.names }));
        link(&mut response, &format!("/v2/{name}/tags/list"), &page, n);
        Ok(response)
    }

    pub(super) fn catalog(&self, call: &Call) -> Answer {
        let (n, last) = call.page(REPOSITORIES, REPOSITORIES_MAX)?;
        let visible = |name: &Repository| match call.who {
            // A token for the whole list names no repository.
            crate::access::Who::Granted(_) => true,
            _ => self.may(&call.who, Verb::Pull, name),
        };
        let page = self.shelves.repositories(last, n, visible);
        let mut response = super::json(StatusCode::OK, &json!({ "repositories": page.names }));
        link(&mut response, "/v2/_catalog", &page, n);
        Ok(response)
    }

    /// Never 404: that would mean that there is no such list at all.
    pub(super) fn referrers(&self, name: &Repository, subject: &Digest, call: &Call) -> Answer {
        let kind = call.query.get("artifactType");
        let (n, last) = call.page(REFERRERS_MAX, REFERRERS_MAX)?;
        let all = self.shelves.referrers(name, subject);
        let fits = |found: &&Found| {
            kind.is_none_or(|kind| found.record.artifact_type.as_deref() == Some(kind))
        };
        // In the order of their digests, so that a page can say where it ended.
        let mut rest = all
            .iter()
            .filter(fits)
            .filter(|found| last.is_none_or(|last| found.digest.to_string().as_str() > last))
            .peekable();
        let (mut manifests, mut size) = (Vec::new(), 0);
        let mut end = None;
        while manifests.len() < n && size < REFERRERS_BYTES {
            let Some(found) = rest.next() else { break };
            let descriptor = descriptor(found);
            size += descriptor.to_string().len();
            manifests.push(descriptor);
            end = Some(&found.digest);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let mut response = super::json(StatusCode::OK, &index);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
        if kind.is_some() {
            headers.insert(FILTERS, HeaderValue::from_static("artifactType"));
        }
        if let (Some(end), true) = (end, rest.peek().is_some()) {
            let filter = kind.map_or_else(String::new, |k| format!("&artifactType={}", encode(k)));
            let url = format!("/v2/{name}/referrers/{subject}?n={n}&last={end}{filter}");
            put_text(headers, LINK, &format!("<{url}>; rel=\"next\""));
        }
        Ok(response)
    }
}

fn descriptor(found: &Found) -> Value {
    let record = &found.record;
    let mut descriptor = json!({
        "mediaType": record.media_type, "digest": found.digest, "size": record.size
    });
    if let Some(kind) = &record.artifact_type {
        descriptor["artifactType"] = json!(kind);
    }
    if !record.annotations.is_empty() {
        descriptor["annotations"] = json!(record.annotations);
    }
    descriptor
}

/// Where the rest of a list is.
fn link(response: &mut Response<Body>, path: &str, page: &Page, n: usize) {
    if let (Some(last), true) = (page.names.last(), page.more) {
        let text = format!("<{path}?last={}&n={n}>; rel=\"next\"", encode(last));
        put_text(response.headers_mut(), LINK, &text);
    }
}
