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

const SECOND: i128 = 1_000_000_000;

/// A moment between the years 1 and 9999.
fn moment<'a>(nanos: i128) -> Outcome<'a> {
    const FIRST: i128 = -62_135_596_800 * SECOND;
    const LAST: i128 = 253_402_300_800 * SECOND - 1;
    if (FIRST..=LAST).contains(&nanos) { Ok(Val::Timestamp(nanos)) } else { range() }
}

/// The whole seconds of a moment since 1970.
pub(super) fn seconds(nanos: i128) -> i64 {
    i64::try_from(nanos.div_euclid(SECOND)).unwrap_or(i64::MAX)
}

/// A moment as RFC 3339, with no more digits than it has.
pub(super) fn print(nanos: i128) -> String {
    let whole = match time::format_seconds(seconds(nanos)) {
        // Beyond what the library knows there is only the end of the last year.
        beyond if beyond.is_empty() => {
            time::format_seconds(seconds(nanos - time::CYCLE)).replacen("9599", "9999", 1)
        }
        whole => whole,
    };
    let fraction = format!("{:09}", nanos.rem_euclid(SECOND));
    match fraction.trim_end_matches('0') {
        "" => whole,
        digits => format!("{}.{digits}Z", whole.trim_end_matches('Z')),
    }
}

pub(super) fn add<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map_or_else(range, |n| Ok(Val::Duration(n)))
        }
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => {
            moment(t + i128::from(*d))
        }
        _ => Err(EvalError::Overload),
    }
}

pub(super) fn subtract<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_sub(*b).map_or_else(range, |n| Ok(Val::Duration(n)))
        }
        (Val::Timestamp(t), Val::Duration(d)) => moment(t - i128::from(*d)),
        (Val::Timestamp(a), Val::Timestamp(b)) => {
            i64::try_from(a - b).map_or_else(|_| range(), |n| Ok(Val::Duration(n)))
        }
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
        ("timestamp", [Val::Str(s)]) => Some(match time::parse_nanos(s) {
            Some(n) => moment(n),
            None => Err(EvalError::Other(time::parse_error(s))),
        }),
        ("timestamp", [Val::Int(n)]) => Some(moment(i128::from(*n) * SECOND)),
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

fn part<'a>(name: &str, nanos: i128, zone: &[Val<'a>]) -> Option<Outcome<'a>> {
    let bad = |z: &str| EvalError::Other(format!("unknown time zone {z}"));
    let zone = match zone {
        [] => TimeZone::UTC,
        [Val::Str(z)] => match self::zone(z) {
            Some(z) => z,
            None => return Some(Err(bad(z))),
        },
        _ => return None,
    };
    let (shifted, years) = match Timestamp::from_nanosecond(nanos) {
        Ok(t) => (Ok(t), 0),
        Err(_) => (Timestamp::from_nanosecond(nanos - time::CYCLE), 400),
    };
    let at = match shifted {
        Ok(t) => t.to_zoned(zone),
        Err(_) => return Some(range()),
    };
    let n = match name {
        "getFullYear" => i64::from(at.year()) + years,
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
