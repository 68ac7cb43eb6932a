//! The forms that arguments have: JSON arrays, raw words, name=value lists, durations.

use super::Command;

/// What an argument list in JSON form turned out to be.
pub(crate) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of something else, which is an error.
    Mixed,
    /// No JSON array: the shell form.
    No,
}

/// Reads `["a", "b"]`.
pub(crate) fn json(text: &str) -> Json {
    let text = text.trim();
    if !text.starts_with('[') {
        return Json::No;
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(text) {
        Err(_) => Json::No,
        Ok(values) => {
            let strings: Option<Vec<String>> =
                values.into_iter().map(|v| v.as_str().map(str::to_owned)).collect();
            strings.map_or(Json::Mixed, Json::Strings)
        }
    }
}

/// Exec form or shell form; `None` for an array that does not consist of strings.
pub(crate) fn command(text: &str) -> Option<Command> {
    match json(text) {
        Json::Strings(words) => Some(Command::Exec(words)),
        Json::No => Some(Command::Shell(text.to_owned())),
        Json::Mixed => None,
    }
}

/// Words split at blanks outside quotes, quotes and escapes kept.
pub(crate) fn words(text: &str, escape: char) -> Vec<String> {
    let (mut all, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        all.push(word);
    }
    all
}

/// Go's durations, `1m30s`, in nanoseconds; `0` needs no unit.
pub(crate) fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let after = rest[unit_at..].find(|c: char| c.is_ascii_digit() || c == '.');
        let end = after.map_or(rest.len(), |n| unit_at + n);
        let unit = match &rest[unit_at..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += rest[..unit_at].parse::<f64>().ok()? * unit;
        rest = &rest[end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range")]
    (!text.is_empty() && sum < 9.2e18).then_some(sum as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        assert_eq!(command("[\"a\", \"b\"]"), Some(Command::Exec(vec!["a".into(), "b".into()])));
        assert_eq!(command("['a']"), Some(Command::Shell("['a']".into())));
        assert_eq!(command("[1]"), None);
        assert_eq!(words("a=\"b c\" d\\ e 'f g'", '\\'), ["a=\"b c\"", "d\\ e", "'f g'"]);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s"), Some(90_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert_eq!(duration("0"), Some(0));
        for bad in ["", "5", "s", "1x", "-1s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
