//! Spans of the key space, and their form on the wire.

use bytes::Bytes;

/// A set of keys that lie beside each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Key(Bytes),
    /// Every key from `start` up to, not including, `end`.
    Span {
        /// The first key.
        start: Bytes,
        /// The first key that is not in it.
        end: Bytes,
    },
    /// This key and every later one.
    From(Bytes),
}

impl KeyRange {
    /// Exactly `key`.
    pub fn key(key: impl Into<Bytes>) -> KeyRange {
        KeyRange::Key(key.into())
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let start = prefix.into();
        match successor(&start) {
            Some(end) => KeyRange::Span { start, end: end.into() },
            None => KeyRange::From(start),
        }
    }

    /// Every key from `start` up to, not including, `end`.
    pub fn span(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange::Span { start: start.into(), end: end.into() }
    }

    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange::From(Bytes::new())
    }

    /// Reads the wire form: no end is one key, an end of one zero byte is everything from the key on.
    pub fn from_wire(key: Bytes, end: Bytes) -> KeyRange {
        match &end[..] {
            [] => KeyRange::Key(key),
            // A lone zero byte as the start stands for the empty key, which cannot be written.
            [0] if key[..] == [0] => KeyRange::all(),
            [0] => KeyRange::From(key),
            _ => KeyRange::Span { start: key, end },
        }
    }

    /// The wire form.
    pub fn to_wire(&self) -> (Bytes, Bytes) {
        const ZERO: Bytes = Bytes::from_static(&[0]);
        match self {
            KeyRange::Key(key) => (key.clone(), Bytes::new()),
            KeyRange::Span { start, end } if end.is_empty() => (start.clone(), start.clone()),
            KeyRange::Span { start, end } if start.is_empty() => (ZERO, end.clone()),
            KeyRange::Span { start, end } => (start.clone(), end.clone()),
            KeyRange::From(start) if start.is_empty() => (ZERO, ZERO),
            KeyRange::From(start) => (start.clone(), ZERO),
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Key(own) => own == key,
            KeyRange::Span { start, end } => key >= &start[..] && key < &end[..],
            KeyRange::From(start) => key >= &start[..],
        }
    }

    /// Whether every key of another range is in this one.
    pub(crate) fn covers(&self, other: &KeyRange) -> bool {
        match (self, other) {
            (_, KeyRange::Key(key)) => self.contains(key),
            (KeyRange::Key(_), _) => false,
            (KeyRange::From(own), KeyRange::Span { start, .. } | KeyRange::From(start)) => {
                start >= own
            }
            (KeyRange::Span { .. }, KeyRange::From(_)) => false,
            (KeyRange::Span { start: own, end }, KeyRange::Span { start, end: last }) => {
                start >= own && last <= end
            }
        }
    }

    /// The part of it that begins with a key.
    pub(crate) fn starting_at(&self, start: Vec<u8>) -> KeyRange {
        match self {
            KeyRange::Key(_) => self.clone(),
            KeyRange::Span { end, .. } => KeyRange::span(start, end.clone()),
            KeyRange::From(_) => KeyRange::From(start.into()),
        }
    }

    /// The first key that could be in it.
    pub fn start(&self) -> &[u8] {
        match self {
            KeyRange::Key(start) | KeyRange::Span { start, .. } | KeyRange::From(start) => start,
        }
    }

    /// Whether `key`, which is not before the start, lies behind the last key that could be in it.
    pub(crate) fn is_past(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Key(own) => key > &own[..],
            KeyRange::Span { end, .. } => key >= &end[..],
            KeyRange::From(_) => false,
        }
    }

    /// The prefix that this range is, if it is one.
    pub(crate) fn as_prefix(&self) -> Option<&Bytes> {
        match self {
            KeyRange::Span { start, end } if successor(start).as_deref() == Some(end) => {
                Some(start)
            }
            KeyRange::From(start) if start.is_empty() => Some(start),
            _ => None,
        }
    }
}

/// The first key behind every key that begins with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: KeyRange, inside: &[&str], outside: &[&str]) {
        for key in inside {
            assert!(range.contains(key.as_bytes()), "{range:?} lacks {key}");
        }
        for key in outside {
            assert!(!range.contains(key.as_bytes()), "{range:?} holds {key}");
        }
        let (start, end) = range.to_wire();
        assert_eq!(KeyRange::from_wire(start, end), range);
    }

    #[test]
    fn ranges_hold_their_keys() {
        check(KeyRange::key("a"), &["a"], &["", "a\0", "b"]);
        check(KeyRange::prefix("ab"), &["ab", "ab\0", "abz"], &["a", "ac", "aa"]);
        check(KeyRange::span("b", "d"), &["b", "c", "czz"], &["a", "d"]);
        check(KeyRange::all(), &["", "a"], &[]);
        check(KeyRange::From("b".into()), &["b", "c"], &["a", ""]);
    }

    #[test]
    fn ranges_cover_what_lies_inside() {
        let prefix = KeyRange::prefix("b/");
        for inside in [
            KeyRange::key("b/x"),
            KeyRange::prefix("b/x"),
            prefix.clone(),
            KeyRange::span("b/", "b/z"),
        ] {
            assert!(prefix.covers(&inside) && KeyRange::all().covers(&inside), "{inside:?}");
        }
        for outside in [
            KeyRange::key("b"),
            KeyRange::prefix("b"),
            KeyRange::all(),
            KeyRange::span("b/x", "c"),
            KeyRange::From("b/x".into()),
        ] {
            assert!(!prefix.covers(&outside), "{outside:?}");
        }
        assert!(KeyRange::From("b".into()).covers(&KeyRange::From("c".into())));
        assert!(!KeyRange::From("b".into()).covers(&KeyRange::all()));
        assert_eq!(prefix.starting_at(b"b/m".to_vec()), KeyRange::span("b/m", "b0"));
    }

    #[test]
    fn a_prefix_of_highest_bytes_has_no_end() {
        assert_eq!(KeyRange::prefix(vec![0xff, 0xff]), KeyRange::From(vec![0xff, 0xff].into()));
        let carried = KeyRange::prefix(vec![1, 0xff]);
        assert_eq!(carried, KeyRange::span(vec![1, 0xff], vec![2]));
        assert_eq!(carried.as_prefix().unwrap()[..], [1, 0xff]);
        assert_eq!(KeyRange::span("a", "c").as_prefix(), None);
        assert!(KeyRange::all().as_prefix().unwrap().is_empty());
    }

    #[test]
    fn a_span_with_no_end_stays_empty_on_the_wire() {
        let (start, end) = KeyRange::span("a", "").to_wire();
        assert!(!KeyRange::from_wire(start, end).contains(b"a"));
    }
}
