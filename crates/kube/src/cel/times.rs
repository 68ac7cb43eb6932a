//! Moments and durations.

use super::EvalError;
use super::eval::Machine;
use super::value::Val;
use crate::time;
use jiff::{Timestamp, tz::TimeZone};

type Outcome<'a> = Result<Val<'a>, EvalError>;

fn range<'a>() -> Outcome<'a> {
    Err(EvalError::Other("range error: the result lies beyond what a time can be".to_owned()))
}

/// A moment between the years 1 and 9999.
fn moment<'a>(micros: i64) -> Outcome<'a> {
    const FIRST: i64 = -62_135_596_800_000_000;
    const LAST: i64 = 253_402_300_799_999_999;
    if (FIRST..=LAST).contains(&micros) { Ok(Val::Timestamp(micros)) } else { range() }
}

/// A moment as RFC 3339, with no more digits than it has.
pub(super) fn print(micros: i64) -> String {
    let text = time::format_micros(micros);
    match text.strip_suffix('Z').and_then(|t| t.split_once('.')) {
        Some((whole, fraction)) => {
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() { format!("{whole}Z") } else { format!("{whole}.{fraction}Z") }
        }
        None => text,
    }
}

pub(super) fn add<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map_or_else(range, |n| Ok(Val::Duration(n)))
        }
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => {
            t.checked_add(d / 1000).map_or_else(range, moment)
        }
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn subtract<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_sub(*b).map_or_else(range, |n| Ok(Val::Duration(n)))
        }
        (Val::Timestamp(t), Val::Duration(d)) => t.checked_sub(d / 1000).map_or_else(range, moment),
        (Val::Timestamp(a), Val::Timestamp(b)) => a
            .checked_sub(*b)
            .and_then(|n| n.checked_mul(1000))
            .map_or_else(range, |n| Ok(Val::Duration(n))),
        _ => Err(EvalError::Overload),
    }
}

/// Calls a function of this library; nothing where it has none of this name for these values.
pub(super) fn call<'a>(
    _m: &mut Machine<'_, 'a>,
    name: &str,
    method: bool,
    args: &[Val<'a>],
) -> Option<Outcome<'a>> {
    match (name, args) {
        ("duration", [Val::Str(s)]) => Some(match time::parse_duration(s) {
            Some(n) => Ok(Val::Duration(n)),
            None => Err(EvalError::Other(format!("time: invalid duration {:?}", s.as_ref()))),
        }),
        ("duration", [v @ Val::Duration(_)]) | ("timestamp", [v @ Val::Timestamp(_)]) => {
            Some(Ok(v.clone()))
        }
        ("timestamp", [Val::Str(s)]) => Some(match time::parse_micros(s) {
            Some(n) => moment(n),
            None => Err(EvalError::Other(time::parse_error(s))),
        }),
        ("timestamp", [Val::Int(n)]) => Some(n.checked_mul(1_000_000).map_or_else(range, moment)),
        (_, [Val::Duration(n)]) if method => {
            let whole = match name {
                "getHours" => n / 3_600_000_000_000,
                "getMinutes" => n / 60_000_000_000,
                "getSeconds" => n / 1_000_000_000,
                "getMilliseconds" => n / 1_000_000,
                _ => return None,
            };
            Some(Ok(Val::Int(whole)))
        }
        (_, [Val::Timestamp(n), zone @ ..]) if method => part(name, *n, zone),
        _ => None,
    }
}

fn part<'a>(name: &str, micros: i64, zone: &[Val<'a>]) -> Option<Outcome<'a>> {
    let bad = |z: &str| EvalError::Other(format!("unknown time zone {z}"));
    let zone = match zone {
        [] => TimeZone::UTC,
        [Val::Str(z)] => match self::zone(z) {
            Some(z) => z,
            None => return Some(Err(bad(z))),
        },
        _ => return None,
    };
    let at = match Timestamp::from_microsecond(micros) {
        Ok(t) => t.to_zoned(zone),
        Err(_) => return Some(range()),
    };
    let n = match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return None,
    };
    Some(Ok(Val::Int(n)))
}

/// `UTC`, an offset such as `-08:00`, or a name of the IANA's database.
fn zone(text: &str) -> Option<TimeZone> {
    if matches!(text, "UTC" | "Z" | "") {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some((h, m)) = rest.split_once(':') {
        let (h, m): (i32, i32) = (h.parse().ok()?, m.parse().ok()?);
        let offset = jiff::tz::Offset::from_seconds(
            sign * (h.checked_mul(3600)?.checked_add(m.checked_mul(60)?)?),
        )
        .ok()?;
        return Some(TimeZone::fixed(offset));
    }
    TimeZone::get(text).ok()
}
