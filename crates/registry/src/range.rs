//! Byte ranges: of a download (`Range`, RFC 9110 §14) and of a piece of an upload (`Content-Range`).

/// What a `Range` header means for a blob of a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Whole,
    /// From the first byte to the second, inclusive.
    Part(u64, u64),
    /// Nothing that there is (416).
    Outside,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n`. Several ranges, other units and nonsense are the whole, as HTTP has it.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(ranges) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = ranges.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && first < size => {
            Wanted::Part(first, last.min(size - 1))
        }
        (Some(_), Some(_)) => Wanted::Outside,
        (Some(first), None) if last.is_empty() && first < size => Wanted::Part(first, size - 1),
        (Some(_), None) if last.is_empty() => Wanted::Outside,
        (None, Some(0)) if first.is_empty() => Wanted::Outside,
        (None, Some(n)) if first.is_empty() && size > 0 => {
            Wanted::Part(size.saturating_sub(n), size - 1)
        }
        _ => Wanted::Whole,
    }
}

/// Where a piece of an upload begins and how long it is: `a-b`, inclusive, with or without `bytes` and `/size`,
/// which some clients add. `None` if it is malformed.
pub(crate) fn piece(header: &str) -> Option<(u64, u64)> {
    let bare = header.trim();
    let bare = bare.strip_prefix("bytes").map_or(bare, |r| r.trim_start_matches(['=', ' ']));
    let bare = bare.split('/').next()?;
    let (first, last) = bare.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some((first, length))
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads() {
        for (header, expected) in [
            ("bytes=500-1499", Wanted::Part(500, 1499)),
            ("bytes=500-", Wanted::Part(500, 2047)),
            ("bytes=-500", Wanted::Part(1548, 2047)),
            ("bytes=-5000", Wanted::Part(0, 2047)),
            ("bytes=2000-5000", Wanted::Part(2000, 2047)),
            ("bytes=0-0", Wanted::Part(0, 0)),
            ("bytes=500-0", Wanted::Outside),
            ("bytes=5000-10000", Wanted::Outside),
            ("bytes=2048-", Wanted::Outside),
            ("bytes=-0", Wanted::Outside),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=x-y", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=0-99999999999999999999999", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 2048), expected, "{header}");
        }
        assert_eq!(wanted(None, 0), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Outside);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Whole);
    }

    #[test]
    fn uploads() {
        assert_eq!(piece("0-9"), Some((0, 10)));
        assert_eq!(piece("bytes 10-19/100"), Some((10, 10)));
        assert_eq!(piece("bytes=10-19"), Some((10, 10)));
        for bad in ["", "-", "1", "9-0", "0-", "-1", "a-b", "0-18446744073709551615", "0-1-2"] {
            assert_eq!(piece(bad), None, "{bad}");
        }
    }
}
