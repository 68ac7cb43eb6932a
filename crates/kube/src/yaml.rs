//! YAML as the API reads and writes it: one document, made into the JSON that it stands for.

use crate::json::Parsed;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::fmt::Write as _;

/// A text that is no YAML, or more than is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is no YAML.
    #[error("yaml: {0}")]
    Syntax(String),
    /// Aliases blow it up, or it nests too deep.
    #[error("yaml: document contains excessive aliasing")]
    Bomb,
    /// A key that is no scalar.
    #[error("yaml: invalid map key")]
    Key,
}

/// Nodes that aliases may add, and levels that may be nested.
const NODES: usize = 200_000;
const DEPTH: usize = 128;

/// Reads the first document.
pub fn parse(bytes: &[u8]) -> Result<Parsed, YamlError> {
    let text = std::str::from_utf8(bytes).map_err(|e| YamlError::Syntax(e.to_string()))?;
    let mut b = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| YamlError::Syntax(e.to_string()))?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        b.event(event)?;
    }
    Ok(Parsed { value: b.root.unwrap_or_default(), duplicates: b.duplicates })
}

enum Open {
    List(Vec<Value>, usize),
    Map(Map<String, Value>, Option<String>, usize),
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    root: Option<Value>,
    anchors: HashMap<usize, Value>,
    duplicates: Vec<String>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) -> Result<(), YamlError> {
        match event {
            Event::Alias(id) => {
                let v = self.anchors.get(&id).cloned().unwrap_or_default();
                self.nodes += size(&v);
                if self.nodes > NODES {
                    return Err(YamlError::Bomb);
                }
                self.value(v, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted =
                    style != ScalarStyle::Plain || tag.as_ref().is_some_and(|t| t.suffix == "str");
                let is_key = matches!(self.stack.last(), Some(Open::Map(_, None, _)));
                let v =
                    if quoted || is_key { Value::String(text.into_owned()) } else { plain(&text) };
                self.value(v, anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List(Vec::new(), anchor)),
            Event::MappingStart(anchor, _) => self.open(Open::Map(Map::new(), None, anchor)),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(list, anchor)) => self.value(Value::Array(list), anchor),
                Some(Open::Map(map, _, anchor)) => self.value(Value::Object(map), anchor),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), YamlError> {
        if matches!(self.stack.last(), Some(Open::Map(_, None, _))) {
            return Err(YamlError::Key);
        }
        if self.stack.len() >= DEPTH {
            return Err(YamlError::Bomb);
        }
        self.stack.push(open);
        Ok(())
    }

    fn value(&mut self, v: Value, anchor: usize) -> Result<(), YamlError> {
        if anchor > 0 {
            self.anchors.insert(anchor, v.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(v),
            Some(Open::List(list, _)) => list.push(v),
            Some(Open::Map(map, key, _)) => match key.take() {
                None => match v {
                    Value::String(s) => *key = Some(s),
                    _ => return Err(YamlError::Key),
                },
                Some(k) if k == "<<" => merge(map, v),
                Some(k) => {
                    if map.insert(k.clone(), v).is_some() {
                        self.duplicates.push(self.path(&k));
                    }
                }
            },
        }
        Ok(())
    }

    fn path(&self, last: &str) -> String {
        let mut out = String::new();
        for open in &self.stack {
            match open {
                Open::List(list, _) => _ = write!(out, "[{}]", list.len()),
                Open::Map(_, Some(key), _) => {
                    let dot = if out.is_empty() { "" } else { "." };
                    _ = write!(out, "{dot}{key}");
                }
                Open::Map(..) => {}
            }
        }
        let dot = if out.is_empty() { "" } else { "." };
        format!("{out}{dot}{last}")
    }
}

/// What `<<` brings in does not replace what is there.
fn merge(map: &mut Map<String, Value>, v: Value) {
    match v {
        Value::Object(m) => {
            for (k, v) in m {
                map.entry(k).or_insert(v);
            }
        }
        Value::Array(list) => list.into_iter().for_each(|v| merge(map, v)),
        _ => {}
    }
}

fn size(v: &Value) -> usize {
    match v {
        Value::Array(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Object(m) => 1 + m.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// The meaning of an unquoted scalar, by the rules of the library that `kubectl` uses.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    integer(text).or_else(|| float(text)).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn integer(text: &str) -> Option<Value> {
    let clean = text.replace('_', "");
    let (sign, digits) = match clean.strip_prefix('-') {
        Some(d) => (-1, d),
        None => (1, clean.strip_prefix('+').unwrap_or(&clean)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let parse = |d: &str, radix| i64::from_str_radix(d, radix).ok().map(|n| Value::from(sign * n));
    if let Some(d) = digits.strip_prefix("0x") {
        return parse(d, 16);
    }
    if let Some(d) = digits.strip_prefix("0o") {
        return parse(d, 8);
    }
    if let Some(d) = digits.strip_prefix("0b") {
        return parse(d, 2);
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return parse(&digits[1..], 8);
    }
    parse(digits, 10).or_else(|| digits.parse::<u64>().ok().filter(|_| sign > 0).map(Value::from))
}

fn float(text: &str) -> Option<Value> {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let numeric = body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.bytes().any(|b| b.is_ascii_digit())
        && body.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    if !numeric {
        return None;
    }
    text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
}

/// Writes an object, keys sorted, as the reference server does.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(m) if !m.is_empty() => object(m, 0, &mut out),
        Value::Array(list) if !list.is_empty() => array(list, 0, &mut out),
        v => {
            scalar(v, &mut out);
            out.push('\n');
        }
    }
    out
}

fn object(m: &Map<String, Value>, indent: usize, out: &mut String) {
    let mut keys: Vec<&String> = m.keys().collect();
    keys.sort();
    for (i, key) in keys.into_iter().enumerate() {
        if i > 0 {
            _ = write!(out, "{:indent$}", "");
        }
        scalar(&Value::String(key.clone()), out);
        out.push(':');
        nested(&m[key], indent, out);
    }
}

fn nested(v: &Value, indent: usize, out: &mut String) {
    match v {
        Value::Object(m) if !m.is_empty() => {
            _ = write!(out, "\n{:width$}", "", width = indent + 2);
            object(m, indent + 2, out);
        }
        Value::Array(list) if !list.is_empty() => {
            _ = write!(out, "\n{:indent$}", "");
            array(list, indent, out);
        }
        v => {
            out.push(' ');
            scalar(v, out);
            out.push('\n');
        }
    }
}

fn array(list: &[Value], indent: usize, out: &mut String) {
    for (i, v) in list.iter().enumerate() {
        if i > 0 {
            _ = write!(out, "{:indent$}", "");
        }
        out.push_str("- ");
        match v {
            Value::Object(m) if !m.is_empty() => object(m, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => array(inner, indent + 2, out),
            v => {
                scalar(v, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(v: &Value, out: &mut String) {
    match v {
        Value::String(s) if is_plain(s) => out.push_str(s),
        // A JSON string is a double-quoted YAML string.
        v => _ = write!(out, "{v}"),
    }
}

fn is_plain(s: &str) -> bool {
    let first = s.chars().next();
    first.is_some_and(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '_'))
        && !s.ends_with([' ', ':'])
        && !s.contains(": ")
        && !s.contains(" #")
        && s.chars().all(|c| !c.is_control())
        && matches!(plain(s), Value::String(_))
        // A time would be read as one by other libraries.
        && !s.as_bytes().get(..4).is_some_and(|y| y.iter().all(u8::is_ascii_digit) && s.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_become_json() {
        let text = "a: 1\nb: [x, \"2\", yes]\nc:\n- d: &x {e: 0644}\n- *x\nf: |\n  line\ng: 1.5\nh:\n1: one\n";
        assert_eq!(
            parse(text.as_bytes()).unwrap().value,
            json!({"a": 1, "b": ["x", "2", true], "c": [{"d": {"e": 420}}, {"e": 420}], "f": "line\n", "g": 1.5, "h": null, "1": "one"})
        );
        let p = parse(b"a:\n  b: 1\n  b: 2\n").unwrap();
        assert_eq!((p.value, p.duplicates), (json!({"a": {"b": 2}}), vec!["a.b".to_owned()]));
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (x, y) in "abcdefgh".chars().zip("bcdefghi".chars()) {
            _ = writeln!(text, "{y}: &{y} [*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x}]");
        }
        assert_eq!(parse(text.as_bytes()).unwrap_err(), YamlError::Bomb);
        assert!(parse("[".repeat(5000).as_bytes()).is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        let v = json!({"b": [1, {"x": "y", "z": []}, [2]], "a": {"t": "2026-01-01T00:00:00Z", "n": "1", "m": "a: b", "e": "", "y": "yes"}, "l": "one\ntwo"});
        let text = write(&v);
        assert_eq!(parse(text.as_bytes()).unwrap().value, v, "{text}");
        assert!(text.starts_with("a:\n  e: \"\"\n"), "{text}");
    }
}
