//! Sets of a job's indexes, which a status writes as ranges.

use std::collections::BTreeSet;

/// `0,2-4` from indexes.
pub(super) fn write(set: &BTreeSet<i64>) -> String {
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for i in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *i => *last = *i,
            _ => parts.push((*i, *i)),
        }
    }
    let text = |(a, b): &(i64, i64)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The indexes of such a text that are below `end`; what is no range is left out.
pub(super) fn read(text: &str, end: i64) -> BTreeSet<i64> {
    let part = |p: &str| -> Option<std::ops::Range<i64>> {
        let (a, b) = p.split_once('-').unwrap_or((p, p));
        let (a, b): (i64, i64) = (a.parse().ok()?, b.parse().ok()?);
        Some(a.max(0)..b.saturating_add(1).min(end))
    };
    text.split(',').filter_map(part).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        let set = BTreeSet::from([0, 2, 3, 4, 9]);
        assert_eq!(write(&set), "0,2-4,9");
        assert_eq!(read("0,2-4,9", 10), set);
        assert_eq!(read("0,2-99999999999999", 4), BTreeSet::from([0, 2, 3]));
        assert!(read("", 9).is_empty() && read("x,5-", 9).is_empty());
    }
}
