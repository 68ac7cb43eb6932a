//! Image references: Docker's grammar, its short forms, and back again.
//!
//! The grammar is that of the distribution project:
//! `[domain/]path[:tag][@digest]`, where a first component is a domain when it has a dot, a colon,
//! an upper-case letter, or is `localhost`; otherwise the domain is `docker.io`, and a path
//! of one component gains `library/`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::Digest;

/// The domain that names without one mean.
pub const DOCKER_HUB: &str = "docker.io";
/// The tag that names without tag or digest mean.
pub const DEFAULT_TAG: &str = "latest";
/// Longest repository name, domain included.
const NAME_MAX: usize = 255;

/// A normalised reference: `docker.io/library/nginx:1.27@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference. The texts are those that Docker's users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("invalid reference format: repository name must have at least one component")]
    Empty,
    /// The grammar does not match.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the path.
    #[error("invalid reference format: repository name must be lowercase")]
    Uppercase,
    /// Longer than 255 bytes.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// 64 hex digits would be ambiguous with an image id.
    #[error("invalid repository name: cannot specify 64-byte hexadecimal strings")]
    LooksLikeId,
}

impl Reference {
    /// Parses what a user wrote, adding `docker.io/` and `library/` where they are implied.
    /// A tag is not added: see [`Reference::or_latest`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if is_identifier(text) {
            return Err(ReferenceError::LooksLikeId);
        }
        let (rest, digest) = split_digest(text)?;
        let (name, tag) = split_tag(rest)?;
        let (domain, path) = split_domain(name);
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase);
        }
        if !is_domain(&domain) || !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self { domain, path, tag, digest })
    }

    /// The registry: `docker.io`, `ghcr.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether there is neither tag nor digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Adds `latest` if there is neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The repository alone.
    #[must_use]
    pub fn name_only(&self) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: None }
    }

    /// The same repository with `tag` and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self { tag: Some(tag.to_owned()), ..self.name_only() })
    }

    /// The same repository with `digest` and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.name_only() }
    }

    /// `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: `nginx`, `me/app`, `ghcr.io/me/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DOCKER_HUB {
            return self.name();
        }
        match self.path.strip_prefix("library/") {
            // `docker.io/library/a/b` must keep its prefix, or it would read as user `a`.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it: `nginx:1.27`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// Whether `tag` is `[\w][\w.-]{0,127}`.
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| word(b) || b == b'.' || b == b'-';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(rest)
}

/// Whether `text` is 64 lower-case hex digits: a full image id without its algorithm.
pub fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => {
            Ok((rest, Some(digest.parse().map_err(|_| ReferenceError::Format)?)))
        }
    }
}

fn split_tag(text: &str) -> Result<(&str, Option<String>), ReferenceError> {
    match text.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((name, tag)) if !tag.contains('/') => {
            if !is_tag(tag) {
                return Err(ReferenceError::Format);
            }
            Ok((name, Some(tag.to_owned())))
        }
        _ => Ok((text, None)),
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    };
    let domain = if domain == "index.docker.io" { DOCKER_HUB } else { domain };
    if domain == DOCKER_HUB && !path.contains('/') {
        return (domain.to_owned(), format!("library/{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, "")) => (ip, None),
            Some((ip, port)) => match port.strip_prefix(':') {
                Some(port) => (ip, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if domain.starts_with('[') {
        return port_ok
            && !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
    }
    port_ok && host.split('.').all(is_domain_component)
}

fn is_domain_component(part: &str) -> bool {
    let alnum = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    alnum(part.bytes().next())
        && alnum(part.bytes().next_back())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let word = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'z');
    if !bytes.first().is_some_and(word) || !bytes.last().is_some_and(word) {
        return false;
    }
    bytes.split(word).all(|gap| match gap {
        [] | [b'.'] | [b'_'] | [b'_', b'_'] => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    })
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// The canonical form, with domain.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, canonical: &str, familiar: &str) {
        let parsed = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(parsed.to_string(), canonical, "{text}");
        assert_eq!(parsed.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(canonical).unwrap(), parsed, "{text}");
        assert_eq!(Reference::parse(familiar).unwrap(), parsed, "{text}");
    }

    #[test]
    fn short_forms_gain_what_they_imply() {
        check("nginx", "docker.io/library/nginx", "nginx");
        check("nginx:1", "docker.io/library/nginx:1", "nginx:1");
        check("me/app", "docker.io/me/app", "me/app");
        check("docker.io/nginx", "docker.io/library/nginx", "nginx");
        check("index.docker.io/nginx", "docker.io/library/nginx", "nginx");
        check("library/nginx", "docker.io/library/nginx", "nginx");
        check("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b");
        check("ghcr.io/x/y:z", "ghcr.io/x/y:z", "ghcr.io/x/y:z");
        check("localhost/x", "localhost/x", "localhost/x");
        check("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1");
        check("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x");
        check("HOST/x", "HOST/x", "HOST/x");
        check("a--b/c__d.e_f", "docker.io/a--b/c__d.e_f", "a--b/c__d.e_f");
    }

    #[test]
    fn tag_and_digest_stand_together() {
        let text = format!("nginx:1@sha256:{HEX}");
        check(&text, &format!("docker.io/library/nginx:1@sha256:{HEX}"), &text);
        let parsed = Reference::parse(&text).unwrap();
        assert_eq!(parsed.tag(), Some("1"));
        assert_eq!(parsed.clone().or_latest(), parsed);
        assert_eq!(Reference::parse("x").unwrap().or_latest().tag(), Some("latest"));
    }

    #[test]
    fn bad_names_are_refused_with_dockers_words() {
        use ReferenceError::*;
        let cases: &[(&str, ReferenceError)] = &[
            ("", Empty),
            (HEX, LooksLikeId),
            ("Nginx", Uppercase),
            ("ghcr.io/Foo", Uppercase),
            ("a:b:c", Format),
            (":x", Format),
            ("x:", Format),
            ("x@sha256:12", Format),
            ("-a", Format),
            ("a-", Format),
            ("a___b", Format),
            ("a..b", Format),
            ("a//b", Format),
            ("a/", Format),
            ("/a", Format),
            ("../x", Format),
            ("a b", Format),
            ("x:\u{e9}", Format),
            ("host.:1/x", Format),
            ("[::1/x", Format),
        ];
        for (text, error) in cases {
            assert_eq!(Reference::parse(text), Err(*error), "{text:?}");
        }
        assert_eq!(Reference::parse(&"a".repeat(300)), Err(TooLong));
        assert_eq!(Reference::parse(&format!("x:{}", "t".repeat(129))), Err(Format));
    }
}
