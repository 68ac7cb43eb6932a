//! JSON as Go's `encoding/json` prints it, HTML escapes included.

use super::Out;
use super::number;

pub(super) fn write(out: &Out, indent: Option<usize>) -> String {
    let mut text = String::new();
    value(out, indent, &mut text);
    text
}

fn value(out: &Out, indent: Option<usize>, text: &mut String) {
    match out {
        Out::Null => text.push_str("null"),
        Out::Bool(b) => text.push_str(if *b { "true" } else { "false" }),
        Out::Int(n) => text.push_str(&n.to_string()),
        Out::Single(n) => text.push_str(&number::json(&format!("{n:e}"))),
        Out::Double(n) => text.push_str(&number::json(&format!("{n:e}"))),
        Out::Text(s) => string(s, text),
        Out::List(list) => {
            collection(['[', ']'], list, indent, text, |item, indent, text| {
                value(item, indent, text);
            });
        }
        Out::Map(entries) => {
            collection(['{', '}'], entries, indent, text, |(key, item), indent, text| {
                string(key, text);
                text.push_str(if indent.is_some() { ": " } else { ":" });
                value(item, indent, text);
            });
        }
    }
}

fn collection<T>(
    brackets: [char; 2],
    items: &[T],
    indent: Option<usize>,
    text: &mut String,
    write: impl Fn(&T, Option<usize>, &mut String),
) {
    text.push(brackets[0]);
    let inner = indent.map(|n| n + 1);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        line(inner, text);
        write(item, inner, text);
    }
    if !items.is_empty() {
        line(indent, text);
    }
    text.push(brackets[1]);
}

fn line(indent: Option<usize>, text: &mut String) {
    if let Some(level) = indent {
        text.push('\n');
        text.push_str(&"  ".repeat(level));
    }
}

fn string(s: &str, text: &mut String) {
    text.push('"');
    for c in s.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
