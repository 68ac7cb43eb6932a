//! Query parameters, read as Go's form values and Docker's booleans are.

use std::borrow::Cow;
use std::time::SystemTime;

use wharf_engine::filters::{self, Filters};

use crate::fault::Fault;

/// A query string. Parameters are decoded when they are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    /// Takes the part of a URI after `?`. Refuses broken percent escapes.
    pub(crate) fn parse(raw: &str) -> Result<Query, Fault> {
        if raw.contains('%') {
            escapes_are_whole(raw)?;
        }
        Ok(Query(raw.to_owned()))
    }

    /// The first value of `key`.
    pub(crate) fn first(&self, key: &str) -> Option<Cow<'_, str>> {
        self.all(key).next()
    }

    /// The first value of `key`, empty if there is none.
    pub(crate) fn text(&self, key: &str) -> String {
        self.first(key).unwrap_or_default().into_owned()
    }

    /// The first value of `key` unless it is empty.
    pub(crate) fn some(&self, key: &str) -> Option<String> {
        self.first(key).filter(|v| !v.is_empty()).map(Cow::into_owned)
    }

    /// Every value of `key`.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.split('&').filter_map(move |pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!pair.is_empty() && decode(name) == key).then(|| decode(value))
        })
    }

    /// Docker's truth: empty, `0`, `no`, `false`, `none` are false in any case; all else is true.
    pub(crate) fn truth(&self, key: &str) -> bool {
        self.first(key).is_some_and(|v| is_true(&v))
    }

    /// As [`Query::truth`], with a default for an absent parameter.
    pub(crate) fn truth_or(&self, key: &str, absent: bool) -> bool {
        self.first(key).map_or(absent, |v| is_true(&v))
    }

    /// A decimal number; `None` if absent or empty. The error has the text of Go's `strconv`.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, Fault> {
        let Some(text) = self.some(key) else { return Ok(None) };
        let wrong = |why| Fault::invalid(format!("strconv.Atoi: parsing {text:?}: {why}"));
        match text.parse::<i64>() {
            Ok(n) => Ok(Some(n)),
            Err(e) => Err(wrong(match e.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    "value out of range"
                }
                _ => "invalid syntax",
            })),
        }
    }

    /// A number of rows or columns, which must be there.
    pub(crate) fn cells(&self, key: &str, what: &str) -> Result<u16, Fault> {
        let text = self.text(key);
        let why = match text.parse::<i64>() {
            Ok(n) => match u16::try_from(n) {
                Ok(cells) => return Ok(cells),
                Err(_) => "value out of range",
            },
            Err(_) => "invalid syntax",
        };
        Err(Fault::invalid(format!("invalid resize {what} {text:?}: {why}")))
    }

    /// Unix seconds with an optional fraction; `None` if absent, empty or zero.
    pub(crate) fn time(&self, key: &str) -> Result<Option<SystemTime>, Fault> {
        let Some(text) = self.some(key) else { return Ok(None) };
        if text == "0" {
            return Ok(None);
        }
        // Docker's clients resolve the other forms themselves; curl users profit from them here.
        filters::moment(&text, SystemTime::now()).map(Some).ok_or_else(|| {
            Fault::invalid(format!(
                "invalid value for {key:?}: {text:?} is neither unix seconds, RFC 3339 nor a duration"
            ))
        })
    }

    /// The `filters` parameter, with keys checked against `names`.
    pub(crate) fn filters(&self, names: &[&str]) -> Result<Filters, Fault> {
        let filters = Filters::parse(&self.first("filters").unwrap_or_default())?;
        filters.check(names)?;
        Ok(filters)
    }
}

/// Decodes a percent-encoded path. Broken escapes stay as they are.
pub(crate) fn decode_path(path: &str) -> Cow<'_, str> {
    unescape(path, false)
}

fn is_true(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

fn decode(text: &str) -> Cow<'_, str> {
    unescape(text, true)
}

fn unescape(text: &str, plus: bool) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || (plus && b == b'+')) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(hex_byte);
        match (bytes[i], escaped) {
            (_, Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', None) if plus => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        i += 1;
    }
    Cow::Owned(
        String::from_utf8(out)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
    )
}

fn hex_byte(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(pair[0])? << 4 | digit(pair[1])?)
}

fn escapes_are_whole(raw: &str) -> Result<(), Fault> {
    for (i, _) in raw.match_indices('%') {
        let whole = raw.as_bytes().get(i + 1..i + 3).and_then(hex_byte).is_some();
        if !whole {
            let end = raw.char_indices().map(|(at, c)| at + c.len_utf8()).find(|&e| e >= i + 3);
            let shown = &raw[i..end.unwrap_or(raw.len())];
            return Err(Fault::invalid(format!("invalid URL escape {shown:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn query(raw: &str) -> Query {
        Query::parse(raw).unwrap()
    }

    #[test]
    fn truth_is_as_docker_reads_it() {
        for (value, expected) in [
            ("", false),
            ("0", false),
            ("no", false),
            ("False", false),
            ("NONE", false),
            ("%20false+", false),
            ("1", true),
            ("True", true),
            ("yes", true),
            ("2", true),
            ("null", true),
        ] {
            assert_eq!(query(&format!("x={value}")).truth("x"), expected, "{value:?}");
        }
        assert!(!query("").truth("x") && query("").truth_or("x", true));
        assert!(!query("x").truth_or("x", true));
    }

    #[test]
    fn values_are_decoded() {
        let q = query("a=1&names=x%2Fy&names=b+c&&filters=%7B%7D&%61b=z");
        assert_eq!(q.all("names").collect::<Vec<_>>(), ["x/y", "b c"]);
        assert_eq!(
            (q.text("filters"), q.text("ab"), q.text("none")),
            ("{}".into(), "z".into(), String::new())
        );
        assert_eq!(decode_path("/images/a%2Fb+c%zz"), "/images/a/b+c%zz");
    }

    #[test]
    fn broken_escapes_are_refused() {
        for (raw, shown) in [("x=%zz", "%zz"), ("x=%", "%"), ("x=%4", "%4"), ("x=%é1", "%é")] {
            let e = Query::parse(raw).unwrap_err();
            assert_eq!(e.message(), format!("invalid URL escape {shown:?}"), "{raw}");
        }
    }

    #[test]
    fn numbers_have_gos_errors() {
        assert_eq!(query("t=10").number("t").unwrap(), Some(10));
        assert_eq!(query("t=-1").number("t").unwrap(), Some(-1));
        assert_eq!(query("t=").number("t").unwrap(), None);
        let text = |raw: &str| query(raw).number("t").unwrap_err().message().to_owned();
        assert_eq!(text("t=x"), "strconv.Atoi: parsing \"x\": invalid syntax");
        assert_eq!(
            text("t=99999999999999999999"),
            "strconv.Atoi: parsing \"99999999999999999999\": value out of range"
        );
    }

    #[test]
    fn window_sizes_must_be_there_and_fit() {
        assert_eq!(query("h=24").cells("h", "height").unwrap(), 24);
        for (raw, why) in [
            ("", "\"\": invalid syntax"),
            ("h=-1", "\"-1\": value out of range"),
            ("h=70000", "\"70000\": value out of range"),
        ] {
            let e = query(raw).cells("h", "height").unwrap_err();
            assert_eq!(e.message(), format!("invalid resize height {why}"));
        }
    }

    #[test]
    fn times_are_unix_seconds_and_more() {
        let at = |raw: &str| query(raw).time("since").unwrap();
        let epoch = |d| Some(SystemTime::UNIX_EPOCH + d);
        assert_eq!(at("since=5.5"), epoch(Duration::from_millis(5500)));
        assert_eq!(at("since=1970-01-01T00:00:05Z"), epoch(Duration::from_secs(5)));
        assert_eq!((at("since=0"), at("since="), at("")), (None, None, None));
        query("since=tomorrow").time("since").unwrap_err();
    }
}
