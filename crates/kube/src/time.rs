//! Times and durations as the API spells them.

use jiff::Timestamp;

/// Seconds since the epoch as `2006-01-02T15:04:05Z`.
pub fn format_seconds(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| String::new(), |t| t.to_string())
}

/// Microseconds since the epoch as `2006-01-02T15:04:05.000000Z`.
pub fn format_micros(micros: i64) -> String {
    let seconds = format_seconds(micros.div_euclid(1_000_000));
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), micros.rem_euclid(1_000_000))
}

/// Reads RFC 3339: microseconds since the epoch.
pub fn parse_micros(text: &str) -> Option<i64> {
    parse(text).map(Timestamp::as_microsecond)
}

/// The same in nanoseconds.
pub fn parse_nanos(text: &str) -> Option<i128> {
    // The library ends a day before the year 9999 does; each 400 years have the same days.
    match text.strip_prefix("9999-") {
        Some(rest) => Some(parse(&format!("9599-{rest}"))?.as_nanosecond() + CYCLE),
        None => parse(text).map(Timestamp::as_nanosecond),
    }
}

/// The nanoseconds of 400 years, after which the calendar repeats.
pub const CYCLE: i128 = 146_097 * 86_400 * 1_000_000_000;

fn parse(text: &str) -> Option<Timestamp> {
    // Timestamp would also take forms that RFC 3339 has not, such as a bare date with an offset.
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes[10] != b'T' || bytes[4] != b'-' || bytes[13] != b':' {
        return None;
    }
    text.parse::<Timestamp>().ok()
}

/// Go's error for a text that is no time.
pub fn parse_error(text: &str) -> String {
    format!(
        "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
    )
}

/// How `kubectl` prints an age: at most two units.
pub fn age(seconds: i64) -> String {
    let (m, h, d, y) = (60, 3600, 86400, 86400 * 365);
    match seconds {
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * m => format!("{s}s"),
        s if s < 10 * m && s % m != 0 => format!("{}m{}s", s / m, s % m),
        s if s < 3 * h => format!("{}m", s / m),
        s if s < 8 * h && s % h / m != 0 => format!("{}h{}m", s / h, s % h / m),
        s if s < 2 * d => format!("{}h", s / h),
        s if s < 8 * d && s % d / h != 0 => format!("{}d{}h", s / d, s % d / h),
        s if s < 2 * y => format!("{}d", s / d),
        s if s < 8 * y && s % y / d != 0 => format!("{}y{}d", s / y, s % y / d),
        s => format!("{}y", s / y),
    }
}

/// Reads a Go duration such as `1h30m` or `1.5s`: nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(r) => (true, r),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: f64 = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    // More than 292 years is none, as in Go.
    if total >= 9_223_372_036_854_775_808.0 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "in range, and parts of nanoseconds go")]
    let nanos = total as i64;
    Some(if negative { -nanos } else { nanos })
}

/// Nanoseconds as Go prints them: `1h0m0s`, `1.5s`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let trim = |whole: u64, fraction: u64, width: usize, unit: &str| {
        let digits = format!("{fraction:0width$}");
        match digits.trim_end_matches('0') {
            "" => format!("{whole}{unit}"),
            f => format!("{whole}.{f}{unit}"),
        }
    };
    let body = match n {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => trim(n / 1_000, n % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => trim(n / 1_000_000, n % 1_000_000, 6, "ms"),
        _ => {
            let (s, frac) = (n / 1_000_000_000, n % 1_000_000_000);
            let seconds = trim(s % 60, frac, 9, "s");
            match (s / 3600, s % 3600 / 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_spelling() {
        assert_eq!(format_seconds(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_micros(1_500_000), "1970-01-01T00:00:01.500000Z");
        assert_eq!(parse_micros("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse_micros("yesterday"), None);
        assert_eq!(parse_micros("2026-11-23"), None);
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        for (s, text) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (4 * 3600 + 60, "4h1m"),
            (86400, "24h"),
            (3 * 86400, "3d"),
            (400 * 86400, "400d"),
        ] {
            assert_eq!(age(s), text);
        }
    }

    #[test]
    fn durations_round_trip() {
        for t in ["1h0m0s", "1.5s", "0s", "10ms", "2m0s", "-1s"] {
            assert_eq!(format_duration(parse_duration(t).unwrap()), t);
        }
        assert_eq!(parse_duration("1"), None);
        assert_eq!(parse_duration(""), None);
    }
}
