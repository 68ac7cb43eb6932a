//! Query strings, and the percent signs in them.

/// The parameters of a request, decoded, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c`. What does not decode is no parameter.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plus = value.replace('+', "%20");
            // A plus sign is meant in media types, where nobody means a blank.
            let value = if key == "artifactType" { value } else { &plus };
            Some((decode(key)?, decode(value)?))
        });
        Self(pairs.collect())
    }

    /// The first value of `key`; `None` if it is absent or empty.
    pub(crate) fn get(&self, key: &'static str) -> Option<&str> {
        self.all(key).next().filter(|value| !value.is_empty())
    }

    /// Every value of `key`.
    pub(crate) fn all(&self, key: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// Undoes percent-encoding. `None` if it is broken, or not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: u8| char::from(b).to_digit(16);
        let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Percent-encodes everything that has a meaning in a query.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("mount=sha256%3Aab&from=a/b&x&tag=1&tag=2&bad=%zz");
        assert_eq!(query.get("mount"), Some("sha256:ab"));
        assert_eq!(
            (query.get("from"), query.get("x"), query.get("bad")),
            (Some("a/b"), None, None)
        );
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn encoding_can_be_undone() {
        for text in ["a b", "ä&=+%", "x/y.z"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
        assert!(decode("%").is_none() && decode("%ff").is_none());
    }
}
