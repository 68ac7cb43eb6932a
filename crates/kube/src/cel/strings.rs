//! Functions of texts, and conversions between types.

use super::EvalError;
use super::eval::Machine;
use super::value::{Val, int_of};
use std::sync::Arc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

fn other<T>(why: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Other(why.into()))
}

fn int<'a>(n: usize) -> Val<'a> {
    Val::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Calls a function of this library; nothing where it has none of this name for these values.
pub(super) fn call<'a>(
    m: &mut Machine<'_, 'a>,
    name: &str,
    method: bool,
    args: &[Val<'a>],
) -> Option<Outcome<'a>> {
    match (name, args) {
        ("matches", [Val::Str(s), Val::Str(p)]) => Some(matches(m, s, p)),
        ("strings.quote", [Val::Str(s)]) => Some(Ok(Val::text(quote(s)))),
        ("dyn", [v]) => Some(Ok(v.clone())),
        ("type", [v]) => Some(Ok(Val::Type(v.type_name()))),
        ("int" | "uint" | "double" | "string" | "bytes" | "bool", [v]) if !method => {
            convert(name, v).transpose()
        }
        ("format", [Val::Str(s), list]) if method => Some(match list.elements() {
            Some(list) => format(m, s, &list),
            None => Err(EvalError::Overload),
        }),
        (_, [Val::Str(s), rest @ ..]) if method => on_text(m, name, s, rest).transpose(),
        _ => None,
    }
}

fn on_text<'a>(
    m: &mut Machine<'_, 'a>,
    name: &str,
    s: &str,
    rest: &[Val<'a>],
) -> Result<Option<Val<'a>>, EvalError> {
    m.pay_text(s.len())?;
    Ok(Some(match (name, rest) {
        ("contains", [Val::Str(t)]) => Val::Bool(s.contains(t.as_ref())),
        ("startsWith", [Val::Str(t)]) => Val::Bool(s.starts_with(t.as_ref())),
        ("endsWith", [Val::Str(t)]) => Val::Bool(s.ends_with(t.as_ref())),
        ("lowerAscii", []) => Val::text(s.to_ascii_lowercase()),
        ("upperAscii", []) => Val::text(s.to_ascii_uppercase()),
        ("trim", []) => Val::text(s.trim()),
        ("reverse", []) => Val::text(s.chars().rev().collect::<String>()),
        ("charAt", [i]) => {
            let i = i.as_int()?;
            let count = s.chars().count();
            match usize::try_from(i).ok().filter(|i| *i <= count) {
                Some(i) => Val::text(s.chars().nth(i).map(String::from).unwrap_or_default()),
                None => return other(format!("index out of range: {i}")),
            }
        }
        ("indexOf", [Val::Str(t), from @ ..]) if from.len() < 2 => {
            let from = from.first().map_or(Ok(0), Val::as_int)?;
            find(s, t, from, false)?
        }
        ("lastIndexOf", [Val::Str(t), from @ ..]) if from.len() < 2 => match from.first() {
            Some(from) => find(s, t, from.as_int()?, true)?,
            None => find(s, t, i64::try_from(s.chars().count()).unwrap_or(i64::MAX), true)?,
        },
        ("substring", [from, to @ ..]) if to.len() < 2 => {
            let count = i64::try_from(s.chars().count()).unwrap_or(i64::MAX);
            let from = from.as_int()?;
            let to = to.first().map_or(Ok(count), Val::as_int)?;
            if from < 0 || to < from || to > count {
                return other(format!("invalid substring range. start: {from}, end: {to}"));
            }
            let (skip, take) = (usize::try_from(from), usize::try_from(to - from));
            Val::text(s.chars().skip(skip.unwrap_or(0)).take(take.unwrap_or(0)).collect::<String>())
        }
        ("replace", [Val::Str(a), Val::Str(b), limit @ ..]) if limit.len() < 2 => {
            let limit = limit.first().map_or(Ok(-1), Val::as_int)?;
            let hits =
                if a.is_empty() { s.chars().count() + 1 } else { s.matches(a.as_ref()).count() };
            m.pay_text(hits.saturating_mul(b.len()))?;
            match usize::try_from(limit) {
                Ok(n) => Val::text(s.replacen(a.as_ref(), b, n)),
                Err(_) => Val::text(s.replace(a.as_ref(), b)),
            }
        }
        ("split", [Val::Str(by), limit @ ..]) if limit.len() < 2 => {
            let limit = limit.first().map_or(Ok(-1), Val::as_int)?;
            m.pay(s.len())?;
            Val::list(split(s, by, limit).into_iter().map(Val::text).collect())
        }
        ("find", [Val::Str(p)]) => {
            let found = regex(m, s, p)?.find(s).map(|f| f.as_str().to_owned());
            Val::text(found.unwrap_or_default())
        }
        ("findAll", [Val::Str(p), limit @ ..]) if limit.len() < 2 => {
            let limit = limit.first().map_or(Ok(-1), Val::as_int)?;
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let r = regex(m, s, p)?;
            m.pay(s.len())?;
            Val::list(r.find_iter(s).take(most).map(|f| Val::text(f.as_str())).collect())
        }
        _ => return Ok(None),
    }))
}

fn split(s: &str, by: &str, limit: i64) -> Vec<String> {
    let pieces: Vec<String> = if by.is_empty() {
        s.chars().map(String::from).collect()
    } else {
        s.split(by).map(str::to_owned).collect()
    };
    match usize::try_from(limit) {
        Err(_) => pieces,
        Ok(0) => Vec::new(),
        Ok(n) if n >= pieces.len() => pieces,
        Ok(n) => {
            let mut out = pieces[..n - 1].to_vec();
            out.push(pieces[n - 1..].join(by));
            out
        }
    }
}

/// The position of one text in another, counted in characters.
fn find<'a>(s: &str, t: &str, from: i64, last: bool) -> Outcome<'a> {
    let chars: Vec<char> = s.chars().collect();
    let wanted: Vec<char> = t.chars().collect();
    let Some(from) = usize::try_from(from).ok().filter(|f| *f <= chars.len()) else {
        return other(format!("index out of range: {from}"));
    };
    let fits = |i: &usize| chars[*i..].starts_with(&wanted);
    let found = if last { (0..=from).rev().find(fits) } else { (from..=chars.len()).find(fits) };
    Ok(found.map_or(Val::Int(-1), int))
}

/// Compiles a pattern; that costs by its length, and matching by both.
fn regex(m: &mut Machine<'_, '_>, s: &str, p: &str) -> Result<regex::Regex, EvalError> {
    m.pay((s.len() / 10 + 1).saturating_mul(p.len() / 4 + 1))?;
    m.pay(p.len())?;
    regex::RegexBuilder::new(p)
        .size_limit(1 << 18)
        .build()
        .map_err(|e| EvalError::Other(format!("error parsing regexp: {e}")))
}

fn matches<'a>(m: &mut Machine<'_, 'a>, s: &str, p: &str) -> Outcome<'a> {
    Ok(Val::Bool(regex(m, s, p)?.is_match(s)))
}

/// Joins a list of texts.
pub(super) fn join<'a>(m: &mut Machine<'_, 'a>, list: &[Val<'a>], by: &str) -> Outcome<'a> {
    let parts: Result<Vec<&str>, _> = list.iter().map(Val::as_text).collect();
    let parts = parts?;
    let length: usize = parts.iter().map(|p| p.len() + by.len()).sum();
    m.pay_text(length)?;
    Ok(Val::text(parts.join(by)))
}

/// A text in quotation marks, with the escapes of the language.
fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        let plain = match c {
            '\u{7}' => "\\a",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{b}' => "\\v",
            '\\' => "\\\\",
            '"' => "\\\"",
            c => {
                out.push(c);
                continue;
            }
        };
        out.push_str(plain);
    }
    out.push('"');
    out
}

/// A value as `string` converts it.
pub(super) fn print(v: &Val<'_>) -> Result<String, EvalError> {
    Ok(match v {
        Val::Str(s) => s.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(n) => double(*n),
        Val::Bool(b) => b.to_string(),
        Val::Bytes(b) => String::from_utf8(b.to_vec()).map_err(|_| {
            EvalError::Other("invalid UTF-8 in bytes, cannot convert to string".to_owned())
        })?,
        Val::Duration(n) => {
            // In seconds, as the language prints it.
            let seconds = n / 1_000_000_000;
            let rest = (n % 1_000_000_000).unsigned_abs();
            if rest == 0 {
                format!("{seconds}s")
            } else {
                format!("{seconds}.{}s", format!("{rest:09}").trim_end_matches('0'))
            }
        }
        Val::Timestamp(n) => super::times::print(*n),
        Val::Quantity(q) => q.to_string(),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(ip, n) => format!("{ip}/{n}"),
        Val::Url(u) => u.to_string(),
        Val::Type(t) => (*t).to_owned(),
        Val::Semver(s) => s.to_string(),
        _ => return Err(EvalError::Overload),
    })
}

fn double(n: f64) -> String {
    if n.is_infinite() {
        return if n > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    n.to_string()
}

fn convert<'a>(to: &str, v: &Val<'a>) -> Result<Option<Val<'a>>, EvalError> {
    let bad = |v: &Val<'_>| {
        EvalError::Other(format!("cannot convert {:?} to {to}", print(v).unwrap_or_default()))
    };
    #[allow(clippy::cast_precision_loss, reason = "as the language converts")]
    Ok(Some(match (to, v) {
        ("string", v) => Val::text(print(v)?),
        ("int", Val::Int(_)) | ("uint", Val::Uint(_)) | ("double", Val::Double(_)) => v.clone(),
        ("bytes", Val::Bytes(_)) | ("bool", Val::Bool(_)) => v.clone(),
        ("int", Val::Uint(n)) => {
            Val::Int(i64::try_from(*n).map_err(|_| EvalError::Other("integer overflow".into()))?)
        }
        ("int", Val::Double(d)) => Val::Int(int_of(*d)?),
        ("int", Val::Str(s)) => Val::Int(s.parse().map_err(|_| bad(v))?),
        ("int", Val::Timestamp(n)) => Val::Int(super::times::seconds(*n)),
        ("int", Val::Duration(n)) => Val::Int(n / 1_000_000_000),
        ("uint", Val::Int(n)) => Val::Uint(
            u64::try_from(*n).map_err(|_| EvalError::Other("unsigned integer overflow".into()))?,
        ),
        ("uint", Val::Double(d)) => Val::Uint(
            u64::try_from(int_of(*d)?)
                .map_err(|_| EvalError::Other("unsigned integer overflow".into()))?,
        ),
        ("uint", Val::Str(s)) => Val::Uint(s.parse().map_err(|_| bad(v))?),
        ("double", Val::Int(n)) => Val::Double(*n as f64),
        ("double", Val::Uint(n)) => Val::Double(*n as f64),
        ("double", Val::Str(s)) => Val::Double(s.parse().map_err(|_| bad(v))?),
        ("bytes", Val::Str(s)) => Val::Bytes(Arc::from(s.as_bytes())),
        ("bool", Val::Str(s)) => Val::Bool(match s.as_ref() {
            "1" | "t" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "false" | "FALSE" | "False" => false,
            _ => return Err(bad(v)),
        }),
        _ => return Ok(None),
    }))
}

/// `'%s'.format([x])`.
fn format<'a>(m: &mut Machine<'_, 'a>, s: &str, args: &[Val<'a>]) -> Outcome<'a> {
    let (mut out, mut args) = (String::new(), args.iter());
    let mut chars = s.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(*d);
                chars.next();
            }
            precision = digits.parse::<usize>().ok().map(|p| p.min(100));
        }
        let verb = match chars.next() {
            Some('%') => {
                out.push('%');
                continue;
            }
            Some(verb) => verb,
            None => return other("unexpected end of string"),
        };
        let Some(v) = args.next() else { return other("index out of range") };
        let piece = piece(verb, precision, v)?;
        m.pay_text(piece.len())?;
        out.push_str(&piece);
    }
    Ok(Val::text(out))
}

fn piece(verb: char, precision: Option<usize>, v: &Val<'_>) -> Result<String, EvalError> {
    #[allow(clippy::cast_precision_loss, reason = "printed with few digits")]
    let number = |v: &Val<'_>| match v {
        Val::Double(d) => Ok(*d),
        Val::Int(n) => Ok(*n as f64),
        Val::Uint(n) => Ok(*n as f64),
        _ => Err(EvalError::Overload),
    };
    Ok(match verb {
        's' => shown(v)?,
        'd' | 'f' | 'e' if endless(v).is_some() => endless(v).unwrap_or_default().to_owned(),
        'd' => match v {
            Val::Int(_) | Val::Uint(_) | Val::Double(_) => print(v)?,
            _ => return Err(EvalError::Overload),
        },
        'f' => format!("{:.*}", precision.unwrap_or(6), number(v)?),
        'e' => scientific(number(v)?, precision.unwrap_or(6)),
        'b' => match v {
            Val::Bool(b) => i32::from(*b).to_string(),
            v => format!("{:b}", v.as_int()?),
        },
        'o' => format!("{:o}", v.as_int()?),
        'x' | 'X' => {
            let hex = match v {
                Val::Str(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(s) => s.iter().map(|b| format!("{b:02x}")).collect(),
                v => format!("{:x}", v.as_int()?),
            };
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        _ => {
            return other(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{verb}\""
            ));
        }
    })
}

/// What a number that is none, or has no end, is called.
fn endless(v: &Val<'_>) -> Option<&'static str> {
    match v {
        Val::Double(d) if d.is_nan() => Some("NaN"),
        Val::Double(d) if *d == f64::INFINITY => Some("Infinity"),
        Val::Double(d) if *d == f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

/// `1.052033e+03`: the exponent has its sign and two digits.
fn scientific(n: f64, precision: usize) -> String {
    let text = format!("{n:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(e) => ('-', e),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn shown(v: &Val<'_>) -> Result<String, EvalError> {
    if let Some(list) = v.elements() {
        let parts: Result<Vec<String>, _> = list.iter().map(shown).collect();
        return Ok(format!("[{}]", parts?.join(", ")));
    }
    if let Some(entries) = v.entries() {
        let mut parts = Vec::new();
        for (k, v) in &entries {
            parts.push(format!("{}: {}", shown(k)?, shown(v)?));
        }
        parts.sort();
        return Ok(format!("{{{}}}", parts.join(", ")));
    }
    match v {
        Val::Null => Ok("null".to_owned()),
        v => endless(v).map_or_else(|| print(v), |t| Ok(t.to_owned())),
    }
}
