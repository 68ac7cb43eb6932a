//! Sizes with units and fractions of processors, as docker reads and prints them.

const POWERS: &str = "kmgtp";

/// Bytes from `512`, `1.5g`, `10 MB` or `2GiB`; units are powers of 1024.
pub fn memory(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid size: '{text}'");
    let at = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(bad)?;
    let number = if text.as_bytes()[at] == b' ' { &text[..at] } else { &text[..=at] };
    let suffix = text[at + 1..].to_ascii_lowercase();
    let value: f64 = number.parse().map_err(|_| {
        format!("strconv.ParseFloat: parsing {}: invalid syntax", super::quote(number))
    })?;
    if value < 0.0 || !value.is_finite() {
        return Err(bad());
    }
    let factor = factor(&suffix).ok_or_else(|| format!("invalid suffix: '{suffix}'"))?;
    truncate(value * factor)
}

fn factor(suffix: &str) -> Option<f64> {
    let mut letters = suffix.chars();
    let Some(first) = letters.next() else { return Some(1.0) };
    let rest = letters.as_str();
    if first == 'b' {
        return rest.is_empty().then_some(1.0);
    }
    let power = POWERS.find(first)?;
    matches!(rest, "" | "b" | "ib").then(|| 1024f64.powi(i32::try_from(power).unwrap_or(0) + 1))
}

#[expect(clippy::cast_possible_truncation, reason = "the range was checked, and Go truncates too")]
fn truncate(value: f64) -> Result<i64, String> {
    if value >= 9.2e18 {
        return Err(format!("invalid size: '{value}'"));
    }
    Ok(value as i64)
}

/// Billionths of a processor from `1.5`, `.25` or `1/2`.
pub fn cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    if let Some((over, under)) = text.split_once('/') {
        let over: i128 = over.parse().map_err(|_| bad())?;
        let under: i128 = under.parse().map_err(|_| bad())?;
        if under == 0 {
            return Err(bad());
        }
        let nano = over.checked_mul(1_000_000_000).ok_or_else(bad)?;
        if nano % under != 0 {
            return Err("value is too precise".to_owned());
        }
        return i64::try_from(nano / under).map_err(|_| bad());
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let numeric = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !numeric(whole) || !numeric(part) {
        return Err(bad());
    }
    let part = part.trim_end_matches('0');
    if part.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let nano = format!("{}{whole}{part:0<9}", if negative { "-" } else { "" });
    nano.parse().map_err(|_| bad())
}

/// A size in powers of 1000 with `digits` significant digits: `21.5MB`.
pub fn decimal(bytes: f64, digits: usize) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], digits)
}

/// A size in powers of 1000 with four significant digits.
pub fn human(bytes: f64) -> String {
    decimal(bytes, 4)
}

/// A size in powers of 1024 with four significant digits: `1.952GiB`.
pub fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", wharf_template::format_g(value, digits), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_units() {
        let check = |text: &str, want: i64| assert_eq!(memory(text).unwrap(), want, "{text}");
        check("512", 512);
        check("1k", 1024);
        check("1.5g", 1_610_612_736);
        check("10 MB", 10 << 20);
        check("2GiB", 2 << 30);
        check("7b", 7);
        for bad in ["zz", "-1", "1x", "1kx", "1bb", ""] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert_eq!(memory("zz").unwrap_err(), "invalid size: 'zz'");
        assert_eq!(memory("1zz").unwrap_err(), "invalid suffix: 'zz'");
    }

    #[test]
    fn cpus_are_exact() {
        let check = |text: &str, want: i64| assert_eq!(cpus(text).unwrap(), want, "{text}");
        check("1.5", 1_500_000_000);
        check(".25", 250_000_000);
        check("1/2", 500_000_000);
        check("-1", -1_000_000_000);
        assert_eq!(cpus("0.0000000001").unwrap_err(), "value is too precise");
        assert!(cpus("zz").is_err());
        assert!(cpus(".").is_err());
    }

    #[test]
    fn sizes_print_as_docker_prints_them() {
        assert_eq!(decimal(0.0, 3), "0B");
        assert_eq!(decimal(21_500_000.0, 3), "21.5MB");
        assert_eq!(decimal(999.0, 3), "999B");
        assert_eq!(human(1_234_567.0), "1.235MB");
        assert_eq!(binary(2_095_943_680.0), "1.952GiB");
        assert_eq!(binary(0.0), "0B");
    }
}
