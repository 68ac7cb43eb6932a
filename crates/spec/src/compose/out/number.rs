//! Numbers in the shapes that Go's `strconv` gives them.

/// The shortest digits, with an exponent from this many digits on, as `%v` prints.
pub(in crate::compose) fn shown(number: f64) -> String {
    general(&format!("{number:e}"), number.is_finite(), 21)
}

/// As `FormatFloat(x, 'g', -1)` prints: with an exponent from a million on.
pub(super) fn general_single(number: f32) -> String {
    general(&format!("{number:e}"), number.is_finite(), 6)
}

/// As [`general_single`], for 64 bits.
pub(super) fn general_double(number: f64) -> String {
    general(&format!("{number:e}"), number.is_finite(), 6)
}

/// `d.ddde±x` as plain digits, or with Go's two-digit exponent outside -4..limit.
fn general(scientific: &str, finite: bool, limit: i32) -> String {
    let Some((mantissa, exponent)) = scientific.split_once('e').filter(|_| finite) else {
        return match scientific {
            "inf" => "+Inf".to_owned(),
            "-inf" => "-Inf".to_owned(),
            _ => "NaN".to_owned(),
        };
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= limit {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    plain(mantissa, exponent)
}

/// JSON's form: plain between 1e-6 and 1e21.
pub(super) fn json(scientific: &str) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    match (-6..21).contains(&exponent) {
        true => plain(mantissa, exponent),
        false if exponent < 0 => format!("{mantissa}e-{:02}", exponent.abs()),
        false => format!("{mantissa}e+{exponent:02}"),
    }
}

fn plain(mantissa: &str, exponent: i32) -> String {
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    let point = usize::try_from(exponent + 1).unwrap_or(0);
    if exponent < 0 {
        let zeros = "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0));
        return format!("{sign}0.{zeros}{digits}");
    }
    match digits.len() > point {
        true => format!("{sign}{}.{}", &digits[..point], &digits[point..]),
        false => format!("{sign}{digits}{}", "0".repeat(point - digits.len())),
    }
}
