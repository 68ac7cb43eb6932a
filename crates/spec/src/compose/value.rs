//! The kinds of values that attributes have, each reading itself from a node and writing itself.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::fault::{Fault, Result};
use super::load::interpolate::boolean;
use super::node::{Node, Value};
use super::out::{Form, Out};

/// An attribute's value.
pub(super) trait Field: Sized + Default {
    /// Reads it; what is null is never asked.
    fn read(node: &Node) -> Result<Self>;

    /// Whether YAML leaves it out.
    fn is_zero(&self) -> bool;

    /// Whether JSON leaves it out: Go never takes a struct for empty.
    fn is_empty(&self) -> bool {
        self.is_zero()
    }

    /// How it is printed.
    fn write(&self, form: Form) -> Out;
}

/// Reads an attribute, null being its zero value.
pub(super) fn read<T: Field>(node: &Node) -> Result<T> {
    if node.is_null() { Ok(T::default()) } else { T::read(node) }
}

fn wrong<T>(node: &Node, wanted: &str) -> Result<T> {
    Err(Fault::at(node.span, format!("a {wanted} is expected, not a {}", node.kind())))
}

impl Field for String {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                Ok(node.printed().unwrap_or_default())
            }
            _ => wrong(node, "string"),
        }
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, _: Form) -> Out {
        Out::Text(self.clone())
    }
}

impl Field for bool {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Bool(yes) => Ok(*yes),
            Value::Text(text) => boolean(text)
                .ok_or_else(|| Fault::at(node.span, format!("invalid boolean: {text}"))),
            _ => wrong(node, "boolean"),
        }
    }

    fn is_zero(&self) -> bool {
        !self
    }

    fn write(&self, _: Form) -> Out {
        Out::Bool(*self)
    }
}

impl Field for i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "as Go reads a fraction where it wants none"
    )]
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Int(n) => Ok(*n),
            Value::Float(n) => Ok(*n as i64),
            Value::Text(text) => text
                .parse()
                .map_err(|_| Fault::at(node.span, format!("{text:?} is not a whole number"))),
            _ => wrong(node, "number"),
        }
    }

    fn is_zero(&self) -> bool {
        *self == 0
    }

    fn write(&self, _: Form) -> Out {
        Out::Int(*self)
    }
}

impl Field for f32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "numbers of CPUs are of 32 bits in the hash"
    )]
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Int(n) => Ok(*n as f32),
            Value::Float(n) => Ok(*n as f32),
            Value::Text(text) => {
                text.parse().map_err(|_| Fault::at(node.span, format!("{text:?} is not a number")))
            }
            _ => wrong(node, "number"),
        }
    }

    fn is_zero(&self) -> bool {
        *self == 0.0
    }

    fn write(&self, _: Form) -> Out {
        Out::Single(*self)
    }
}

impl<T: Field> Field for Option<T> {
    fn read(node: &Node) -> Result<Self> {
        T::read(node).map(Some)
    }

    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn write(&self, form: Form) -> Out {
        self.as_ref().map_or(Out::Null, |value| value.write(form))
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::List(list) => list.iter().map(read).collect(),
            _ => wrong(node, "list"),
        }
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        Out::List(self.iter().map(|item| item.write(form)).collect())
    }
}

impl<T: Field> Field for BTreeMap<String, T> {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Map(map) => map.iter().map(|(k, n)| Ok((k.clone(), read(n)?))).collect(),
            _ => wrong(node, "mapping"),
        }
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        Out::sorted(self.iter().map(|(k, v)| (k.clone(), v.write(form))).collect(), form)
    }
}

/// Declares a type that wraps another and is used like it.
macro_rules! wrapper {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name(pub $inner);

        impl Deref for $name {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $inner {
                &mut self.0
            }
        }
    };
}

wrapper! {
    /// A text, or a list of texts and numbers.
    Texts(Vec<String>)
}

impl Field for Texts {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Text(text) => Ok(Self(vec![text.clone()])),
            _ => Vec::read(node).map(Self),
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        self.0.write(form)
    }
}

wrapper! {
    /// `KEY=value` pairs; without a value, what the environment says or nothing.
    Pairs(BTreeMap<String, Option<String>>)
}

impl Field for Pairs {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Map(map) => {
                let value = |n: &Node| if n.is_null() { None } else { n.printed() };
                Ok(Self(map.iter().map(|(k, n)| (k.clone(), value(n))).collect()))
            }
            Value::List(list) => list.iter().map(pair).collect::<Result<_>>().map(Self),
            _ => wrong(node, "mapping"),
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        self.0.write(form)
    }
}

fn pair(node: &Node) -> Result<(String, Option<String>)> {
    let text = node.printed().unwrap_or_default();
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text.as_str(), None),
    };
    match key.ends_with(char::is_whitespace) {
        true => {
            let text = format!("environment variable {key} is declared with a trailing space");
            Err(Fault::at(node.span, text))
        }
        false => Ok((key.to_owned(), value)),
    }
}

wrapper! {
    /// Labels and the like: `KEY=value` pairs; without a value, the empty one.
    Labels(BTreeMap<String, String>)
}

impl Field for Labels {
    fn read(node: &Node) -> Result<Self> {
        let value =
            |n: &Node| if n.is_null() { String::new() } else { n.printed().unwrap_or_default() };
        match &node.value {
            Value::Map(map) => Ok(Self(map.iter().map(|(k, n)| (k.clone(), value(n))).collect())),
            Value::List(list) => Ok(Self(
                list.iter()
                    .map(|n| {
                        let text = n.printed().unwrap_or_default();
                        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
                        (key.to_owned(), value.to_owned())
                    })
                    .collect(),
            )),
            _ => wrong(node, "mapping"),
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        self.0.write(form)
    }
}

wrapper! {
    /// Names with their addresses.
    Hosts(BTreeMap<String, Vec<String>>)
}

impl Hosts {
    /// `name<separator>address` texts, sorted.
    pub fn lines(&self, separator: &str) -> Vec<String> {
        let mut lines: Vec<String> = self
            .0
            .iter()
            .flat_map(|(host, ips)| ips.iter().map(move |ip| format!("{host}{separator}{ip}")))
            .collect();
        lines.sort();
        lines
    }

    fn add(&mut self, node: &Node, host: &str, ip: &str) -> Result<()> {
        if host.is_empty() || host.contains([':', '=']) {
            return Err(Fault::at(node.span, format!("bad host name '{host}'")));
        }
        let bare = ip.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(ip);
        self.0.entry(host.to_owned()).or_default().push(bare.to_owned());
        Ok(())
    }
}

impl Field for Hosts {
    fn read(node: &Node) -> Result<Self> {
        let mut hosts = Self::default();
        match &node.value {
            Value::Map(map) => {
                for (host, value) in map {
                    match &value.value {
                        Value::List(list) => list.iter().try_for_each(|n| {
                            hosts.add(n, host, &n.printed().unwrap_or_default())
                        })?,
                        Value::Null => hosts.add(value, host, "")?,
                        _ => hosts.add(value, host, &value.printed().unwrap_or_default())?,
                    }
                }
            }
            Value::List(list) => {
                for item in list {
                    let text = item.printed().unwrap_or_default();
                    let parts = text.split_once('=').or_else(|| text.split_once(':'));
                    let Some((host, ips)) = parts else {
                        let why = format!("invalid additional host, missing IP: {text}");
                        return Err(Fault::at(item.span, why));
                    };
                    ips.split(',').try_for_each(|ip| hosts.add(item, host, ip))?;
                }
            }
            _ => return wrong(node, "mapping"),
        }
        Ok(hosts)
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        self.lines("=").write(form)
    }
}

wrapper! {
    /// A command line; `None` leaves the image's, an empty one clears it.
    Command(Option<Vec<String>>)
}

impl Field for Command {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Text(text) => {
                words(text).map(|w| Self(Some(w))).map_err(|why| Fault::at(node.span, why))
            }
            _ => Vec::read(node).map(|words| Self(Some(words))),
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_none()
    }

    fn write(&self, form: Form) -> Out {
        self.0.write(form)
    }
}

/// Splits a command line as go-shellwords does: quotes and backslashes count, and an operator of
/// the shell ends it.
pub fn words(line: &str) -> std::result::Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let (mut escaped, mut single, mut double) = (false, false, false);
    let (mut backquote, mut dollar) = (false, false);
    for c in line.chars() {
        let quoted = single || double || backquote || dollar;
        match c {
            _ if escaped => escaped = false,
            '\\' if !single => {
                escaped = true;
                continue;
            }
            ' ' | '\t' | '\r' | '\n' if !quoted => {
                out.extend(word.take());
                continue;
            }
            '`' if !single && !double && !dollar => backquote = !backquote,
            '"' if !single && !dollar => {
                double = !double;
                word.get_or_insert_default();
                continue;
            }
            '\'' if !double && !dollar => {
                single = !single;
                word.get_or_insert_default();
                continue;
            }
            '(' if !single && !double && !backquote => {
                match !dollar && word.as_deref().is_some_and(|w| w.ends_with('$')) {
                    true => dollar = true,
                    false => return Err(format!("invalid command line string: {line}")),
                }
            }
            ')' if !single && !double && !backquote => dollar = !dollar,
            ';' | '&' | '|' | '<' | '>' if !quoted => {
                if c == '>'
                    && word.as_deref().is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()))
                {
                    word = None;
                }
                break;
            }
            _ => (),
        }
        word.get_or_insert_default().push(c);
    }
    if escaped || single || double || backquote || dollar {
        return Err(format!("invalid command line string: {line}"));
    }
    out.extend(word);
    Ok(out)
}

wrapper! {
    /// A probe: `CMD`, `CMD-SHELL` or `NONE` and what follows.
    Test(Vec<String>)
}

impl Field for Test {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Text(text) => Ok(Self(vec!["CMD-SHELL".to_owned(), text.clone()])),
            _ => Vec::read(node).map(Self),
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        self.0.write(form)
    }
}

/// A size in bytes, written as a text such as `512m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub i64);

impl Field for Bytes {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Int(n) => Ok(Self(*n)),
            Value::Text(text) => bytes(text)
                .map(Self)
                .ok_or_else(|| Fault::at(node.span, format!("invalid size: '{text}'"))),
            // As Go's Compose, which has no fractions of a byte.
            _ => Ok(Self(0)),
        }
    }

    fn is_zero(&self) -> bool {
        self.0 == 0
    }

    fn write(&self, _: Form) -> Out {
        Out::Text(self.0.to_string())
    }
}

/// `512m` and the like, in powers of 1024.
#[expect(clippy::cast_possible_truncation, reason = "sizes below 2^63; more saturates")]
pub fn bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let number: f64 = lower[..end].trim_end().parse().ok()?;
    let power = match lower[end..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    (number >= 0.0).then(|| (number * 1024f64.powi(power)) as i64)
}

/// A duration in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duration(pub i64);

impl Field for Duration {
    fn read(node: &Node) -> Result<Self> {
        let text = node.printed().unwrap_or_default();
        duration(&text)
            .map(Self)
            .ok_or_else(|| Fault::at(node.span, format!("invalid duration: {text:?}")))
    }

    fn is_zero(&self) -> bool {
        self.0 == 0
    }

    fn write(&self, _: Form) -> Out {
        Out::Text(self.to_string())
    }
}

impl fmt::Display for Duration {
    /// As Go prints it: `1h0m30s`, `1.5s`, `20ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let fraction = |value: u64, unit: u64| {
            let (whole, rest) = (value / unit, value % unit);
            let digits = unit.ilog10() as usize;
            let rest = format!("{rest:0digits$}");
            match rest.trim_end_matches('0') {
                "" => whole.to_string(),
                rest => format!("{whole}.{rest}"),
            }
        };
        let seconds = nanos / 1_000_000_000;
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", fraction(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", fraction(nanos, 1_000_000)),
            _ => {
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", fraction(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

/// `1w2d3h4m5s6ms` and any part of it, with fractions, in nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "durations are far below 292 years; more saturates"
)]
pub fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86400e9,
            "w" => 604_800e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Some((sign * total).round() as i64)
}

/// Permission bits, written in octal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode(pub i64);

impl Field for Mode {
    fn read(node: &Node) -> Result<Self> {
        match &node.value {
            Value::Text(text) => i64::from_str_radix(text, 8)
                .map(Self)
                .map_err(|_| Fault::at(node.span, format!("invalid mode: {text}"))),
            _ => i64::read(node).map(Self),
        }
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, _: Form) -> Out {
        Out::Text(format!("0{:o}", self.0))
    }
}

/// A number of devices; -1 for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(pub i64);

impl Field for Count {
    fn read(node: &Node) -> Result<Self> {
        match node.as_text() {
            Some(text) if text.eq_ignore_ascii_case("all") => Ok(Self(-1)),
            Some(text) if text.parse::<i64>().is_err() => {
                let why =
                    format!("invalid value {text:?}, the only value allowed is 'all' or a number");
                Err(Fault::at(node.span, why))
            }
            _ => i64::read(node).map(Self),
        }
    }

    fn is_zero(&self) -> bool {
        self.0 == 0
    }

    fn write(&self, _: Form) -> Out {
        Out::Int(self.0)
    }
}

/// A limit: one number for both, or one for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ulimit {
    /// Both limits, when not zero.
    pub single: i64,
    /// The soft limit.
    pub soft: i64,
    /// The hard limit.
    pub hard: i64,
}

impl Field for Ulimit {
    fn read(node: &Node) -> Result<Self> {
        let part = |name: &str| node.get(name).map_or(Ok(0), i64::read);
        match node.as_map() {
            Some(_) => Ok(Self { single: 0, soft: part("soft")?, hard: part("hard")? }),
            None => Ok(Self { single: i64::read(node)?, soft: 0, hard: 0 }),
        }
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, form: Form) -> Out {
        if self.single != 0 {
            return Out::Int(self.single);
        }
        let parts = [("soft", self.soft), ("hard", self.hard)];
        let kept = parts.into_iter().filter(|(_, n)| form == Form::Yaml || *n != 0);
        Out::Map(kept.map(|(name, n)| (name.to_owned(), Out::Int(n))).collect())
    }
}

/// An SSH key or agent of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshKeys(pub BTreeMap<String, Option<String>>);

impl Field for SshKeys {
    fn read(node: &Node) -> Result<Self> {
        Pairs::read(node).map(|pairs| Self(pairs.0))
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, _: Form) -> Out {
        let line = |(id, path): (&String, &Option<String>)| match path {
            None => Out::Text(id.clone()),
            Some(path) => Out::Text(format!("{id}: {path}")),
        };
        Out::List(self.0.iter().map(line).collect())
    }
}

/// Options that may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultiOptions(pub BTreeMap<String, Vec<String>>);

impl Field for MultiOptions {
    fn read(node: &Node) -> Result<Self> {
        let Some(map) = node.as_map() else { return wrong(node, "mapping") };
        let values = |n: &Node| match n.as_list() {
            Some(list) => list.iter().filter_map(Node::printed).collect(),
            None => n.printed().into_iter().collect(),
        };
        Ok(Self(map.iter().map(|(k, n)| (k.clone(), values(n))).collect()))
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, form: Form) -> Out {
        self.0.write(form)
    }
}

/// `x-` attributes, which Compose carries along.
#[derive(Clone, Debug, Default)]
pub struct Extensions(pub BTreeMap<String, Node>);

impl PartialEq for Extensions {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((ka, a), (kb, b))| ka == kb && a.same(b))
    }
}

impl Extensions {
    pub(super) fn read(node: &Node) -> Self {
        let Some(map) = node.as_map() else { return Self::default() };
        let own = |k: &String| k.starts_with("x-") && k != super::load::CONTENT;
        Self(map.iter().filter(|(k, _)| own(k)).map(|(k, n)| (k.clone(), n.clone())).collect())
    }

    pub(super) fn write(&self, form: Form) -> Vec<(String, Out)> {
        match Out::sorted(self.0.iter().map(|(k, n)| (k.clone(), n.written(form))).collect(), form)
        {
            Out::Map(entries) => entries,
            _ => Vec::new(),
        }
    }
}
