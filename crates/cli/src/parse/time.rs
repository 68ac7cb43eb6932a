//! Points in time: what `--since` takes and what lists print.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// `--since` and `--until` as the API takes them: seconds, and a fraction where one was given.
pub fn api(text: &str, now: Timestamp) -> Result<String, String> {
    if let Ok(nanos) = super::duration::parse(text) {
        let then = now.as_nanosecond() - i128::from(nanos);
        return Ok(format!("{}", then.div_euclid(1_000_000_000)));
    }
    if is_unix(text) {
        return Ok(text.to_owned());
    }
    match absolute(text) {
        Some(at) => Ok(format!("{}.{:09}", at.as_second(), at.subsec_nanosecond())),
        None => Err(format!("failed to parse value as time or duration: {}", super::quote(text))),
    }
}

fn is_unix(text: &str) -> bool {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_digit());
    digits(whole) && digits(part)
}

fn absolute(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    // Without an offset the time is local, and its end may be missing.
    let padded = match text.len() {
        10 => format!("{text}T00:00:00"),
        13 => format!("{text}:00:00"),
        16 => format!("{text}:00"),
        _ => text.trim_end_matches('Z').to_owned(),
    };
    let civil: jiff::civil::DateTime = padded.parse().ok()?;
    Some(civil.to_zoned(TimeZone::system()).ok()?.timestamp())
}

/// Go's `Time.String()` in the local zone.
pub fn go_string(at: Timestamp) -> String {
    let local: Zoned = at.to_zoned(TimeZone::system());
    let fraction = fraction(local.subsec_nanosecond());
    format!("{}{fraction} {}", local.strftime("%Y-%m-%d %H:%M:%S"), local.strftime("%z %Z"))
}

fn fraction(nanos: i32) -> String {
    match nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    }
}

/// Seconds since the epoch as a point in time; out of range becomes the epoch.
pub fn from_unix(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// RFC 3339 in the local zone, as `events` and `history` print it.
pub fn rfc3339_local(at: Timestamp, digits: usize) -> String {
    let local = at.to_zoned(TimeZone::system());
    let fraction = match digits {
        0 => String::new(),
        digits => format!(".{:09}", local.subsec_nanosecond())[..=digits].to_owned(),
    };
    let zone = match local.offset().seconds() {
        0 => "Z".to_owned(),
        _ => local.strftime("%:z").to_string(),
    };
    format!("{}{fraction}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_all_forms() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let check = |text: &str, want: &str| assert_eq!(api(text, now).unwrap(), want, "{text}");
        check("10m", "999400");
        check("1577836800", "1577836800");
        check("1577836800.5", "1577836800.5");
        check("2020-01-01T00:00:00Z", "1577836800.000000000");
        check("2020-01-01T01:00:00.25+01:00", "1577836800.250000000");
        assert!(api("zz", now).is_err());
    }
}
