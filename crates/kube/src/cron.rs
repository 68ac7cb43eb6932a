//! Schedules as cron has them, in the words and at the minutes of the reference server.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// When something is to happen again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that five fields choose.
    Minutes(Box<Minutes>),
    /// So many seconds after the time before: `@every 90s`.
    Every(i64),
}

/// The minutes that five fields choose: numbers as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minutes {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month and of the week are both chosen, so that either will do.
    either: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// The longest that a schedule is followed, in days: what does not come within five years never comes.
const HORIZON: i32 = 5 * 366;
const DAY: i64 = 86_400;

/// The time zone of this name in the IANA's database, which is part of this program.
pub fn zone(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" => Some(TimeZone::UTC),
        name => TimeZone::get(name).ok(),
    }
}

/// What keeps a name from being that of a time zone.
pub fn zone_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("timeZone must be nil or non-empty string".to_owned());
    }
    if name.eq_ignore_ascii_case("local") {
        return Some(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
                .to_owned(),
        );
    }
    zone(name).is_none().then(|| format!("unknown time zone {name}"))
}

impl Schedule {
    /// Reads a schedule, or says what keeps a text from being one.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.contains("TZ=") {
            return Err(
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned()
            );
        }
        let fields = match text.strip_prefix('@') {
            None => text,
            Some("yearly" | "annually") => "0 0 1 1 *",
            Some("monthly") => "0 0 1 * *",
            Some("weekly") => "0 0 * * 0",
            Some("daily" | "midnight") => "0 0 * * *",
            Some("hourly") => "0 * * * *",
            Some(name) => {
                let every = name.strip_prefix("every ").and_then(crate::time::parse_duration);
                // Less than a second is a second, as the reference server rounds.
                return every
                    .map(|nanos| Schedule::Every((nanos / 1_000_000_000).max(1)))
                    .ok_or_else(|| format!("unrecognized descriptor: {text}"));
            }
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            let all = fields.join(" ");
            return Err(format!("expected exactly 5 fields, found {}: [{all}]", fields.len()));
        };
        let starred = |f: &str| f.split(',').any(|p| p.starts_with(['*', '?']));
        Ok(Schedule::Minutes(Box::new(Minutes {
            minutes: field(minutes, (0, 59, &[]))?,
            hours: field(hours, (0, 23, &[]))?,
            days: field(days, (1, 31, &[]))?,
            months: field(months, (1, 12, &MONTHS))?,
            weekdays: field(weekdays, (0, 6, &WEEKDAYS))?,
            either: !starred(days) && !starred(weekdays),
        })))
    }

    /// The first time after `after`; both are seconds since 1970.
    pub fn next(&self, after: i64, zone: &TimeZone) -> Option<i64> {
        match self {
            Schedule::Every(seconds) => after.checked_add(*seconds),
            Schedule::Minutes(m) => m.next(after, zone),
        }
    }

    /// The last time after `after` and not after `until`.
    pub fn last(&self, after: i64, until: i64, zone: &TimeZone) -> Option<i64> {
        let first = self.next(after, zone).filter(|t| *t <= until)?;
        match self {
            Schedule::Every(seconds) => Some(first + (until - first) / seconds * seconds),
            Schedule::Minutes(m) => m.last(first, until, zone),
        }
    }

    /// About how many times there are after `after` and not after `until`: as many as the first two of them
    /// are apart.
    pub fn times(&self, after: i64, until: i64, zone: &TimeZone) -> i64 {
        let Some(first) = self.next(after, zone).filter(|t| *t <= until) else { return 0 };
        match self.next(first, zone) {
            Some(second) => (until - first) / (second - first).max(1) + 1,
            None => 1,
        }
    }
}

/// What clocks show in a zone, and the seconds by which they are ahead.
fn local(at: i64, zone: &TimeZone) -> Option<(DateTime, i64)> {
    let stamp = Timestamp::from_second(at).ok()?;
    let offset = zone.to_offset(stamp);
    Some((offset.to_datetime(stamp), i64::from(offset.seconds())))
}

fn has(set: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| set >> n & 1 == 1)
}

impl Minutes {
    fn day_fits(&self, t: DateTime) -> bool {
        let in_month = has(self.days, t.day());
        let in_week = has(self.weekdays, t.weekday().to_sunday_zero_offset());
        let fits = if self.either { in_month || in_week } else { in_month && in_week };
        fits && has(self.months, t.month())
    }

    fn fits(&self, t: DateTime) -> bool {
        has(self.hours, t.hour()) && has(self.minutes, t.minute()) && self.day_fits(t)
    }

    /// Goes through the minutes that clocks show, so that one that is left out in spring never comes, and one
    /// that is shown twice in autumn comes twice.
    fn next(&self, after: i64, zone: &TimeZone) -> Option<i64> {
        let mut at = (after.div_euclid(60) + 1) * 60;
        let end = at + i64::from(HORIZON) * DAY;
        while at <= end {
            let (t, _) = local(at, zone)?;
            if !self.day_fits(t) {
                at = start_of_day(t, 1, zone)?.max(at + 60);
            } else if self.fits(t) {
                return Some(at);
            } else {
                at += 60;
            }
        }
        None
    }

    /// The last time not after `until`, of which `first` is known to be the first.
    fn last(&self, first: i64, until: i64, zone: &TimeZone) -> Option<i64> {
        let mut at = until.div_euclid(60) * 60;
        while at > first {
            let (t, _) = local(at, zone)?;
            if !self.day_fits(t) {
                at = (start_of_day(t, 0, zone)? - 60).min(at - 60);
            } else if self.fits(t) {
                return Some(at);
            } else {
                at -= 60;
            }
        }
        Some(first)
    }
}

/// When the day of `t` begins, or the one `later` days later.
fn start_of_day(t: DateTime, later: i32, zone: &TimeZone) -> Option<i64> {
    let day = t.date().checked_add(jiff::Span::new().days(later)).ok()?;
    Some(day.to_zoned(zone.clone()).ok()?.timestamp().as_second())
}

type Bounds<'a> = (u32, u32, &'a [&'a str]);

/// A field's numbers as bits.
fn field(text: &str, bounds: Bounds<'_>) -> Result<u64, String> {
    text.split(',').try_fold(0, |all, part| Ok(all | self::part(part, bounds)?))
}

fn number(text: &str, (low, _, names): Bounds<'_>) -> Result<u32, String> {
    if let Some(i) = names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        return Ok(u32::try_from(i).unwrap_or(0) + low);
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

fn part(part: &str, bounds: Bounds<'_>) -> Result<u64, String> {
    let (low, high, _) = bounds;
    let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
    let (from, mut to) = match range {
        "*" | "?" => (low, high),
        r => {
            let (a, b) = r.split_once('-').unwrap_or((r, r));
            (number(a, bounds)?, number(b, bounds)?)
        }
    };
    let step = match step {
        None => 1,
        Some(s) => {
            // `5/15` goes on to the end.
            if !range.contains('-') {
                to = high;
            }
            number(s, (0, u32::MAX, &[]))?
        }
    };
    if from < low {
        return Err(format!("beginning of range ({from}) below minimum ({low}): {part}"));
    }
    if to > high {
        return Err(format!("end of range ({to}) above maximum ({high}): {part}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok((from..=to)
        .step_by(usize::try_from(step).unwrap_or(usize::MAX))
        .fold(0, |set, n| set | 1 << n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[track_caller]
    fn check(schedule: &str, place: &str, after: &str, expected: &str) {
        let zone = zone(place).unwrap();
        let next = Schedule::parse(schedule).unwrap().next(seconds(after), &zone);
        let expected = Some(seconds(expected));
        assert_eq!(next, expected, "{schedule}: {:?}", next.map(crate::time::format_seconds));
    }

    #[test]
    fn fields_choose_minutes() {
        let utc = |s: &str, after: &str, expected: &str| check(s, "UTC", after, expected);
        utc("*/1 * * * *", "2026-03-01T10:00:30Z", "2026-03-01T10:01:00Z");
        utc("*/15 9-17 * * mon-fri", "2026-02-27T17:50:00Z", "2026-03-02T09:00:00Z");
        utc("5/20 * * * *", "2026-03-01T10:06:00Z", "2026-03-01T10:25:00Z");
        utc("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        utc("@monthly", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        utc("0 12 13 * 5", "2026-03-01T00:00:00Z", "2026-03-06T12:00:00Z");
        utc("0 12 */2 * 5", "2026-03-01T13:00:00Z", "2026-03-13T12:00:00Z");
        utc("30 4 * JAN,Dec 0", "2026-03-02T00:00:00Z", "2026-12-06T04:30:00Z");
        utc("@every 90s", "2026-03-02T00:00:01Z", "2026-03-02T00:01:31Z");
        let never = Schedule::parse("59 23 31 2 *").unwrap();
        assert_eq!(never.next(0, &TimeZone::UTC), None);
    }

    #[test]
    fn zones_move_hours_and_skip_or_repeat_them() {
        let york = |s: &str, after: &str, next: &str| check(s, "America/New_York", after, next);
        york("0 9 * * *", "2026-01-15T00:00:00Z", "2026-01-15T14:00:00Z");
        york("0 9 * * *", "2026-07-15T00:00:00Z", "2026-07-15T13:00:00Z");
        // 2012-03-11: two o'clock is left out.
        york("0 * * * *", "2012-03-11T01:00:00-05:00", "2012-03-11T03:00:00-04:00");
        york("0 2 * * *", "2012-03-11T00:00:00-05:00", "2012-03-12T02:00:00-04:00");
        york("0 3 * * *", "2012-03-11T00:00:00-05:00", "2012-03-11T03:00:00-04:00");
        // 2012-11-04: one o'clock comes twice.
        york("0 1 * * *", "2012-11-04T00:00:00-04:00", "2012-11-04T01:00:00-04:00");
        york("0 1 * * *", "2012-11-04T01:00:00-04:00", "2012-11-04T01:00:00-05:00");
        york("0 1 * * *", "2012-11-04T01:00:00-05:00", "2012-11-05T01:00:00-05:00");
        york("0 0 * * *", "2012-11-04T00:00:00-04:00", "2012-11-05T00:00:00-05:00");
        check("30 8 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", "2026-01-01T03:00:00Z");
        // In Santiago a day may begin at one o'clock.
        check("0 0 * * *", "America/Santiago", "2022-09-10T12:00:00Z", "2022-09-12T03:00:00Z");
        check("0 1 * * *", "America/Santiago", "2022-09-10T12:00:00Z", "2022-09-11T04:00:00Z");
    }

    #[test]
    fn the_last_of_those_that_were_missed_is_found() {
        let utc = TimeZone::UTC;
        let s = Schedule::parse("*/10 * * * *").unwrap();
        assert_eq!(s.last(0, 3599, &utc), Some(3000));
        assert_eq!(s.last(3000, 3599, &utc), None);
        assert_eq!((s.times(0, 3599, &utc), s.times(3000, 3599, &utc)), (5, 0));
        let monthly = Schedule::parse("0 3 5 * *").unwrap();
        let (from, to) = (seconds("2026-01-01T00:00:00Z"), seconds("2026-05-01T00:00:00Z"));
        assert_eq!(monthly.last(from, to, &utc), Some(seconds("2026-04-05T03:00:00Z")));
        assert_eq!(Schedule::Every(90).last(10, 400, &utc), Some(370));
    }

    #[test]
    fn mistakes_are_named() {
        for (wrong, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("@often", "unrecognized descriptor: @often"),
            (
                "TZ=UTC * * * * *",
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
        ] {
            assert_eq!(Schedule::parse(wrong).unwrap_err(), why);
        }
        for good in ["* * * * *", "*/5 0-6,12 1 jan mon", "@daily", "@every 1h", "0 0 ? * 5"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        assert_eq!(zone_problem("Europe/Berlin"), None);
        assert_eq!(zone_problem("Mars/Base").as_deref(), Some("unknown time zone Mars/Base"));
        assert!(zone_problem("local").is_some() && zone_problem("").is_some());
    }
}
