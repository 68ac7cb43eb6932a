//! Quantities: `100m`, `1.5Gi`, `2e3`, in the one spelling that the API prints for each value.

use std::cmp::Ordering;
use std::fmt;

/// An amount in billionths, and the family of suffixes it was written with.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `k`, `M`, `G`.
    Decimal,
    /// `Ki`, `Mi`, `Gi`.
    Binary,
    /// `e3`, `e6`.
    Exponent,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It has another shape.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Shape,
    /// The letters at its end mean nothing.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const ONE: i128 = 1_000_000_000;
/// The greatest amount that the API keeps apart from greater ones.
const MAX: i128 = i64::MAX as i128 * ONE;

impl Quantity {
    /// Reads one. Fractions beyond a billionth are rounded away from zero, as the API does.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError::Shape);
        }
        let (format, base, exponent) = scale(suffix)?;
        let negative = text.starts_with('-');
        let magnitude = amount(whole, fraction, base, exponent).min(MAX);
        Ok(Quantity { nano: if negative { -magnitude } else { magnitude }, format })
    }

    /// The amount in whole units, rounded up.
    pub fn value(&self) -> i64 {
        let up = self.nano.div_euclid(ONE) + i128::from(self.nano.rem_euclid(ONE) != 0);
        i64::try_from(up).unwrap_or(i64::MAX)
    }

    /// The amount in thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        let step = ONE / 1000;
        let up = self.nano.div_euclid(step) + i128::from(self.nano.rem_euclid(step) != 0);
        i64::try_from(up).unwrap_or(i64::MAX)
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// The sum, spelled like the left side.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        Quantity { nano: self.nano.saturating_add(other.nano).min(MAX), format: self.format }
    }

    /// The difference, spelled like the left side.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity { nano: self.nano.saturating_sub(other.nano), format: self.format }
    }
}

impl From<i64> for Quantity {
    fn from(n: i64) -> Quantity {
        Quantity { nano: i128::from(n) * ONE, format: Format::Decimal }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.nano % ONE == 0;
        let small = self.nano.abs() < 1024 * ONE;
        match self.format {
            Format::Binary if whole && !small => {
                let (mut n, mut steps) = (self.nano / ONE, 0);
                while n % 1024 == 0 && n != 0 && steps < 6 {
                    n /= 1024;
                    steps += 1;
                }
                write!(f, "{n}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps])
            }
            format => {
                let (mut n, mut exponent) = (self.nano, -9i32);
                while n != 0 && n % 1000 == 0 && exponent < 18 {
                    n /= 1000;
                    exponent += 3;
                }
                if n == 0 {
                    exponent = 0;
                }
                match (format, exponent) {
                    (_, 0) => write!(f, "{n}"),
                    (Format::Exponent, e) => write!(f, "{n}e{e}"),
                    (_, e) => write!(f, "{n}{}", decimal_suffix(e)),
                }
            }
        }
    }
}

fn decimal_suffix(exponent: i32) -> &'static str {
    match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

/// The meaning of a suffix: family, base and exponent.
fn scale(suffix: &str) -> Result<(Format, i128, i32), QuantityError> {
    let decimal = |e| Ok((Format::Decimal, 10, e));
    let binary = |e| Ok((Format::Binary, 1024, e));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => match suffix.strip_prefix(['e', 'E']) {
            Some(e) => match e.parse::<i32>() {
                Ok(e) => Ok((Format::Exponent, 10, e.clamp(-64, 64))),
                Err(_) => Err(QuantityError::Suffix),
            },
            None if suffix.chars().all(|c| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit()) => {
                Err(QuantityError::Suffix)
            }
            None => Err(QuantityError::Shape),
        },
    }
}

/// The amount in billionths, rounded up, saturating above [`MAX`].
fn amount(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    let mut digits: i128 = 0;
    // More digits than these cannot change a result that saturates at 2^63.
    let fraction = &fraction[..fraction.len().min(18)];
    for d in whole.bytes().chain(fraction.bytes()) {
        digits = match digits.checked_mul(10).and_then(|n| n.checked_add(i128::from(d - b'0'))) {
            Some(n) => n,
            None => return MAX,
        };
    }
    let places = i32::try_from(fraction.len()).unwrap_or(0);
    let (mut up, mut down) = (9 - places, 0);
    let mut factor: i128 = 1;
    if base == 10 {
        up += exponent;
    } else {
        factor = 1024i128.pow(exponent.unsigned_abs());
    }
    if up < 0 {
        (up, down) = (0, -up);
    }
    let Some(scaled) = 10i128
        .checked_pow(up.unsigned_abs())
        .and_then(|t| digits.checked_mul(t))
        .and_then(|t| t.checked_mul(factor))
    else {
        return if digits == 0 { 0 } else { MAX };
    };
    match 10i128.checked_pow(down.unsigned_abs()) {
        Some(t) => scaled / t + i128::from(scaled % t != 0),
        None => i128::from(scaled != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(Quantity::parse(text).unwrap().to_string(), expected, "{text}");
    }

    #[test]
    fn each_value_has_one_spelling() {
        check("0", "0");
        check("1000m", "1");
        check("0.5", "500m");
        check("100", "100");
        check("1024Ki", "1Mi");
        check("1.5Gi", "1536Mi");
        check("0.5Gi", "512Mi");
        check("0.5Ki", "512");
        check("1e3", "1e3");
        check("1000000", "1M");
        check("123456", "123456");
        check("1.1Mi", "1153433600m");
        check("0.0000000001", "1n");
        check("-1", "-1");
        check("12E", "9223372036854775807");
        check("1000Ki", "1000Ki");
        check(".5", "500m");
        check("100e-3", "100e-3");
    }

    #[test]
    fn other_texts_are_refused() {
        for t in ["", "x", "1 Gi", "1.2.3", "--1", "1e", "1Kb", "-"] {
            assert!(Quantity::parse(t).is_err(), "{t}");
        }
    }

    #[test]
    fn amounts_compare_and_add() {
        let q = |t| Quantity::parse(t).unwrap();
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1").plus(q("500m")).to_string(), "1500m");
        assert_eq!((q("1500m").value(), q("1500m").millis()), (2, 1500));
    }
}
