//! Go's fmt: how values print, and `printf`.

use serde_json::Value;

use crate::funcs::print_map;
use crate::value::type_name;

/// What a template action prints for a value.
pub(crate) fn print(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "<no value>".to_owned(),
        value => inner(value),
    }
}

/// What `fmt.Sprint` gives, also for parts of lists and maps.
pub fn inner(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "<nil>".to_owned(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => match n.as_f64().filter(|_| n.is_f64()) {
            Some(f) => shortest(f),
            None => n.to_string(),
        },
        Some(Value::String(s)) => s.clone(),
        Some(Value::Array(items)) => {
            let words: Vec<String> = items.iter().map(|v| inner(Some(v))).collect();
            format!("[{}]", words.join(" "))
        }
        Some(Value::Object(map)) => print_map(map),
    }
}

/// Go's `%v` of a float: shortest digits, an exponent below 1e-4 and from 1e21.
fn shortest(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        true => go_exponent(&format!("{value:e}")),
        false => value.to_string(),
    }
}

/// Rust's `1.5e7` as Go's `1.5e+07`.
fn go_exponent(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, number) = match exponent.strip_prefix('-') {
        Some(number) => ('-', number),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{number:0>2}")
}

/// Go's `%.{digits}g`: so many significant digits, no trailing zeros.
pub fn format_g(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = digits.max(1);
    let scientific = format!("{value:.*e}", digits - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let limit = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= limit {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return go_exponent(&format!("{}e{exponent}", trim_zeros(mantissa)));
    }
    let places = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    trim_zeros(&format!("{value:.places$}")).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

/// A string in double quotes as Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fn is_printable(c: char) -> bool {
    let spaces = c.is_whitespace() && c != ' ';
    let hidden = matches!(u32::from(c), 0xad | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe000..=0xf8ff | 0xfff0..=0xfffb);
    !c.is_control() && !spaces && !hidden
}

/// One verb of a format: flags, width, precision.
#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// No field is wider than this; a template is not a way to use up memory.
const MAX_WIDTH: usize = 4096;

/// Go's `Sprintf`.
pub(crate) fn sprintf(format: &str, args: &[Option<&Value>]) -> String {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "-+# 0".contains(*c)) {
            verb.flag(flag);
        }
        verb.width = size(&mut chars, &mut args).unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(size(&mut chars, &mut args).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match args.next() {
                Some(arg) => out.push_str(&verb.format(letter, *arg)),
                None => out.push_str(&format!("%!{letter}(MISSING)")),
            },
        }
    }
    let extra: Vec<String> = args
        .map(|a| match a {
            Some(v) if !v.is_null() => format!("{}={}", type_name(v), inner(Some(v))),
            _ => "<nil>".to_owned(),
        })
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn size<'v>(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    args: &mut impl Iterator<Item = &'v Option<&'v Value>>,
) -> Option<usize> {
    if chars.next_if_eq(&'*').is_some() {
        let number = args.next()?.and_then(Value::as_u64)?;
        return Some(usize::try_from(number).unwrap_or(MAX_WIDTH).min(MAX_WIDTH));
    }
    let mut value = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
        let next = value.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize);
        value = Some(next.min(MAX_WIDTH));
    }
    value
}

impl Verb {
    fn flag(&mut self, flag: char) {
        match flag {
            '-' => self.minus = true,
            '+' => self.plus = true,
            '#' => self.sharp = true,
            ' ' => self.space = true,
            _ => self.zero = true,
        }
    }

    fn format(&self, letter: char, arg: Option<&Value>) -> String {
        let value = arg.filter(|v| !v.is_null());
        if letter == 'T' {
            return self.pad(value.map_or("<nil>", type_name));
        }
        let Some(value) = value else {
            return match letter {
                'v' => self.pad("<nil>"),
                letter => format!("%!{letter}(<nil>)"),
            };
        };
        match value {
            Value::Array(items) if !(self.sharp && letter == 'v') => {
                let words: Vec<String> =
                    items.iter().map(|v| self.format(letter, Some(v))).collect();
                format!("[{}]", words.join(" "))
            }
            Value::Object(_) if letter == 'v' => self.pad(&inner(Some(value))),
            _ => self.scalar(letter, value).unwrap_or_else(|| {
                format!("%!{letter}({}={})", type_name(value), inner(Some(value)))
            }),
        }
    }

    fn scalar(&self, letter: char, value: &Value) -> Option<String> {
        match value {
            Value::String(text) => self.string(letter, text),
            Value::Bool(b) if matches!(letter, 't' | 'v') => Some(self.pad(&b.to_string())),
            Value::Number(n) if n.is_f64() => self.float(letter, n.as_f64()?),
            Value::Number(n) => self.integer(
                letter,
                i128::from(n.as_i64().unwrap_or(0)).max(n.as_u64().map_or(i128::MIN, i128::from)),
            ),
            _ => None,
        }
    }

    fn string(&self, letter: char, text: &str) -> Option<String> {
        let cut: String = match self.precision {
            Some(count) => text.chars().take(count).collect(),
            None => text.to_owned(),
        };
        let hex = |upper: bool| -> String {
            cut.bytes()
                .map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") })
                .collect()
        };
        Some(match letter {
            's' => self.pad(&cut),
            'v' if self.sharp => self.pad(&quote(&cut)),
            'v' => self.pad(&cut),
            'q' if self.sharp && !cut.contains('`') => self.pad(&format!("`{cut}`")),
            'q' => self.pad(&quote(&cut)),
            'x' => self.pad(&hex(false)),
            'X' => self.pad(&hex(true)),
            _ => return None,
        })
    }

    fn integer(&self, letter: char, value: i128) -> Option<String> {
        let magnitude = value.unsigned_abs();
        let digits = match letter {
            'd' | 'v' => magnitude.to_string(),
            'x' if self.sharp => format!("{magnitude:#x}"),
            'x' => format!("{magnitude:x}"),
            'X' if self.sharp => format!("0X{magnitude:X}"),
            'X' => format!("{magnitude:X}"),
            'o' if self.sharp => format!("0{magnitude:o}"),
            'o' => format!("{magnitude:o}"),
            'O' => format!("0o{magnitude:o}"),
            'b' => format!("{magnitude:b}"),
            'c' | 'q' | 'U' => return self.code_point(letter, value),
            _ => return None,
        };
        let digits = format!("{digits:0>width$}", width = self.precision.unwrap_or(0));
        Some(self.signed(value < 0, &digits))
    }

    fn code_point(&self, letter: char, value: i128) -> Option<String> {
        let c = u32::try_from(value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
        Some(match letter {
            'c' => self.pad(&c.to_string()),
            'U' => self.pad(&format!("U+{value:04X}")),
            _ if c == '\'' => self.pad("'\\''"),
            _ if c == '"' => self.pad("'\"'"),
            _ => {
                let quoted = quote(&c.to_string());
                self.pad(&format!("'{}'", &quoted[1..quoted.len() - 1]))
            }
        })
    }

    fn float(&self, letter: char, value: f64) -> Option<String> {
        let magnitude = value.abs();
        let digits = match letter {
            'f' | 'F' => format!("{magnitude:.*}", self.precision.unwrap_or(6)),
            'e' => go_exponent(&format!("{magnitude:.*e}", self.precision.unwrap_or(6))),
            'E' => {
                go_exponent(&format!("{magnitude:.*e}", self.precision.unwrap_or(6))).to_uppercase()
            }
            'g' | 'G' | 'v' => match self.precision {
                Some(digits) => format_g(magnitude, digits),
                None => shortest(magnitude),
            },
            _ => return None,
        };
        Some(self.signed(value.is_sign_negative(), &digits))
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let length = sign.len() + digits.len();
        match self.zero && !self.minus && self.precision.is_none() && length < self.width {
            true => format!("{sign}{digits:0>width$}", width = self.width - sign.len()),
            false => self.pad(&format!("{sign}{digits}")),
        }
    }

    fn pad(&self, text: &str) -> String {
        let width = self.width;
        match (self.minus, self.zero) {
            (true, _) => format!("{text:<width$}"),
            (_, true) => format!("{text:0>width$}"),
            _ => format!("{text:>width$}"),
        }
    }
}
