//! Names of repositories and uploads: checked when they are made, so that they are safe as keys and file names.

use std::fmt;

use wharf_spec::digest::Digest;
use wharf_spec::reference;

/// Longest name of a repository (distribution-spec: 255 with the host, whose length nobody here knows).
const NAME_MAX: usize = 255;

/// `library/nginx`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Repository(String);

impl Repository {
    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= NAME_MAX && text.split('/').all(is_component);
        fits.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Who has the blobs of this repository, as the content store knows it.
    pub(crate) fn owner(&self) -> String {
        format!("registry/{}", self.0)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = 0;
    let bytes = text.as_bytes();
    for (i, &b) in bytes.iter().enumerate() {
        match b {
            b if is_word(b) => separator = 0,
            b'-' if separator == 0 || bytes[i - 1] == b'-' => separator += 1,
            b'_' if separator == 0 || (separator == 1 && bytes[i - 1] == b'_') => separator += 1,
            b'.' if separator == 0 => separator += 1,
            _ => return false,
        }
    }
    bytes.first().is_some_and(|b| is_word(*b)) && separator == 0
}

/// What names a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tag(String),
    Digest(Digest),
}

impl Target {
    /// A text with a colon is meant as a digest.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.contains(':') {
            true => text.parse().ok().map(Self::Digest),
            false => reference::is_tag(text).then(|| Self::Tag(text.to_owned())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// 122 random bits, as a UUID: nobody finds the upload of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UploadId(String);

impl UploadId {
    /// A new one.
    pub(crate) fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = hex::encode(bytes);
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        Ok(Self(parts.join("-")))
    }

    /// Only what [`UploadId::random`] could have made.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        (hex && lengths == [8, 4, 4, 4, 12]).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_follow_the_grammar() {
        for good in ["a", "a/b", "a.b", "a_b", "a__b", "a---b", "0/1-2/x.y_z", "library/nginx"] {
            assert!(Repository::parse(good).is_some(), "{good}");
        }
        let long = "a/".repeat(128);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a._b", "a-_b", "..",
            "a b", "ä", &long,
        ] {
            assert!(Repository::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn uploads_are_named_by_us_alone() {
        let id = UploadId::random().unwrap();
        assert_eq!(UploadId::parse(id.as_str()), Some(id.clone()));
        assert_ne!(UploadId::random().unwrap(), id);
        for bad in ["", "..", "../../../../etc/passwd", "0-0-0-0-0", &id.as_str().to_uppercase()] {
            assert!(
                UploadId::parse(bad).is_none() || bad.chars().all(|c| !c.is_alphabetic()),
                "{bad}"
            );
        }
    }

    #[test]
    fn targets_are_tags_or_digests() {
        assert!(matches!(Target::parse("latest"), Some(Target::Tag(_))));
        assert!(matches!(Target::parse(&Digest::sha256(b"").to_string()), Some(Target::Digest(_))));
        assert!(Target::parse("sha256:baddigest").is_none() && Target::parse(".x").is_none());
    }
}
