//! Which resource a path names.

use wharf_spec::digest::Digest;

use crate::fault::{Code, Fault};
use crate::name::{Repository, Target, UploadId};
use crate::query::decode;

/// Everything that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/token`
    Token,
    /// `/v2/<name>/blobs/<digest>`
    Blob(Repository, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(Repository),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(Repository, UploadId),
    /// `/v2/<name>/manifests/<tag or digest>`
    Manifest(Repository, Target),
    /// `/v2/<name>/tags/list`
    Tags(Repository),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(Repository, Digest),
}

/// Finds the resource of a path, percent signs and all.
pub(crate) fn route(path: &str) -> Result<Resource, Fault> {
    let path = decode(path).ok_or_else(unknown)?;
    if path == "/token" {
        return Ok(Resource::Token);
    }
    let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
    match rest {
        "" | "/" => return Ok(Resource::Base),
        "/_catalog" => return Ok(Resource::Catalog),
        _ => (),
    }
    let parts: Vec<&str> = rest.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
    match parts.as_slice() {
        [name @ .., "blobs", "uploads", ""] | [name @ .., "blobs", "uploads"] => {
            Ok(Resource::Uploads(repository(name)?))
        }
        [name @ .., "blobs", "uploads", id] => {
            let id = UploadId::parse(id);
            Ok(Resource::Upload(repository(name)?, id.ok_or_else(Fault::upload_unknown)?))
        }
        [name @ .., "blobs", what] => Ok(Resource::Blob(repository(name)?, digest(what)?)),
        [name @ .., "manifests", what] => Ok(Resource::Manifest(repository(name)?, target(what)?)),
        [name @ .., "tags", "list"] => Ok(Resource::Tags(repository(name)?)),
        [name @ .., "referrers", what] => Ok(Resource::Referrers(repository(name)?, digest(what)?)),
        _ => Err(unknown()),
    }
}

fn repository(parts: &[&str]) -> Result<Repository, Fault> {
    let name = parts.join("/");
    Repository::parse(&name)
        .ok_or_else(|| Fault::new(Code::NameInvalid, format!("invalid repository name {name:?}")))
}

fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|e| Fault::new(Code::DigestInvalid, format!("{e}")))
}

fn target(text: &str) -> Result<Target, Fault> {
    let (code, what) = match text.contains(':') {
        true => (Code::DigestInvalid, "digest"),
        false => (Code::TagInvalid, "tag"),
    };
    Target::parse(text).ok_or_else(|| Fault::new(code, format!("invalid {what} {text:?}")))
}

fn unknown() -> Fault {
    Fault::new(Code::NotFound, "page not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_contain_the_words_of_the_grammar() {
        let empty = Digest::sha256(b"");
        let name = |text| Repository::parse(text).unwrap();
        let id = UploadId::random().unwrap();
        for (path, expected) in [
            ("/v2".to_owned(), Resource::Base),
            ("/v2/_catalog".into(), Resource::Catalog),
            (format!("/v2/a/b/blobs/{empty}"), Resource::Blob(name("a/b"), empty.clone())),
            (
                format!("/v2/a/blobs/{}", empty.to_string().replace(':', "%3A")),
                Resource::Blob(name("a"), empty.clone()),
            ),
            ("/v2/a/blobs/uploads/".into(), Resource::Uploads(name("a"))),
            (format!("/v2/a/blobs/uploads/{id}"), Resource::Upload(name("a"), id.clone())),
            ("/v2/tags/list/tags/list".into(), Resource::Tags(name("tags/list"))),
            (
                "/v2/manifests/manifests/manifests".into(),
                Resource::Manifest(name("manifests"), Target::Tag("manifests".into())),
            ),
            (format!("/v2/a/referrers/{empty}"), Resource::Referrers(name("a"), empty.clone())),
        ] {
            assert_eq!(route(&path).ok(), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (path, code) in [
            ("/", Code::NotFound),
            ("/v3/", Code::NotFound),
            ("/v2x/", Code::NotFound),
            ("/v2/a", Code::NotFound),
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2//tags/list", Code::NameInvalid),
            ("/v2/../x/tags/list", Code::NameInvalid),
            ("/v2/a/blobs/sha256:x", Code::DigestInvalid),
            ("/v2/a/manifests/sha256:bad", Code::DigestInvalid),
            ("/v2/a/manifests/.x", Code::TagInvalid),
            ("/v2/a/blobs/uploads/..%2f..%2fetc", Code::NotFound),
            ("/v2/a/blobs/uploads/xyz", Code::BlobUploadUnknown),
            ("/v2/a/referrers/x", Code::DigestInvalid),
            ("/v2/%", Code::NotFound),
        ] {
            assert_eq!(route(path).unwrap_err().code(), code, "{path}");
        }
    }
}
