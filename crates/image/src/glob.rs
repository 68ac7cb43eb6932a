//! Shell patterns over slash-separated names, as Go's `path.Match` reads them.

/// Whether `pattern` fits all of `name`: `*` is any run without a slash, `?` one byte other than
/// a slash, `[a-z]` and `[^a-z]` a class, `\` quotes. A malformed pattern fits nothing.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    fits(pattern.as_bytes(), name.as_bytes())
}

fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => {
            let run = name.iter().position(|b| *b == b'/').unwrap_or(name.len());
            (0..=run).any(|taken| fits(rest, &name[taken..]))
        }
        [b'?', rest @ ..] => name.first().is_some_and(|b| *b != b'/') && fits(rest, &name[1..]),
        [b'[', rest @ ..] => match (class(rest), name.split_first()) {
            (Some((set, negated, rest)), Some((byte, name))) => {
                *byte != b'/' && set.iter().any(|r| r.contains(byte)) != negated && fits(rest, name)
            }
            _ => false,
        },
        [b'\\', quoted, rest @ ..] => name.first() == Some(quoted) && fits(rest, &name[1..]),
        [byte, rest @ ..] => name.first() == Some(byte) && fits(rest, &name[1..]),
    }
}

type Class<'a> = (Vec<std::ops::RangeInclusive<u8>>, bool, &'a [u8]);

/// Reads a class after its opening bracket.
fn class(text: &[u8]) -> Option<Class<'_>> {
    let (negated, mut rest) = match text {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut set = Vec::new();
    loop {
        match rest {
            [b']', after @ ..] if !set.is_empty() => return Some((set, negated, after)),
            [low, b'-', high, after @ ..] if *high != b']' => {
                set.push(*low..=*high);
                rest = after;
            }
            [one, after @ ..] => {
                set.push(*one..=*one);
                rest = after;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_fit_as_in_go() {
        for (pattern, name, fit) in [
            ("busybox*", "busybox:1", true),
            ("bus*box", "busybox", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("b[a-u]sy?ox", "busybox", true),
            ("b[^a-u]sybox", "busybox", false),
            ("b\\*", "b*", true),
            ("b\\*", "bx", false),
            ("[", "a", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), fit, "{pattern} {name}");
        }
    }
}
