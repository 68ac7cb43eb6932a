//! Reads a verb's flags and arguments, with pflag's rules and messages.

use std::collections::HashMap;

use super::near::near;
use super::{Args, Flag, Item, Kind, Verb};
use crate::parse::{duration, size};

/// The flags that were given, by long name, and the arguments.
#[derive(Clone, Debug, Default)]
pub struct Given {
    values: HashMap<&'static str, Vec<String>>,
    /// What is not a flag.
    pub args: Vec<String>,
    /// Whether `--help` was among the flags.
    pub help: bool,
}

impl Given {
    /// Whether the flag was given at all.
    pub fn changed(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Turns a switch on, as if it had been given.
    pub fn switch_on(&mut self, name: &'static str) {
        self.values.entry(name).or_default().push("true".to_owned());
    }

    /// Whether a switch is on.
    pub fn on(&self, name: &str) -> bool {
        self.on_or(name, false)
    }

    /// Whether a switch is on, with its default.
    pub fn on_or(&self, name: &str, default: bool) -> bool {
        self.last(name).map_or(default, |v| parse_bool(v).unwrap_or(default))
    }

    /// The last value of a flag, if given.
    pub fn last(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|v| v.last()).map(String::as_str)
    }

    /// The last value of a flag, or empty.
    pub fn text(&self, name: &str) -> &str {
        self.last(name).unwrap_or_default()
    }

    /// Every value of a flag.
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// A number, or its default. Values were checked when they were read.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.last(name).and_then(|v| parse_int(v).ok()).unwrap_or(default)
    }

    /// A size in bytes, or 0.
    pub fn bytes(&self, name: &str) -> i64 {
        match self.last(name) {
            Some("-1") => -1,
            Some(text) => size::memory(text).unwrap_or(0),
            None => 0,
        }
    }

    /// A duration in nanoseconds, or 0.
    pub fn nanos(&self, name: &str) -> i64 {
        self.last(name).and_then(|v| duration::parse(v).ok()).unwrap_or(0)
    }

    fn put(&mut self, flag: &Flag, value: &str) -> Result<(), String> {
        let value = &check(flag.kind, value).map_err(|why| {
            let name = match flag.short {
                "" => format!("--{}", flag.long),
                short => format!("-{short}, --{}", flag.long),
            };
            format!("invalid argument {} for \"{name}\" flag: {why}", crate::parse::quote(value))
        })?;
        if let Some(new) = flag.replacement() {
            // pflag says so on standard output.
            let told = format!("Flag --{} has been deprecated, use --{new} instead", flag.long);
            crate::app::say_line(told).map_err(|f| f.text)?;
        }
        let list = self.values.entry(flag.same_as.unwrap_or(flag.long)).or_default();
        match flag.kind {
            Kind::Strings | Kind::StrMap => list.extend(value.split(',').map(str::to_owned)),
            _ => list.push(value.to_owned()),
        }
        Ok(())
    }
}

/// Splits `words` into flags and arguments.
pub fn parse(verb: &Verb, words: &[String]) -> Result<Given, String> {
    let mut given = Given::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            given.args.extend(rest.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            read_long(verb, &mut given, long, &mut rest)?;
        } else if word.len() > 1 && word.starts_with('-') {
            read_short(verb, &mut given, &word[1..], &mut rest)?;
        } else {
            given.args.push(word.clone());
            if !verb.interspersed {
                given.args.extend(rest.cloned());
                break;
            }
        }
        if given.help {
            break;
        }
    }
    Ok(given)
}

type Words<'a> = std::slice::Iter<'a, String>;

fn read_long(
    verb: &Verb,
    given: &mut Given,
    word: &str,
    rest: &mut Words<'_>,
) -> Result<(), String> {
    if word.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: --{word}"));
    }
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let Some(flag) = verb.long(name) else {
        if name == "help" {
            given.help = true;
            return Ok(());
        }
        let meant = near(name, verb.flags.iter().flat_map(|f| f.iter()).map(|f| f.long));
        let meant = meant.map(|m| format!(" (did you mean --{m}?)")).unwrap_or_default();
        return Err(format!("unknown flag: --{name}{meant}"));
    };
    match (value, flag.kind) {
        (Some(value), _) => given.put(flag, value),
        (None, Kind::Bool) => given.put(flag, "true"),
        (None, _) => match rest.next() {
            Some(value) => given.put(flag, value),
            None => Err(format!("flag needs an argument: --{name}")),
        },
    }
}

fn read_short(
    verb: &Verb,
    given: &mut Given,
    letters: &str,
    rest: &mut Words<'_>,
) -> Result<(), String> {
    for (at, letter) in letters.char_indices() {
        let Some(flag) = verb.short(letter) else {
            if letter == 'h' {
                given.help = true;
                return Ok(());
            }
            return Err(format!("unknown shorthand flag: {letter:?} in -{}", &letters[at..]));
        };
        let after = &letters[at + letter.len_utf8()..];
        if let Some(value) = after.strip_prefix('=') {
            return given.put(flag, value);
        }
        if flag.kind == Kind::Bool {
            given.put(flag, "true")?;
            continue;
        }
        if !after.is_empty() {
            return given.put(flag, after);
        }
        return match rest.next() {
            Some(value) => given.put(flag, value),
            None => Err(format!("flag needs an argument: {letter:?} in -{}", &letters[at..])),
        };
    }
    Ok(())
}

/// Complains when the number of arguments is wrong, in docker's words.
pub fn check_count(args: Args, count: usize) -> Result<(), (String, &'static str)> {
    let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
    let wrong = match args {
        Args::None if count > 0 => ("accepts no arguments".to_owned(), "Run"),
        Args::AtLeast(n) if count < n => (format!("requires at least {n} {}", plural(n)), "See"),
        Args::AtMost(n) if count > n => (format!("requires at most {n} {}", plural(n)), "Run"),
        Args::Exactly(n) if count != n => (format!("requires {n} {}", plural(n)), "Run"),
        Args::Range(a, b) if count < a || count > b => {
            (format!("requires at least {a} and at most {b} {}", plural(b)), "Run")
        }
        _ => return Ok(()),
    };
    Err(wrong)
}

/// Checks one value and returns it in the form that verbs use.
fn check(kind: Kind, value: &str) -> Result<String, String> {
    let kept = value.to_owned();
    match kind {
        Kind::Bool => parse_bool(value)
            .map(drop)
            .ok_or_else(|| number_error("ParseBool", value, "invalid syntax"))?,
        Kind::Int => parse_int(value).map(drop)?,
        Kind::Uint => parse_uint(value, u64::MAX)?,
        Kind::Uint16 => parse_uint(value, u64::from(u16::MAX))?,
        Kind::Bytes => size::memory(value).map(drop)?,
        Kind::Swap if value != "-1" => size::memory(value).map(drop)?,
        Kind::Duration => duration::parse(value).map(drop)?,
        Kind::Decimal => size::cpus(value).map(drop)?,
        Kind::Filter if !value.is_empty() && !value.contains('=') => {
            return Err("bad format of filter (expected name=value)".to_owned());
        }
        Kind::StrMap => {
            if let Some(pair) = value.split(',').find(|pair| !pair.contains('=')) {
                return Err(format!("{pair} must be formatted as key=value"));
            }
        }
        Kind::Ulimit => crate::parse::ulimit::parse(value).map(drop)?,
        Kind::Mount => crate::parse::mount::parse(value).map(drop)?,
        Kind::Network => crate::parse::network::parse(value).map(drop)?,
        Kind::Gpus => crate::parse::gpus::parse(value).map(drop)?,
        Kind::ListOf(item) => return item.check(value),
        Kind::Sysctls => return Item::Sysctl.check(value),
        Kind::Str | Kind::List | Kind::Strings | Kind::Map | Kind::Filter | Kind::Swap => (),
    }
    Ok(kept)
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn number_error(what: &str, value: &str, why: &str) -> String {
    format!("strconv.{what}: parsing {}: {why}", crate::parse::quote(value))
}

fn parse_int(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1i128, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = magnitude(digits).map_err(|why| number_error("ParseInt", text, why))?;
    i64::try_from(sign * value).map_err(|_| number_error("ParseInt", text, "value out of range"))
}

fn parse_uint(text: &str, max: u64) -> Result<(), String> {
    let value = magnitude(text).map_err(|why| number_error("ParseUint", text, why))?;
    match value <= i128::from(max) {
        true => Ok(()),
        false => Err(number_error("ParseUint", text, "value out of range")),
    }
}

/// Go's base prefix rules: 0x, 0o, 0b, and a leading 0 for octal.
fn magnitude(digits: &str) -> Result<i128, &'static str> {
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return Err("invalid syntax");
    }
    i128::from_str_radix(body, radix).map_err(|_| "value out of range")
}
