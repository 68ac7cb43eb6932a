//! Go's durations: reading `1m30s`, printing it, and saying `3 minutes`.

/// Nanoseconds from Go's notation.
pub fn parse(text: &str) -> Result<i64, String> {
    let bad = || format!("time: invalid duration {}", super::quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: f64 = 0.0;
    let mut exact: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if number.is_empty() || number == "." {
            return Err(bad());
        }
        let quoted = || super::quote(text);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quoted()));
        }
        let nanos = nanos_of(unit).ok_or_else(|| {
            format!("time: unknown unit {} in duration {}", super::quote(unit), quoted())
        })?;
        match number.parse::<i128>() {
            Ok(n) => exact = exact.saturating_add(n.saturating_mul(nanos)),
            #[expect(clippy::cast_precision_loss, reason = "units are at most 3.6e12")]
            Err(_) => total += number.parse::<f64>().map_err(|_| bad())? * nanos as f64,
        }
        rest = after;
    }
    #[expect(clippy::cast_possible_truncation, reason = "out of range saturates and fails below")]
    let sum = exact.saturating_add(total.round() as i128);
    i64::try_from(if negative { -sum } else { sum }).map_err(|_| bad())
}

fn nanos_of(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// How long in words, as docker's lists say it.
pub fn human(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let check = |text: &str, want: i64| assert_eq!(parse(text).unwrap(), want, "{text}");
        check("1m30s", 90_000_000_000);
        check("1.5h", 5_400_000_000_000);
        check("-2ms", -2_000_000);
        check("0", 0);
        assert_eq!(parse("zz").unwrap_err(), "time: invalid duration \"zz\"");
        assert_eq!(parse("3").unwrap_err(), "time: missing unit in duration \"3\"");
        assert_eq!(parse("3x").unwrap_err(), "time: unknown unit \"x\" in duration \"3x\"");
    }

    #[test]
    fn ages_are_said_in_words() {
        let check = |seconds: i64, want: &str| assert_eq!(human(seconds), want);
        check(0, "Less than a second");
        check(59, "59 seconds");
        check(60, "About a minute");
        check(3599, "59 minutes");
        check(3600, "About an hour");
        check(3600 * 47, "47 hours");
        check(3600 * 49, "2 days");
        check(3600 * 24 * 20, "2 weeks");
        check(3600 * 24 * 90, "3 months");
        check(3600 * 24 * 365 * 3, "3 years");
    }
}
