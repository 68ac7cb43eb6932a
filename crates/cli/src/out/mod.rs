//! What verbs print: tables, templates, JSON, progress.

pub mod copying;
pub mod progress;
pub mod shape;
pub mod table;

pub use table::{Report, Row};

use serde_json::Value;

/// JSON with one level per line, as docker's inspect prints it.
pub fn indent(value: &Value, unit: &str) -> String {
    let mut out = String::new();
    write_indented(value, unit, 0, &mut out);
    out
}

fn write_indented(value: &Value, unit: &str, depth: usize, out: &mut String) {
    let (open, close, parts): (char, char, Vec<(Option<&String>, &Value)>) = match value {
        Value::Object(map) => ('{', '}', map.iter().map(|(k, v)| (Some(k), v)).collect()),
        Value::Array(list) => ('[', ']', list.iter().map(|v| (None, v)).collect()),
        scalar => {
            out.push_str(&scalar.to_string());
            return;
        }
    };
    out.push(open);
    for (index, (key, part)) in parts.iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { ",\n" });
        out.push_str(&unit.repeat(depth + 1));
        if let Some(key) = key {
            out.push_str(&format!("{}: ", Value::from(key.as_str())));
        }
        write_indented(part, unit, depth + 1, out);
    }
    if !parts.is_empty() {
        out.push('\n');
        out.push_str(&unit.repeat(depth));
    }
    out.push(close);
}

/// JSON as Go's `json.Marshal` writes it: no character that HTML gives a meaning to.
pub fn html_safe(json: &str) -> String {
    // Inside JSON these can only be parts of strings.
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// An id as lists show it: twelve digits, without the algorithm.
pub fn short_id(id: &str) -> String {
    let bare = id.split_once(':').map_or(id, |(_, hex)| hex);
    bare.chars().take(12).collect()
}

/// The text cut to `width` columns, with an ellipsis where something is missing.
pub fn ellipsis(text: &str, width: usize) -> String {
    let columns: usize = text.chars().map(char_width).sum();
    if columns <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += char_width(*c);
        used < width
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push('…');
    cut
}

/// Two columns for East Asian wide characters, one for the rest.
fn char_width(c: char) -> usize {
    let wide = matches!(u32::from(c), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1f64f | 0x20000..=0x3fffd);
    if wide { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_indented_as_go_does_it() {
        let value = json!({"a": [1, {"b": "x"}], "c": {}, "d": []});
        let want = "{\n    \"a\": [\n        1,\n        {\n            \"b\": \"x\"\n        }\n    ],\n    \"c\": {},\n    \"d\": []\n}";
        assert_eq!(indent(&value, "    "), want);
    }

    #[test]
    fn texts_are_cut_by_columns() {
        assert_eq!(ellipsis("abc", 3), "abc");
        assert_eq!(ellipsis("abcd", 3), "ab…");
        assert_eq!(ellipsis("日本語", 4), "日…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
