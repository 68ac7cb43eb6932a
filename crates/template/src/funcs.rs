//! The functions that templates may call: Go's and docker's.

use std::cmp::Ordering;

use serde_json::Value;

use crate::format::{self, print, sprintf};
use crate::value::{Shape, Val, sorted, type_name};

pub(crate) enum Error {
    /// The call itself is wrong.
    Usage(String),
    /// The argument is not of this type.
    Type(&'static str),
    /// The function failed.
    Call(String),
}

/// Names and how many arguments each takes.
const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("and", 1, usize::MAX),
    ("call", 1, usize::MAX),
    ("eq", 1, usize::MAX),
    ("ge", 2, 2),
    ("gt", 2, 2),
    ("html", 0, usize::MAX),
    ("index", 1, usize::MAX),
    ("join", 2, 2),
    ("js", 0, usize::MAX),
    ("json", 1, 1),
    ("le", 2, 2),
    ("len", 1, 1),
    ("lower", 1, 1),
    ("lt", 2, 2),
    ("ne", 2, 2),
    ("not", 1, 1),
    ("or", 1, usize::MAX),
    ("pad", 3, 3),
    ("print", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("println", 0, usize::MAX),
    ("slice", 1, 4),
    ("split", 2, 2),
    ("title", 1, 1),
    ("truncate", 2, 2),
    ("upper", 1, 1),
    ("urlquery", 0, usize::MAX),
];

/// Docker's functions that leave a table's headers alone.
const HEADER_FUNCTIONS: &[&str] = &["json", "split", "join", "title", "lower", "upper", "truncate"];

pub(crate) fn exists(name: &str) -> bool {
    FUNCTIONS.iter().any(|(n, ..)| *n == name)
}

pub(crate) fn call<'d>(name: &str, args: Vec<Val<'d>>, headers: bool) -> Result<Val<'d>, Error> {
    if let Some((_, least, most)) = FUNCTIONS.iter().find(|(n, ..)| *n == name)
        && (args.len() < *least || args.len() > *most)
    {
        let want = if least == most { least.to_string() } else { format!("at least {least}") };
        let message = format!("wrong number of args for {name}: want {want} got {}", args.len());
        return Err(Error::Usage(message));
    }
    if headers && HEADER_FUNCTIONS.contains(&name) {
        return args.into_iter().next().ok_or_else(|| Error::Usage("no argument".to_owned()));
    }
    match name {
        "index" => index(args),
        "slice" => slice(&args),
        _ => plain(name, &args).map(Val::Own),
    }
}

fn plain(name: &str, args: &[Val<'_>]) -> Result<Value, Error> {
    Ok(match name {
        "eq" => eq(args)?.into(),
        "ne" => (!equal(&args[0], &args[1])?).into(),
        "lt" => (order(&args[0], &args[1])? == Ordering::Less).into(),
        "le" => (order(&args[0], &args[1])? != Ordering::Greater).into(),
        "gt" => (order(&args[0], &args[1])? == Ordering::Greater).into(),
        "ge" => (order(&args[0], &args[1])? != Ordering::Less).into(),
        "not" => (!args[0].is_true()).into(),
        "len" => len(&args[0])?.into(),
        "print" => join_print(args).into(),
        "println" => println(args).into(),
        "printf" => {
            let rest: Vec<Option<&Value>> = args[1..].iter().map(Val::json).collect();
            sprintf(text(&args[0])?, &rest).into()
        }
        "html" => html(&join_print(args)).into(),
        "js" => js(&join_print(args)).into(),
        "urlquery" => url_query(&join_print(args)).into(),
        "json" => to_json(args[0].json()).into(),
        "lower" => text(&args[0])?.to_lowercase().into(),
        "upper" => text(&args[0])?.to_uppercase().into(),
        "title" => title(text(&args[0])?).into(),
        "split" => split(text(&args[0])?, text(&args[1])?),
        "join" => join(&args[0], text(&args[1])?)?.into(),
        "pad" => pad(text(&args[0])?, number(&args[1])?, number(&args[2])?).into(),
        "truncate" => truncate(text(&args[0])?, number(&args[1])?)?.into(),
        _ => {
            let message = format!("non-function of type {}", args[0].type_name());
            return Err(Error::Call(message));
        }
    })
}

fn text<'v>(value: &'v Val<'_>) -> Result<&'v str, Error> {
    match value.json() {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Error::Type("string")),
    }
}

fn number(value: &Val<'_>) -> Result<i64, Error> {
    match value.json().and_then(Value::as_i64) {
        Some(number) => Ok(number),
        None => Err(Error::Type("int")),
    }
}

fn eq(args: &[Val<'_>]) -> Result<bool, Error> {
    if args.len() < 2 {
        return Err(Error::Call("missing argument for comparison".to_owned()));
    }
    for other in &args[1..] {
        if equal(&args[0], other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Val<'_>, b: &Val<'_>) -> Result<bool, Error> {
    let (Some(left), Some(right)) = (a.json(), b.json()) else {
        return Ok(is_nil(a) && is_nil(b));
    };
    if left.is_null() || right.is_null() {
        return Ok(left == right);
    }
    if type_name(left) != type_name(right) {
        return Err(Error::Call("incompatible types for comparison".to_owned()));
    }
    if left.is_array() || left.is_object() {
        return Err(Error::Call(format!(
            "non-comparable type {}: {}",
            print(Some(left)),
            type_name(left)
        )));
    }
    Ok(left == right)
}

fn is_nil(value: &Val<'_>) -> bool {
    matches!(value.json(), None | Some(Value::Null))
}

fn order(a: &Val<'_>, b: &Val<'_>) -> Result<Ordering, Error> {
    let invalid = || Error::Call("invalid type for comparison".to_owned());
    let (left, right) = (a.json().ok_or_else(invalid)?, b.json().ok_or_else(invalid)?);
    if type_name(left) != type_name(right) {
        return Err(Error::Call("incompatible types for comparison".to_owned()));
    }
    match (left, right) {
        (Value::String(x), Value::String(y)) => Ok(x.cmp(y)),
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => Ok(x.cmp(&y)),
            _ => x.as_f64().partial_cmp(&y.as_f64()).ok_or_else(invalid),
        },
        _ => Err(invalid()),
    }
}

fn len(value: &Val<'_>) -> Result<usize, Error> {
    match value.json() {
        Some(Value::String(s)) => Ok(s.len()),
        Some(Value::Array(a)) => Ok(a.len()),
        Some(Value::Object(o)) => Ok(o.len()),
        // A list or map that holds nothing is null in docker's JSON.
        Some(Value::Null) => Ok(0),
        None => Err(Error::Call("len of nil pointer".to_owned())),
        Some(other) => Err(Error::Call(format!("len of type {}", type_name(other)))),
    }
}

fn index(args: Vec<Val<'_>>) -> Result<Val<'_>, Error> {
    let mut args = args.into_iter();
    let Some(mut value) = args.next() else { return Ok(Val::Absent) };
    for key in args {
        value = index_one(value, &key)?;
    }
    Ok(value)
}

fn index_one<'d>(value: Val<'d>, key: &Val<'_>) -> Result<Val<'d>, Error> {
    let shape = value.shape();
    match &value {
        Val::Ref(Value::Object(map), _) => {
            let key = map_key(key)?;
            Ok(map.get(key).map_or_else(|| zero(map), |v| Val::Ref(v, Shape::Struct)))
        }
        Val::Own(Value::Object(map)) => {
            let key = map_key(key)?;
            Ok(map.get(key).cloned().map_or_else(|| zero(map), Val::Own))
        }
        Val::Ref(Value::Array(list), _) => {
            let at = position(key, list.len())?;
            Ok(Val::Ref(&list[at], shape))
        }
        Val::Own(Value::Array(list)) => Ok(Val::Own(list[position(key, list.len())?].clone())),
        Val::Ref(Value::String(text), _) => byte(text, key),
        Val::Own(Value::String(text)) => byte(text, key),
        // A map or list that holds nothing is null in docker's JSON.
        Val::Ref(Value::Null, _) | Val::Own(Value::Null) => match key.json() {
            Some(Value::String(_)) => Ok(Val::Own("".into())),
            _ => Err(Error::Call("index of untyped nil".to_owned())),
        },
        Val::Absent => Err(Error::Call("index of untyped nil".to_owned())),
        other => Err(Error::Call(format!("can't index item of type {}", other.type_name()))),
    }
}

/// What a map of Go gives for a key that it lacks: the zero value of what it holds.
fn zero<'d>(map: &serde_json::Map<String, Value>) -> Val<'d> {
    match map.values().all(Value::is_string) {
        true => Val::Own("".into()),
        false => Val::Absent,
    }
}

fn map_key<'v>(key: &'v Val<'_>) -> Result<&'v str, Error> {
    match key.json() {
        Some(Value::String(key)) => Ok(key),
        None | Some(Value::Null) => {
            Err(Error::Call("value is nil; should be of type string".to_owned()))
        }
        Some(other) => {
            Err(Error::Call(format!("value has type {}; should be string", type_name(other))))
        }
    }
}

fn position(key: &Val<'_>, length: usize) -> Result<usize, Error> {
    let at = match key.json() {
        Some(Value::Number(n)) if !n.is_f64() => n.as_i64().unwrap_or(i64::MAX),
        None | Some(Value::Null) => {
            return Err(Error::Call("cannot index slice/array with nil".to_owned()));
        }
        Some(other) => {
            let message = format!("cannot index slice/array with type {}", type_name(other));
            return Err(Error::Call(message));
        }
    };
    match usize::try_from(at) {
        Ok(at) if at < length => Ok(at),
        _ => Err(Error::Call(format!("index out of range: {at}"))),
    }
}

fn byte<'d>(text: &str, key: &Val<'_>) -> Result<Val<'d>, Error> {
    Ok(Val::Own(text.as_bytes()[position(key, text.len())?].into()))
}

fn slice<'d>(args: &[Val<'d>]) -> Result<Val<'d>, Error> {
    let length = len(&args[0])?;
    let mut bounds = [0, length, length];
    for (slot, arg) in bounds.iter_mut().zip(&args[1..]) {
        *slot = position(arg, length + 1)?;
    }
    let [from, to, _] = bounds;
    if from > to {
        return Err(Error::Call(format!("invalid slice index: {from} > {to}")));
    }
    match args[0].json() {
        Some(Value::String(_)) if args.len() == 4 => {
            Err(Error::Call("cannot 3-index slice a string".to_owned()))
        }
        Some(Value::String(text)) => {
            Ok(Val::Own(String::from_utf8_lossy(&text.as_bytes()[from..to]).into()))
        }
        Some(Value::Array(list)) => Ok(Val::Own(list[from..to].to_vec().into())),
        _ => Err(Error::Call(format!("can't slice item of type {}", args[0].type_name()))),
    }
}

/// Go's `Sprint`: a space between two operands when neither is a string.
fn join_print(args: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut previous_is_text = true;
    for (index, arg) in args.iter().enumerate() {
        let is_text = arg.json().is_some_and(Value::is_string);
        if index > 0 && !is_text && !previous_is_text {
            out.push(' ');
        }
        out.push_str(&format::inner(arg.json()));
        previous_is_text = is_text;
    }
    out
}

fn println(args: &[Val<'_>]) -> String {
    let words: Vec<String> = args.iter().map(|a| format::inner(a.json())).collect();
    format!("{}\n", words.join(" "))
}

/// Compact JSON as Go's encoder writes it without HTML escaping: map keys in the data's order,
/// as docker's structures have them.
fn to_json(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "null".to_owned(), Value::to_string);
    // Go escapes these two even so.
    text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn title(text: &str) -> String {
    let mut previous = ' ';
    text.chars()
        .map(|c| {
            let starts = !(previous.is_alphanumeric() || previous == '_' || previous == '\'');
            previous = c;
            if starts { c.to_uppercase().next().unwrap_or(c) } else { c }
        })
        .collect()
}

fn split(text: &str, separator: &str) -> Value {
    match separator {
        "" => text.chars().map(String::from).collect(),
        separator => text.split(separator).collect(),
    }
}

fn join(list: &Val<'_>, separator: &str) -> Result<String, Error> {
    let Some(Value::Array(items)) = list.json() else {
        return match list.json() {
            Some(Value::Null) => Ok(String::new()),
            _ => Err(Error::Type("[]string")),
        };
    };
    let words: Vec<String> = items.iter().map(|v| format::inner(Some(v))).collect();
    Ok(words.join(separator))
}

/// No padding is wider than this; a template is not a way to use up memory.
const MAX_PAD: usize = 4096;

fn pad(text: &str, before: i64, after: i64) -> String {
    let spaces = |n: i64| " ".repeat(usize::try_from(n).unwrap_or(0).min(MAX_PAD));
    match text {
        "" => String::new(),
        text => format!("{}{text}{}", spaces(before), spaces(after)),
    }
}

fn truncate(text: &str, length: i64) -> Result<String, Error> {
    let length = usize::try_from(length).map_err(|_| {
        Error::Call(format!("runtime error: slice bounds out of range [:{length}]"))
    })?;
    match text.len() < length {
        true => Ok(text.to_owned()),
        false => Ok(String::from_utf8_lossy(&text.as_bytes()[..length]).into_owned()),
    }
}

fn html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A map printed as Go prints it.
pub(crate) fn print_map(map: &serde_json::Map<String, Value>) -> String {
    let entries: Vec<String> =
        sorted(map).into_iter().map(|(k, v)| format!("{k}:{}", format::inner(Some(v)))).collect();
    format!("map[{}]", entries.join(" "))
}
