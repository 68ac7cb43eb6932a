//! Log timestamps: nanoseconds since 1970 to RFC 3339 and back, without a calendar library in the hot path.

/// Longest text of a time: `2026-11-23T07:02:11.123456789Z`.
pub(crate) const LONGEST: usize = 30;

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Formats times; those of one second share the work of the date.
#[derive(Debug)]
pub(crate) struct Stamper {
    second: i64,
    text: [u8; LONGEST],
}

impl Stamper {
    pub(crate) fn new() -> Stamper {
        Stamper { second: i64::MIN, text: *b"1970-01-01T00:00:00.000000000Z" }
    }

    /// The time as Go's `RFC3339Nano` prints it: without the zeros at the end of the fraction.
    pub(crate) fn short(&mut self, nanos: i64) -> &[u8] {
        self.set(nanos);
        let mut end = LONGEST - 1;
        while self.text[end - 1] == b'0' && end > 20 {
            end -= 1;
        }
        if end == 20 {
            end = 19;
        }
        // Put the Z behind the last digit that counts; `set` restores what this overwrites.
        self.text[end] = b'Z';
        &self.text[..=end]
    }

    /// The time with all nine digits, as the `timestamps` of the logs API.
    pub(crate) fn long(&mut self, nanos: i64) -> &[u8; LONGEST] {
        self.set(nanos);
        &self.text
    }

    fn set(&mut self, nanos: i64) {
        let (second, mut fraction) = (nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS));
        if second != self.second {
            self.second = second;
            let (year, month, day) = date(second.div_euclid(DAY));
            let time = second.rem_euclid(DAY);
            digits(&mut self.text[0..4], year);
            digits(&mut self.text[5..7], month);
            digits(&mut self.text[8..10], day);
            digits(&mut self.text[11..13], time / 3600);
            digits(&mut self.text[14..16], time / 60 % 60);
            digits(&mut self.text[17..19], time % 60);
        }
        self.text[19] = b'.';
        for digit in self.text[20..29].iter_mut().rev() {
            *digit = ascii(fraction);
            fraction /= 10;
        }
        self.text[29] = b'Z';
    }
}

fn digits(to: &mut [u8], mut value: i64) {
    for digit in to.iter_mut().rev() {
        *digit = ascii(value);
        value /= 10;
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a digit is 0 to 9")]
fn ascii(value: i64) -> u8 {
    b'0' + (value % 10) as u8
}

/// Year, month and day of a day counted from 1970-01-01, by Howard Hinnant's `civil_from_days`.
fn date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads an RFC 3339 time with any fraction and any offset.
pub(crate) fn parse(text: &[u8]) -> Option<i64> {
    if text.len() < 20 || text[4] != b'-' || text[7] != b'-' || text[13] != b':' || text[16] != b':'
    {
        return None;
    }
    let day = days(number(&text[0..4])?, number(&text[5..7])?, number(&text[8..10])?);
    let time = number(&text[11..13])? * 3600 + number(&text[14..16])? * 60 + number(&text[17..19])?;
    let (fraction, zone) = fraction(&text[19..])?;
    (day * DAY + time - zone_offset(zone)?).checked_mul(NANOS)?.checked_add(fraction)
}

fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut nanos = 0;
    let padded = digits[..len].iter().copied().chain(std::iter::repeat(b'0'));
    for digit in padded.take(9) {
        nanos = nanos * 10 + i64::from(digit - b'0');
    }
    Some((nanos, &digits[len..]))
}

fn zone_offset(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let seconds = number(&[*h1, *h2])? * 3600 + number(&[*m1, *m2])? * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, &b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nanos: i64, short: &str) {
        let mut stamper = Stamper::new();
        assert_eq!(std::str::from_utf8(stamper.short(nanos)).unwrap(), short);
        assert_eq!(parse(short.as_bytes()), Some(nanos), "{short}");
        assert_eq!(parse(stamper.long(nanos)), Some(nanos));
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        check(0, "1970-01-01T00:00:00Z");
        check(1, "1970-01-01T00:00:00.000000001Z");
        check(1_577_836_800_000_000_000, "2020-01-01T00:00:00Z");
        check(1_582_934_400_500_000_000, "2020-02-29T00:00:00.5Z");
        check(1_795_417_331_120_000_000, "2026-11-23T07:02:11.12Z");
        check(-1, "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn a_stamper_forgets_nothing_between_times() {
        let mut stamper = Stamper::new();
        assert_eq!(stamper.short(5_000_000_000), b"1970-01-01T00:00:05Z");
        assert_eq!(stamper.short(5_123_456_789), b"1970-01-01T00:00:05.123456789Z");
        assert_eq!(stamper.short(5_100_000_000), b"1970-01-01T00:00:05.1Z");
        assert_eq!(stamper.long(5_100_000_000), b"1970-01-01T00:00:05.100000000Z");
    }

    #[test]
    fn offsets_are_subtracted_and_nonsense_is_refused() {
        assert_eq!(parse(b"1970-01-01T02:00:00+02:00"), Some(0));
        assert_eq!(parse(b"1969-12-31T22:30:00.000000001-01:30"), Some(1));
        for bad in ["", "1970-01-01T00:00:00", "1970-01-01T00:00:00X", "197x-01-01T00:00:00Z"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_time_survives(nanos in -4_000_000_000_000_000_000i64..9_000_000_000_000_000_000) {
            proptest::prop_assert_eq!(parse(Stamper::new().short(nanos)), Some(nanos));
        }
    }
}
