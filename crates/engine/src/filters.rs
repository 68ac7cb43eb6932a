//! The `filters` query parameter of the Engine API: parsing, allowed names, matching.
//!
//! Two JSON forms are in use and both are accepted: `{"key":{"value":true}}` (the docker CLI) and
//! `{"key":["value"]}` (docker-py, curl). Values of one key are alternatives, except that labels
//! must all match; different keys must all match. A key that is absent matches everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// Names that `GET /containers/json` takes.
pub const CONTAINERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
/// Names that `GET /images/json` takes.
pub const IMAGES: &[&str] =
    &["before", "containerd", "dangling", "label", "label!", "reference", "since", "until"];
/// Names that `GET /networks` takes.
pub const NETWORKS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// Names that `GET /volumes` takes.
pub const VOLUMES: &[&str] = &["dangling", "driver", "label", "name"];
/// Names that `GET /events` takes.
pub const EVENTS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];
/// Names that `POST /containers/prune` and `POST /networks/prune` take.
pub const PRUNE: &[&str] = &["label", "label!", "until"];
/// Names that `POST /images/prune` takes.
pub const PRUNE_IMAGES: &[&str] = &["dangling", "label", "label!", "until"];
/// Names that `GET /images/search` takes.
pub const SEARCH: &[&str] = &["is-automated", "is-official", "stars"];
/// Names that `POST /volumes/prune` takes.
pub const PRUNE_VOLUMES: &[&str] = &["all", "label", "label!"];

/// Parsed filters: for each key the set of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// A filter that cannot be applied. The texts are the ones that clients of Docker know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The parameter is not JSON of either form.
    #[error("invalid filter")]
    Syntax,
    /// The object has no such filter.
    #[error("invalid filter '{0}'")]
    Name(String),
    /// The filter does not take this value.
    #[error("invalid filter '{name}=[{value}]'")]
    Value {
        /// The filter.
        name: String,
        /// Its values, joined by blanks.
        value: String,
    },
}

impl Filters {
    /// Reads the query parameter. The empty string is no filter.
    pub fn parse(json: &str) -> Result<Filters, FilterError> {
        if json.trim().is_empty() {
            return Ok(Filters::default());
        }
        let raw: Option<BTreeMap<String, Values>> =
            serde_json::from_str(json).map_err(|_| FilterError::Syntax)?;
        Ok(Filters(raw.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()))
    }

    /// Adds one value, for filters that are made in code.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Filters {
        self.0.entry(key.into()).or_default().insert(value.into());
        self
    }

    /// Refuses every key that is not in `names`.
    pub fn check(&self, names: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|k| !names.contains(&k.as_str())) {
            Some(unknown) => Err(FilterError::Name(unknown.clone())),
            None => Ok(()),
        }
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` was given at all.
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The values of `key`, in order; none if it is absent.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether `value` is one of the values of `key`, or `key` has none.
    pub fn exact(&self, key: &str, value: &str) -> bool {
        self.alternatives(key, |v| v == value)
    }

    /// Whether `value` begins with one of the values of `key`, or `key` has none.
    pub fn prefix(&self, key: &str, value: &str) -> bool {
        self.alternatives(key, |v| value.starts_with(v))
    }

    /// Whether a value of `key`, as an unanchored regular expression, matches `text`, or `key` has none.
    ///
    /// An expression that does not compile matches only its own text, as in Docker.
    pub fn pattern(&self, key: &str, text: &str) -> bool {
        self.alternatives(key, |v| {
            v == text || regex_lite::Regex::new(v).is_ok_and(|r| r.is_match(text))
        })
    }

    /// Whether `labels` has every `name` or `name=value` that `key` lists.
    pub fn labels<M: Labels + ?Sized>(&self, key: &str, labels: &M) -> bool {
        self.values(key).all(|want| match want.split_once('=') {
            Some((name, value)) => labels.value(name) == Some(value),
            None => labels.value(want).is_some(),
        })
    }

    /// Whether a prune with `label` and `label!` may take an object with these labels.
    pub fn prunes<M: Labels + ?Sized>(&self, labels: &M) -> bool {
        self.labels("label", labels) && (!self.contains("label!") || !self.labels("label!", labels))
    }

    /// The truth value of `key`: `None` if absent; an error unless it is one of `1 true 0 false`.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.0.get(key) else { return Ok(None) };
        if values.is_empty() {
            return Err(FilterError::Name(key.into()));
        }
        let yes = values.contains("1") || values.contains("true");
        let no = values.contains("0") || values.contains("false");
        if yes == no {
            return Err(self.bad_value(key));
        }
        Ok(Some(yes))
    }

    /// The point in time that `until` names, seen from `now`; `None` if absent.
    pub fn until(&self, now: SystemTime) -> Result<Option<SystemTime>, FilterError> {
        let mut values = self.values("until");
        let Some(first) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(self.bad_value("until"));
        }
        moment(first, now).map(Some).ok_or_else(|| self.bad_value("until"))
    }

    /// The earliest of the points in time that `key` names, seen from `now`; `None` if absent.
    pub fn earliest(&self, key: &str, now: SystemTime) -> Result<Option<SystemTime>, FilterError> {
        let times: Option<Vec<SystemTime>> = self.values(key).map(|v| moment(v, now)).collect();
        Ok(times.ok_or_else(|| self.bad_value(key))?.into_iter().min())
    }

    /// The error that names `key` together with what was given for it.
    pub fn bad_value(&self, key: &str) -> FilterError {
        let value = self.values(key).collect::<Vec<_>>().join(" ");
        FilterError::Value { name: key.into(), value }
    }

    fn alternatives(&self, key: &str, matches: impl FnMut(&str) -> bool) -> bool {
        let none = self.0.get(key).is_none_or(BTreeSet::is_empty);
        none || self.values(key).any(matches)
    }
}

/// A set of labels that can be asked for one.
pub trait Labels {
    /// The value of `name`, if it is set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl<S: std::hash::BuildHasher> Labels for std::collections::HashMap<String, String, S> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn value(&self, name: &str) -> Option<&str> {
        self.as_ref()?.value(name)
    }
}

/// Reads a time as Docker's clients write it: unix seconds with an optional fraction, RFC 3339 (also
/// without zone, seconds or time of day), or a Go duration before `now`.
pub fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    unix_moment(text)
        .or_else(|| duration(text).and_then(|d| now.checked_sub(d)))
        .or_else(|| calendar_moment(text))
}

/// Reads unix seconds with an optional fraction, as `since` and `until` of logs and events carry them.
pub fn unix_moment(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    // What is finer than a nanosecond is cut off, as far as Docker can read it: bollard sends the whole time again there.
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 19 {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base?.checked_add(Duration::from_nanos(nanos.into()))
}

/// Reads a Go duration such as `1h30m`, `1.5s` or `10ms`; negative ones are not taken.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0f64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[end..];
        total += number * unit;
    }
    Duration::try_from_secs_f64(total).ok()
}

fn calendar_moment(text: &str) -> Option<SystemTime> {
    if let Ok(zoned) = text.parse::<jiff::Timestamp>() {
        return Some(zoned.into());
    }
    // Without a zone the daemon's own is meant; a daemon's zone is UTC unless someone chose another.
    let zone = jiff::tz::TimeZone::system();
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(Into::into))
        .ok()?;
    Some(civil.to_zoned(zone).ok()?.timestamp().into())
}

/// The values of one key in either form.
struct Values(BTreeSet<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Values, D::Error> {
        d.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings or an object of booleans")
    }

    fn visit_unit<E>(self) -> Result<Values, E> {
        Ok(Values(BTreeSet::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Values, A::Error> {
        let mut values = BTreeSet::new();
        while let Some(value) = seq.next_element::<String>()? {
            values.insert(value);
        }
        Ok(Values(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        let mut values = BTreeSet::new();
        while let Some((value, on)) = map.next_entry::<String, Option<bool>>()? {
            if on == Some(true) {
                values.insert(value);
            }
        }
        Ok(Values(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Filters {
        Filters::parse(json).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn both_json_forms_mean_the_same() {
        let cli = parse(r#"{"label":{"a=1":true,"b":true},"name":{"x":true}}"#);
        let py = parse(r#"{"label":["b","a=1"],"name":["x"]}"#);
        assert_eq!(cli, py);
        for empty in ["", " ", "{}", "null"] {
            assert!(parse(empty).is_empty(), "{empty:?}");
        }
    }

    #[test]
    fn text_that_is_no_filter_is_refused() {
        for bad in ["x", "[]", "1", r#"{"a":"b"}"#, r#"{"a":{"b":"true"}}"#, r#"{"a":[1]}"#, "{"] {
            assert_eq!(Filters::parse(bad).unwrap_err().to_string(), "invalid filter", "{bad}");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        let e = parse(r#"{"label":["x"],"colour":["red"]}"#).check(CONTAINERS).unwrap_err();
        assert_eq!(e.to_string(), "invalid filter 'colour'");
        parse(r#"{"label":["x"]}"#).check(CONTAINERS).unwrap();
    }

    #[test]
    fn values_are_alternatives_and_labels_are_not() {
        let f = parse(r#"{"status":["exited","dead"],"label":["a=1","b"]}"#);
        assert!(f.exact("status", "dead") && !f.exact("status", "running"));
        assert!(f.labels("label", &labels(&[("a", "1"), ("b", "x"), ("c", "")])));
        assert!(!f.labels("label", &labels(&[("a", "1")])));
        assert!(!f.labels("label", &labels(&[("a", "2"), ("b", "")])));
        assert!(f.exact("absent", "anything"));
    }

    #[test]
    fn names_are_patterns_without_anchors() {
        let f = parse(r#"{"name":["^/web"]}"#);
        assert!(f.pattern("name", "/web1") && !f.pattern("name", "/my-web"));
        assert!(parse(r#"{"name":["web"]}"#).pattern("name", "/my-web1"));
        assert!(!parse(r#"{"name":["["]}"#).pattern("name", "/x"));
    }

    #[test]
    fn prune_excludes_by_label() {
        let f = parse(r#"{"label!":["keep"]}"#);
        assert!(f.prunes(&labels(&[])) && !f.prunes(&labels(&[("keep", "")])));
    }

    #[test]
    fn truth_is_strict() {
        assert_eq!(parse("").truth("dangling"), Ok(None));
        assert_eq!(parse(r#"{"dangling":["1"]}"#).truth("dangling"), Ok(Some(true)));
        assert_eq!(parse(r#"{"dangling":{"false":true}}"#).truth("dangling"), Ok(Some(false)));
        let e = parse(r#"{"dangling":["maybe"]}"#).truth("dangling").unwrap_err();
        assert_eq!(e.to_string(), "invalid filter 'dangling=[maybe]'");
        parse(r#"{"dangling":["true","false"]}"#).truth("dangling").unwrap_err();
    }

    #[test]
    fn moments_in_every_form() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |s: &str| moment(s, now).map(|t| t.duration_since(UNIX_EPOCH).unwrap());
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(at("999999"), seconds(999_999));
        assert_eq!(at("5.25"), Some(Duration::from_millis(5250)));
        assert_eq!(at("1h30m"), seconds(1_000_000 - 5400));
        assert_eq!(at("1.5s"), Some(Duration::from_millis(999_998_500)));
        assert_eq!(at("1970-01-02T00:00:00Z"), seconds(86_400));
        assert_eq!(at("1970-01-01T02:00:00+01:00"), seconds(3600));
        assert_eq!(at("1.0000000001"), seconds(1));
        assert_eq!(at("5.5000000000000000000"), Some(Duration::from_millis(5500)));
        for bad in ["", "x", "10", "1.x", "5parsecs", "1.00000000000000000000"] {
            assert_eq!(at(bad).is_some(), bad == "10", "{bad}");
        }
    }
}
