//! Image names: docker's short form and its full form.

/// A name taken apart; `domain` and `path` as written out in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The registry.
    pub domain: String,
    /// The repository within it.
    pub path: String,
    /// The tag, if any.
    pub tag: Option<String>,
    /// The digest, if any.
    pub digest: Option<String>,
}

const HUB: &str = "docker.io";
const INVALID: &str = "invalid reference format";

/// Reads a name with docker's defaults for registry and namespace.
pub fn parse(text: &str) -> Result<Name, String> {
    if text.len() == 64 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
        return Err(format!(
            "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        ));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (rest, tag) = match rest[slash..].find(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    let (domain, path) = split_domain(rest);
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(format!("{INVALID}: repository name ({path}) must be lowercase"));
    }
    let good = is_path(&path)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
        && is_domain(&domain);
    match good {
        true => Ok(Name {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        }),
        false => Err(INVALID.to_owned()),
    }
}

fn split_domain(text: &str) -> (String, String) {
    let (domain, path) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { HUB } else { first }, rest)
        }
        _ => (HUB, text),
    };
    let path = match domain == HUB && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    (domain.to_owned(), path)
}

fn is_path(path: &str) -> bool {
    let component = |part: &str| {
        let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let separators: Vec<&str> = part.split(alnum).filter(|s| !s.is_empty()).collect();
        part.starts_with(alnum)
            && part.ends_with(alnum)
            && separators
                .iter()
                .all(|s| matches!(*s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
    };
    path.len() <= 255 && path.split('/').all(component)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let label = |l: &str| {
        l.starts_with(|c: char| c.is_ascii_alphanumeric())
            && l.ends_with(|c: char| c.is_ascii_alphanumeric())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    port.is_none_or(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
        && (bracketed || host.split('.').all(label))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && hex.len() >= 32
        && hex.chars().all(|c| c.is_ascii_hexdigit())
}

impl Name {
    /// The repository as docker prints it: without `docker.io/` and `library/`.
    pub fn familiar_name(&self) -> String {
        if self.domain != HUB {
            return format!("{}/{}", self.domain, self.path);
        }
        self.path
            .strip_prefix("library/")
            .filter(|p| !p.contains('/'))
            .unwrap_or(&self.path)
            .to_owned()
    }

    /// The whole name as docker prints it.
    pub fn familiar(&self) -> String {
        let tag = self.tag.as_ref().map_or(String::new(), |t| format!(":{t}"));
        let digest = self.digest.as_ref().map_or(String::new(), |d| format!("@{d}"));
        format!("{}{tag}{digest}", self.familiar_name())
    }

    /// The repository in full.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// With `latest` where neither tag nor digest was given.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_dockers_defaults() {
        let check = |text: &str, full: &str, familiar: &str| {
            let name = parse(text).unwrap();
            assert_eq!(
                (name.full_name(), name.familiar()),
                (full.into(), familiar.into()),
                "{text}"
            );
        };
        check("alpine", "docker.io/library/alpine", "alpine");
        check("docker.io/library/alpine:3", "docker.io/library/alpine", "alpine:3");
        check("user/app", "docker.io/user/app", "user/app");
        check("localhost/app:1", "localhost/app", "localhost/app:1");
        check("host:5000/a/b:t", "host:5000/a/b", "host:5000/a/b:t");
        let digest = format!("a@sha256:{}", "0".repeat(64));
        check(&digest, "docker.io/library/a", &digest);
    }

    #[test]
    fn bad_names_are_refused() {
        assert_eq!(
            parse("Foo").unwrap_err(),
            "invalid reference format: repository name (library/Foo) must be lowercase"
        );
        for bad in ["", "a:", "a b", "a//b", "-a", "a@sha256:0", "a___b", "/a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
