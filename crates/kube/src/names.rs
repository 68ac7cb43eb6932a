//! Names and labels: which texts may be one, and the sentences that say why not.

use std::collections::BTreeSet;
use std::sync::{OnceLock, RwLock};

/// Why a text is no DNS subdomain, the form of most names.
pub const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// Why a text is no DNS label.
pub const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// Why a text is no name of a service.
pub const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
/// Why a text is no label's value.
pub const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// Why a text is no label's key.
pub const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
/// Why a text is no key with a prefix.
pub const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
/// Why a text is no key of a ConfigMap.
pub const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
/// Longer than 63.
pub const TOO_LONG_63: &str = "must be no more than 63 bytes";
/// Longer than 253.
pub const TOO_LONG_253: &str = "must be no more than 253 bytes";

/// The one copy of a name that lives as long as the program. The tables' names are such; those of
/// custom resources join them, each once, however often its definition is made again.
pub fn intern(name: &str) -> &'static str {
    static ALL: OnceLock<Names> = OnceLock::new();
    let all = ALL.get_or_init(Names::default);
    let known = |set: &BTreeSet<&'static str>| set.get(name).copied();
    if let Some(known) = all.read().ok().and_then(|set| known(&set)) {
        return known;
    }
    match all.write() {
        Ok(mut set) => known(&set).unwrap_or_else(|| {
            let kept: &'static str = name.to_owned().leak();
            set.insert(kept);
            kept
        }),
        // A thread died between two lines that cannot fail.
        Err(_) => name.to_owned().leak(),
    }
}

type Names = RwLock<BTreeSet<&'static str>>;

fn alphanumeric_ends(s: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(s.as_bytes().first()) && edge(s.as_bytes().last())
}

fn lower_label(s: &str) -> bool {
    !s.is_empty()
        && alphanumeric_ends(s)
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// What keeps `s` from being a DNS subdomain.
pub fn subdomain(s: &str) -> Option<&'static str> {
    if s.len() > 253 {
        return Some(TOO_LONG_253);
    }
    (!s.split('.').all(lower_label)).then_some(SUBDOMAIN)
}

/// What keeps `s` from being a DNS label.
pub fn label(s: &str) -> Option<&'static str> {
    if s.len() > 63 {
        return Some(TOO_LONG_63);
    }
    (!lower_label(s)).then_some(LABEL)
}

/// What keeps `s` from being a DNS label that begins with a letter.
pub fn label_1035(s: &str) -> Option<&'static str> {
    if s.len() > 63 {
        return Some(TOO_LONG_63);
    }
    let begins = s.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    (!begins || !lower_label(s)).then_some(LABEL_1035)
}

/// What keeps `s` from being the name of an address: it is one, in its canonical form.
pub fn address(s: &str) -> Option<&'static str> {
    match s.parse::<std::net::IpAddr>() {
        Err(_) => Some("not a valid IP address"),
        Ok(ip) if ip.to_string() != s => Some("must be a canonical format IP address"),
        Ok(_) => None,
    }
}

/// What keeps `s` from being a label's value.
pub fn label_value(s: &str) -> Option<&'static str> {
    if s.len() > 63 {
        return Some(TOO_LONG_63);
    }
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if s.is_empty() || (alphanumeric_ends(s) && s.bytes().all(inside)) { None } else { Some(VALUE) }
}

/// What keeps `s` from being a key of labels or annotations.
pub fn qualified(s: &str) -> Option<&'static str> {
    let (prefix, name) = match s.split_once('/') {
        Some((p, n)) => (Some(p), n),
        None => (None, s),
    };
    if name.contains('/') {
        return Some(QUALIFIED);
    }
    match prefix {
        Some("") => return Some("prefix part must be non-empty"),
        Some(p) if subdomain(p).is_some() => {
            return Some(
                "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            );
        }
        _ => {}
    }
    if name.is_empty() {
        return Some("name part must be non-empty");
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 bytes");
    }
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (!(alphanumeric_ends(name) && name.bytes().all(inside))).then_some(NAME_PART)
}

/// What keeps `s` from being a key of a ConfigMap or Secret.
pub fn config_key(s: &str) -> Option<&'static str> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match s {
        s if s.len() > 253 => Some(TOO_LONG_253),
        s if s.is_empty() || !s.bytes().all(inside) => Some(CONFIG_KEY),
        "." => Some("must not be '.'"),
        ".." => Some("must not be '..'"),
        s if s.starts_with("..") => Some("must not start with '..'"),
        _ => None,
    }
}

/// What keeps `s` from being one segment of a path, the loosest form of a name.
pub fn path_segment(s: &str) -> Option<&'static str> {
    match s {
        "." => Some("may not be '.'"),
        ".." => Some("may not be '..'"),
        s if s.contains('/') => Some("may not contain '/'"),
        s if s.contains('%') => Some("may not contain '%'"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged() {
        assert_eq!(subdomain("a.b-c.d"), None);
        assert_eq!(subdomain("B_"), Some(SUBDOMAIN));
        assert_eq!(subdomain(""), Some(SUBDOMAIN));
        assert_eq!(label("a.b"), Some(LABEL));
        assert_eq!(label_1035("1a"), Some(LABEL_1035));
        assert_eq!(qualified("example.com/My_Name.1"), None);
        assert_eq!(qualified("/x"), Some("prefix part must be non-empty"));
        assert_eq!(qualified("a/b/c"), Some(QUALIFIED));
        assert_eq!(label_value(""), None);
        assert_eq!(label_value("-"), Some(VALUE));
        assert_eq!(config_key("..a"), Some("must not start with '..'"));
    }
}
