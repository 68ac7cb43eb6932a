//! Label and field selectors: what a client may narrow a list or a watch to.

use serde_json::{Map, Value};

/// Requirements on labels; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Something stands where it cannot.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What may.
        expected: &'static str,
    },
    /// A key or value that no label can have.
    #[error("{what}: Invalid value: {value:?}: {why}")]
    Part {
        /// `key` or `values[0][key]`.
        what: String,
        /// The text.
        value: String,
        /// The rule.
        why: &'static str,
    },
    /// A field selector with an operator or without.
    #[error("invalid selector: '{0}'; can't understand '{1}'")]
    Term(String, String),
}

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h,!i`.
    pub fn parse(text: &str) -> Result<Labels, SelectorError> {
        let tokens = lex(text);
        let mut p = Parser { tokens: &tokens, at: 0 };
        let mut out = Vec::new();
        if tokens.is_empty() {
            return Ok(Labels(out));
        }
        loop {
            out.push(p.requirement()?);
            match p.next() {
                "" => break,
                "," => {}
                other => {
                    return Err(SelectorError::Unexpected {
                        found: other.to_owned(),
                        expected: "',' or 'end of string'",
                    });
                }
            }
        }
        Ok(Labels(out))
    }

    /// From a `LabelSelector` object, in which nothing selects nothing and empty selects everything.
    pub fn from_object(v: &Value) -> Option<Labels> {
        let object = v.as_object()?;
        let mut out = Vec::new();
        for (k, v) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let test = Test::In(vec![v.as_str().unwrap_or_default().to_owned()]);
            out.push(Requirement { key: k.clone(), test });
        }
        for e in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let values = || {
                let list = e["values"].as_array().into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let test = match e["operator"].as_str().unwrap_or_default() {
                "In" => Test::In(values()),
                "NotIn" => Test::NotIn(values()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Missing,
                _ => return None,
            };
            let key = e["key"].as_str().unwrap_or_default().to_owned();
            out.push(Requirement { key, test });
        }
        Some(Labels(out))
    }

    /// From the `matchExpressions` of a node selector term, which compare numbers as well.
    pub fn from_node_terms(expressions: &Value) -> Option<Labels> {
        let requirement = |e: &Value| {
            let texts = e["values"].as_array().into_iter().flatten();
            let values: Vec<String> = texts.filter_map(Value::as_str).map(str::to_owned).collect();
            let number = || values.first().and_then(|v| v.parse().ok());
            let test = match e["operator"].as_str().unwrap_or_default() {
                "Gt" => Test::Greater(number()?),
                "Lt" => Test::Less(number()?),
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Missing,
                _ => return None,
            };
            Some(Requirement { key: e["key"].as_str().unwrap_or_default().to_owned(), test })
        };
        expressions.as_array()?.iter().map(requirement).collect::<Option<Vec<_>>>().map(Labels)
    }

    /// From plain equalities, as older kinds write selectors.
    pub fn from_map(m: &Map<String, Value>) -> Labels {
        let pair = |(k, v): (&String, &Value)| Requirement {
            key: k.clone(),
            test: Test::In(vec![v.as_str().unwrap_or_default().to_owned()]),
        };
        Labels(m.iter().map(pair).collect())
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the labels of an object hold every requirement.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.0.iter().all(|r| {
            let value = labels.and_then(|m| m.get(&r.key)).and_then(Value::as_str);
            let number = || value.and_then(|v| v.parse::<i64>().ok());
            match &r.test {
                Test::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
                Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
                Test::Exists => value.is_some(),
                Test::Missing => value.is_none(),
                Test::Greater(n) => number().is_some_and(|v| v > *n),
                Test::Less(n) => number().is_some_and(|v| v < *n),
            }
        })
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted: Vec<&Requirement> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (i, r) in sorted.into_iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let key = &r.key;
            match &r.test {
                Test::In(v) if v.len() == 1 => write!(f, "{key}={}", v[0])?,
                Test::In(v) => write!(f, "{key} in ({})", v.join(","))?,
                Test::NotIn(v) if v.len() == 1 => write!(f, "{key}!={}", v[0])?,
                Test::NotIn(v) => write!(f, "{key} notin ({})", v.join(","))?,
                Test::Exists => f.write_str(key)?,
                Test::Missing => write!(f, "!{key}")?,
                Test::Greater(n) => write!(f, "{key}>{n}")?,
                Test::Less(n) => write!(f, "{key}<{n}")?,
            }
        }
        Ok(())
    }
}

fn lex(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' | ')' | ',' | '<' | '>' => out.push(c.to_string()),
            '=' | '!' => {
                let mut op = c.to_string();
                if chars.next_if_eq(&'=').is_some() {
                    op.push('=');
                }
                out.push(op);
            }
            c => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"(),<>=!".contains(*c))
                {
                    word.push(c);
                }
                out.push(word);
            }
        }
    }
    out
}

struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> &'a str {
        let t = self.peek();
        self.at += 1;
        t
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.peek() == "!" {
            self.at += 1;
            let key = self.key()?;
            return Ok(Requirement { key, test: Test::Missing });
        }
        let key = self.key()?;
        if matches!(self.peek(), "" | ",") {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = match self.next() {
            "=" | "==" => Test::In(vec![self.value(&key)?]),
            "!=" => Test::NotIn(vec![self.value(&key)?]),
            "in" => Test::In(self.values(&key)?),
            "notin" => Test::NotIn(self.values(&key)?),
            ">" => Test::Greater(self.number(&key)?),
            "<" => Test::Less(self.number(&key)?),
            other => {
                let expected = "in, notin, =, ==, !=, gt, lt";
                return Err(SelectorError::Unexpected { found: other.to_owned(), expected });
            }
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let key = self.next();
        if is_operator(key) || key.is_empty() {
            let expected = "!, identifier, or 'end of string'";
            return Err(SelectorError::Unexpected { found: key.to_owned(), expected });
        }
        match crate::names::qualified(key) {
            Some(why) => {
                Err(SelectorError::Part { what: "key".to_owned(), value: key.to_owned(), why })
            }
            None => Ok(key.to_owned()),
        }
    }

    fn value(&mut self, key: &str) -> Result<String, SelectorError> {
        if matches!(self.peek(), "" | ",") {
            return Ok(String::new());
        }
        let v = self.next();
        if is_operator(v) {
            let expected = "identifier";
            return Err(SelectorError::Unexpected { found: v.to_owned(), expected });
        }
        check_value(key, v)
    }

    fn number(&mut self, key: &str) -> Result<i64, SelectorError> {
        let v = self.next();
        v.parse().map_err(|_| SelectorError::Part {
            what: format!("values[0][{key}]"),
            value: v.to_owned(),
            why: "for 'Gt', 'Lt' operators, the value must be an integer",
        })
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, SelectorError> {
        let unexpected = |found: &str| SelectorError::Unexpected {
            found: found.to_owned(),
            expected: "',', ')' or identifier",
        };
        match self.next() {
            "(" => {}
            other => {
                let expected = "'('";
                return Err(SelectorError::Unexpected { found: other.to_owned(), expected });
            }
        }
        let mut out = Vec::new();
        loop {
            match self.peek() {
                ")" | "," => out.push(String::new()),
                t if is_operator(t) || t.is_empty() => return Err(unexpected(t)),
                _ => {
                    let v = self.next();
                    out.push(check_value(key, v)?);
                }
            }
            match self.next() {
                ")" => break,
                "," => {}
                other => return Err(unexpected(other)),
            }
        }
        out.sort();
        out.dedup();
        Ok(out)
    }
}

fn is_operator(t: &str) -> bool {
    matches!(t, "(" | ")" | "," | "<" | ">" | "=" | "==" | "!" | "!=")
}

fn check_value(key: &str, v: &str) -> Result<String, SelectorError> {
    match crate::names::label_value(v) {
        Some(why) => {
            Err(SelectorError::Part { what: format!("values[0][{key}]"), value: v.to_owned(), why })
        }
        None => Ok(v.to_owned()),
    }
}

/// Requirements on fields; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, bool, String)>);

impl Fields {
    /// Reads `metadata.name=a,status.phase!=Running`.
    pub fn parse(text: &str) -> Result<Fields, SelectorError> {
        let mut out = Vec::new();
        for term in split_terms(text).into_iter().filter(|t| !t.is_empty()) {
            let (key, equal, value) = if let Some((k, v)) = term.split_once("!=") {
                (k, false, v)
            } else if let Some((k, v)) = term.split_once("==") {
                (k, true, v)
            } else if let Some((k, v)) = term.split_once('=') {
                (k, true, v)
            } else {
                return Err(SelectorError::Term(text.to_owned(), term));
            };
            out.push((key.to_owned(), equal, unescape(value)));
        }
        Ok(Fields(out))
    }

    /// The names of the fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, ..)| k.as_str())
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name that it asks for, if it does.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(k, equal, _)| k == "metadata.name" && *equal).map(|t| t.2.as_str())
    }

    /// Whether an object, asked field by field in the order of [`Fields::names`], holds every requirement.
    pub fn matches(&self, mut field: impl FnMut(&str) -> String) -> bool {
        self.0.iter().all(|(k, equal, v)| (field(k) == *v) == *equal)
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let (mut out, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => out.push(std::mem::take(&mut term)),
            c => term.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    out.push(term);
    out
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(selector: &str, labels: Value, expected: bool) {
        let s = Labels::parse(selector).unwrap();
        assert_eq!(s.matches(labels.as_object()), expected, "{selector} {labels}");
    }

    #[test]
    fn labels_match() {
        check("", json!({}), true);
        check("a=b", json!({"a": "b"}), true);
        check("a==b,c!=d", json!({"a": "b"}), true);
        check("a in (b, c)", json!({"a": "c"}), true);
        check("a notin (b,c)", json!({"a": "c"}), false);
        check("a notin (b)", json!({}), true);
        check("a,!b", json!({"a": ""}), true);
        check("a>3", json!({"a": "4"}), true);
        check("a=", json!({"a": ""}), true);
        check("x.io/a in ()", json!({"x.io/a": ""}), true);
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for s in ["a=b=c", "a in b", "!", "a b", "=", "a in (b", "a!!b", "&=x"] {
            assert!(Labels::parse(s).is_err(), "{s}");
        }
    }

    #[test]
    fn fields_match_and_escape() {
        let f = Fields::parse("metadata.name=a,status.phase!=Running").unwrap();
        assert_eq!(f.name(), Some("a"));
        assert!(f.matches(|k| if k == "metadata.name" { "a".into() } else { "Pending".into() }));
        let f = Fields::parse(r"k=a\,b").unwrap();
        assert!(f.matches(|_| "a,b".to_owned()));
        assert!(Fields::parse("spec").is_err());
    }
}
