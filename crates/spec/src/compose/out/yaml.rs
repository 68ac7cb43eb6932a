//! YAML as Go's `yaml.v3` prints it with an indent of two.

use std::cmp::Ordering;

use super::Out;
use super::number;
use crate::compose::Value;
use crate::compose::yaml::resolve;

pub(super) fn write(out: &Out) -> String {
    let mut text = String::new();
    block(out, 0, &mut text);
    text.push('\n');
    text
}

/// A value at the beginning of a line that is indented already.
fn block(out: &Out, indent: usize, text: &mut String) {
    match out {
        Out::Map(entries) if !entries.is_empty() => {
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    line(indent, text);
                }
                scalar(key, None, text);
                text.push(':');
                entry(value, indent, text);
            }
        }
        Out::List(list) if !list.is_empty() => {
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    line(indent, text);
                }
                text.push_str("- ");
                match item {
                    Out::Text(s) => scalar(s, Some(indent + 2), text),
                    item => block(item, indent + 2, text),
                }
            }
        }
        Out::Text(s) => scalar(s, Some(indent), text),
        Out::Null => text.push_str("null"),
        Out::Bool(b) => text.push_str(if *b { "true" } else { "false" }),
        Out::Int(n) => text.push_str(&n.to_string()),
        Out::Single(n) => text.push_str(&number::general_single(*n)),
        Out::Double(n) => text.push_str(&number::general_double(*n)),
        Out::Map(_) => text.push_str("{}"),
        Out::List(_) => text.push_str("[]"),
    }
}

/// What follows a key and its colon.
fn entry(value: &Out, indent: usize, text: &mut String) {
    let nested = match value {
        Out::Map(entries) => !entries.is_empty(),
        Out::List(list) => !list.is_empty(),
        _ => false,
    };
    match (nested, value) {
        (true, _) => {
            line(indent + 2, text);
            block(value, indent + 2, text);
        }
        (false, Out::Text(s)) => {
            text.push(' ');
            scalar(s, Some(indent + 2), text);
        }
        (false, _) => {
            text.push(' ');
            block(value, indent + 2, text);
        }
    }
}

fn line(indent: usize, text: &mut String) {
    text.push('\n');
    text.push_str(&" ".repeat(indent));
}

/// A text in the plainest style that reads back as the same text. Keys have no literal style.
fn scalar(s: &str, literal: Option<usize>, text: &mut String) {
    let facts = Facts::of(s);
    let own = matches!(resolve(s), Value::Text(_)) && !is_date(s) && s != "<<";
    let old = is_old_bool(s) || is_base_60(s);
    if s.contains('\n') {
        return match literal.filter(|_| facts.literal) {
            Some(indent) => literal_block(s, indent, text),
            None => double_quoted(s, text),
        };
    }
    if !own || old {
        return double_quoted(s, text);
    }
    match (facts.plain, facts.single) {
        (true, _) => text.push_str(s),
        (false, true) => {
            text.push('\'');
            text.push_str(&s.replace('\'', "''"));
            text.push('\'');
        }
        (false, false) => double_quoted(s, text),
    }
}

/// Which styles can carry a text.
struct Facts {
    plain: bool,
    single: bool,
    literal: bool,
}

impl Facts {
    fn of(s: &str) -> Facts {
        let mut facts = Facts { plain: true, single: true, literal: true };
        if s.starts_with("---") || s.starts_with("...") {
            facts.plain = false;
        }
        let chars: Vec<char> = s.chars().collect();
        let mut before: Option<char> = None;
        for (at, &c) in chars.iter().enumerate() {
            let next = chars.get(at + 1).copied();
            let spaced = next.is_none_or(|n| n == ' ' || n == '\t' || n == '\n');
            let indicator = match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"'
                | '%' | '@' | '`' => at == 0 || (c == '#' && before.is_some_and(is_blank)),
                '?' | '-' => at == 0 && spaced,
                ':' => spaced,
                _ => false,
            };
            if indicator {
                facts.plain = false;
            }
            if c == '\t' || !is_printable(c) {
                (facts.plain, facts.single) = (false, false);
                facts.literal &= c == '\t';
            }
            if c == ' ' && next == Some('\n') {
                facts = Facts { plain: false, single: false, literal: false };
            }
            if c == ' ' && before == Some('\n') {
                (facts.plain, facts.single) = (false, false);
            }
            before = Some(c);
        }
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || *c == '\n');
        if edge(chars.first()) || edge(chars.last()) {
            facts.plain = false;
        }
        if chars.last() == Some(&' ') {
            facts.literal = false;
        }
        facts
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && c != '\u{feff}'
}

fn literal_block(s: &str, indent: usize, text: &mut String) {
    text.push('|');
    if s.starts_with([' ', '\n']) {
        text.push('2');
    }
    match (s.ends_with('\n'), s.ends_with("\n\n") || s == "\n") {
        (false, _) => text.push('-'),
        (true, true) => text.push('+'),
        (true, false) => (),
    }
    for part in s.strip_suffix('\n').unwrap_or(s).split('\n') {
        match part.is_empty() {
            true => text.push('\n'),
            false => {
                line(indent, text);
                text.push_str(part);
            }
        }
    }
}

fn double_quoted(s: &str, text: &mut String) {
    text.push('"');
    for c in s.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\0' => text.push_str("\\0"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{b}' => text.push_str("\\v"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            '\u{1b}' => text.push_str("\\e"),
            '\u{85}' => text.push_str("\\N"),
            '\u{2028}' => text.push_str("\\L"),
            '\u{2029}' => text.push_str("\\P"),
            c if is_printable(c) => text.push(c),
            c if u32::from(c) <= 0xff => text.push_str(&format!("\\x{:02X}", u32::from(c))),
            c if u32::from(c) <= 0xffff => text.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => text.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    text.push('"');
}

/// Texts that YAML 1.1 took for booleans are quoted for those who still read it.
fn is_old_bool(s: &str) -> bool {
    matches!(
        s,
        "y" | "Y"
            | "yes"
            | "Yes"
            | "YES"
            | "on"
            | "On"
            | "ON"
            | "n"
            | "N"
            | "no"
            | "No"
            | "NO"
            | "off"
            | "Off"
            | "OFF"
    )
}

/// `1:30`, a number to the base of 60 in YAML 1.1.
fn is_base_60(s: &str) -> bool {
    let bare = s.strip_prefix(['-', '+']).unwrap_or(s);
    let mut parts = bare.split(':');
    let first = parts.next().unwrap_or_default();
    let whole = first.starts_with(|c: char| c.is_ascii_digit())
        && first.chars().all(|c| c.is_ascii_digit() || c == '_');
    let rest: Vec<&str> = parts.collect();
    let Some((last, middle)) = rest.split_last().filter(|_| whole) else { return false };
    let sixty = |p: &str| matches!(p.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
    middle.iter().all(|p| sixty(p))
        && sixty(last)
        && fraction.chars().all(|c| c.is_ascii_digit() || c == '_')
}

/// A plain date is a timestamp to Go.
fn is_date(s: &str) -> bool {
    let date = s.split(['T', 't', ' ']).next().unwrap_or_default();
    let parts: Vec<&str> = date.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |p: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit())
    };
    let in_range = |p: &str, max: u32| p.parse::<u32>().is_ok_and(|n| (1..=max).contains(&n));
    number(year, 4..=4)
        && number(month, 1..=2)
        && number(day, 1..=2)
        && in_range(month, 12)
        && in_range(day, 31)
        && (s.len() == date.len() || is_time(&s[date.len() + 1..]))
}

fn is_time(s: &str) -> bool {
    s.len() >= 5
        && s.starts_with(|c: char| c.is_ascii_digit())
        && s.chars().all(|c| c.is_ascii_digit() || ":.Z+-".contains(c))
        && s.matches(':').count() >= 2
}

/// The order of keys: digits by their value, letters after what is no letter.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut digits = false;
    for at in 0..a.len().min(b.len()) {
        let (x, y) = (a[at], b[at]);
        if x == y {
            digits = x.is_ascii_digit();
            continue;
        }
        let less = |yes: bool| if yes { Ordering::Less } else { Ordering::Greater };
        return match (x.is_alphabetic(), y.is_alphabetic()) {
            (true, true) => x.cmp(&y),
            (true, false) => less(digits),
            (false, true) => less(!digits),
            (false, false) => numbers(&a, &b, at),
        };
    }
    a.len().cmp(&b.len())
}

fn numbers(a: &[char], b: &[char], at: usize) -> Ordering {
    // A zero after other digits is not a leading zero.
    let inner = (a[at] == '0' || b[at] == '0')
        && a[..at].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let value = |s: &[char]| -> (u64, usize) {
        let digits: Vec<u32> = s[at..].iter().map_while(|c| c.to_digit(10)).collect();
        let start = u64::from(inner);
        let sum = |n: u64, d: &u32| n.saturating_mul(10).saturating_add(u64::from(*d));
        (digits.iter().fold(start, sum), digits.len())
    };
    value(a).cmp(&value(b)).then(a[at].cmp(&b[at]))
}
