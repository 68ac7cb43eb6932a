//! The formats that schemas may ask of strings. Formats that are not known here ask nothing.

use crate::{names, time};
use regex::Regex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

/// Whether a text has a format.
pub(super) fn matches(format: &str, s: &str) -> bool {
    match format {
        "date-time" | "datetime" => time::parse_micros(s).is_some() && s.contains(['T', 't']),
        "date" => date(s),
        "duration" => time::parse_duration(s).is_some() || long_duration(s),
        "email" => email(s),
        "hostname" => s.len() <= 253 && names::subdomain(&s.to_ascii_lowercase()).is_none(),
        "ipv4" => s.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => s.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(s),
        "mac" => mac(s),
        "uri" => uri(s),
        "byte" => byte(s),
        _ => by_pattern(format).is_none_or(|p| p.is_match(s)),
    }
}

fn by_pattern(format: &str) -> Option<&'static Regex> {
    static ALL: OnceLock<Vec<(&'static str, Option<Regex>)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let hex = "[0-9a-fA-F]";
        let uuid = |version: &str, variant: &str| {
            format!(
                "^{hex}{{8}}-?{hex}{{4}}-?{version}{hex}{{3}}-?{variant}{hex}{{3}}-?{hex}{{12}}$"
            )
        };
        let list: Vec<(&str, String)> = vec![
            ("uuid", uuid("[0-9a-fA-F]", "[0-9a-fA-F]")),
            ("uuid3", uuid("3", "[0-9a-fA-F]")),
            ("uuid4", uuid("4", "[89abAB]")),
            ("uuid5", uuid("5", "[89abAB]")),
            ("hexcolor", format!("^#?({hex}{{3}}|{hex}{{6}})$")),
            ("rgbcolor", r"^rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)$".to_owned()),
            ("bsonobjectid", format!("^{hex}{{24}}$")),
            ("isbn", r"^(\d{9}[\dX]|\d{13})$".to_owned()),
            ("isbn10", r"^\d{9}[\dX]$".to_owned()),
            ("isbn13", r"^\d{13}$".to_owned()),
            ("creditcard", r"^\d{13,19}$".to_owned()),
            ("ssn", r"^\d{3}[- ]?\d{2}[- ]?\d{4}$".to_owned()),
        ];
        list.into_iter().map(|(name, text)| (name, Regex::new(&text).ok())).collect()
    });
    all.iter().find(|(name, _)| *name == format).and_then(|(_, p)| p.as_ref())
}

fn date(s: &str) -> bool {
    s.len() == 10 && time::parse_micros(&format!("{s}T00:00:00Z")).is_some()
}

/// `3 days`, `1 week`: a number and a unit that Go's durations lack.
fn long_duration(s: &str) -> bool {
    const UNITS: &[&str] = &[
        "ns", "us", "ms", "s", "sec", "second", "min", "minute", "h", "hr", "hour", "d", "day",
        "w", "wk", "week",
    ];
    let digits = s.bytes().take_while(u8::is_ascii_digit).count();
    let unit = s[digits..].trim();
    digits > 0 && UNITS.iter().any(|u| unit == *u || unit.strip_suffix('s') == Some(u))
}

fn email(s: &str) -> bool {
    match s.rsplit_once('@') {
        Some((user, host)) => {
            !user.is_empty()
                && !user.contains(char::is_whitespace)
                && !host.is_empty()
                && names::subdomain(&host.to_ascii_lowercase()).is_none()
        }
        None => false,
    }
}

fn cidr(s: &str) -> bool {
    let Some((ip, bits)) = s.split_once('/') else { return false };
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|b| b <= most)
}

fn mac(s: &str) -> bool {
    let parts: Vec<&str> = s.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8)
        && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn uri(s: &str) -> bool {
    if s.starts_with('/') {
        return !s.contains(char::is_whitespace);
    }
    let Some((scheme, rest)) = s.split_once(':') else { return false };
    let scheme_ok = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    scheme_ok && !rest.is_empty() && !rest.contains(char::is_whitespace)
}

fn byte(s: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(s).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        for (format, good, bad) in [
            ("date-time", "2024-01-02T03:04:05Z", "2024-01-02"),
            ("date", "2024-01-02", "2024-13-02"),
            ("duration", "1h30m", "soon"),
            ("duration", "3 days", "days"),
            ("email", "a@example.com", "a.example.com"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fd00::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uri", "https://example.com/x", "example com"),
            ("byte", "aGk=", "?"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("hexcolor", "#fff", "#ffg"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(matches("whatever", "x"));
    }
}
