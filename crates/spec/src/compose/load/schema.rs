//! What may stand where: names, kinds of values, and which attributes are needed.

use std::collections::BTreeSet;

use super::tables::ROOT;
use crate::compose::fault::Fault;
use crate::compose::node::{Map, Node, Value};

/// A kind of scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Int,
    Number,
    Text,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "boolean",
            Self::Int => "integer",
            Self::Number => "number",
            Self::Text => "string",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Null => matches!(value, Value::Null),
            Self::Bool => matches!(value, Value::Bool(_)),
            Self::Int => match value {
                Value::Int(_) => true,
                Value::Float(n) => n.fract() == 0.0,
                _ => false,
            },
            Self::Number => matches!(value, Value::Int(_) | Value::Float(_)),
            Self::Text => matches!(value, Value::Text(_)),
        }
    }
}

/// What a value may look like.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Anything.
    Any,
    /// A scalar of one of these kinds.
    Is(&'static [Kind]),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number between these.
    Between(i64, i64),
    /// A list.
    List(&'static Shape),
    /// A list without repetition.
    Set(&'static Shape),
    /// A mapping with keys of the user's choice.
    Map(&'static Shape),
    /// A mapping with keys that are names of things: letters, digits, `.`, `_`, `-`.
    Named(&'static Shape),
    /// A mapping with these attributes.
    Object(&'static Object),
    /// One of several.
    Or(&'static [Shape]),
}

/// The attributes of a mapping.
pub(super) struct Object {
    pub(super) fields: &'static [(&'static str, Shape)],
    pub(super) required: &'static [&'static str],
    /// Whether `x-` attributes are allowed.
    pub(super) open: bool,
    /// Whether nothing at all is allowed as well.
    pub(super) nullable: bool,
}

/// A violation, and how deep it lies: the deepest is the most telling.
struct Violation {
    depth: usize,
    fault: Fault,
}

type Checked = Result<(), Violation>;

/// Checks a whole file.
pub(in crate::compose) fn validate(root: &Node) -> crate::compose::fault::Result<()> {
    check(root, &ROOT, &mut Vec::new()).map_err(|v| v.fault)
}

fn violation(node: &Node, path: &[&str], depth: usize, what: &str) -> Violation {
    let at = path.join(".");
    let space = if at.is_empty() { "" } else { " " };
    Violation { depth, fault: Fault::at(node.span, format!("{at}{space}{what}")) }
}

fn check<'n>(node: &'n Node, shape: &Shape, path: &mut Vec<&'n str>) -> Checked {
    match shape {
        Shape::Any => Ok(()),
        Shape::Is(kinds) => match kinds.iter().any(|k| k.fits(&node.value)) {
            true => Ok(()),
            false => Err(wrong_kind(node, path, kinds.iter().map(|k| k.name()))),
        },
        Shape::Word(words) => match node.as_text() {
            Some(text) if words.contains(&text) => Ok(()),
            Some(_) => {
                let words: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
                let what = format!("value must be one of {}", words.join(", "));
                Err(violation(node, path, path.len(), &what))
            }
            None => Err(wrong_kind(node, path, ["string"].into_iter())),
        },
        Shape::Between(low, high) => match node.value {
            Value::Int(n) if n < *low => {
                let what = format!("must be greater than or equal to {low}");
                Err(violation(node, path, path.len(), &what))
            }
            Value::Int(n) if n > *high => {
                let what = format!("must be less than or equal to {high}");
                Err(violation(node, path, path.len(), &what))
            }
            Value::Int(_) | Value::Text(_) => Ok(()),
            _ => Err(wrong_kind(node, path, ["integer", "string"].into_iter())),
        },
        Shape::List(element) => elements(node, element, path),
        Shape::Set(element) => {
            elements(node, element, path)?;
            distinct(node, path)
        }
        Shape::Map(value) => entries(node, value, path, |_| true),
        Shape::Named(value) => entries(node, value, path, |name| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }),
        Shape::Object(object) => attributes(node, object, path),
        Shape::Or(shapes) => {
            let mut worst: Option<Violation> = None;
            let depth = path.len();
            for shape in *shapes {
                path.truncate(depth);
                match check(node, shape, path) {
                    Ok(()) => return Ok(()),
                    Err(new) if worst.as_ref().is_none_or(|old| new.depth > old.depth) => {
                        worst = Some(new);
                    }
                    Err(_) => (),
                }
            }
            worst.map_or(Ok(()), Err)
        }
    }
}

fn wrong_kind<'k>(node: &Node, path: &[&str], kinds: impl Iterator<Item = &'k str>) -> Violation {
    let kinds: BTreeSet<&str> = kinds.collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let what = match kinds.split_last() {
        Some((last, [])) => format!("must be a {last}"),
        Some((last, rest)) => format!("must be a {} or {last}", rest.join(", ")),
        None => "is not allowed".to_owned(),
    };
    violation(node, path, path.len(), &what)
}

fn elements<'n>(node: &'n Node, element: &Shape, path: &mut Vec<&'n str>) -> Checked {
    let Value::List(list) = &node.value else {
        return Err(wrong_kind(node, path, ["array"].into_iter()));
    };
    let numbers = &NUMBERS;
    for (at, item) in list.iter().enumerate() {
        path.push(numbers.get(at).copied().unwrap_or("[]"));
        check(item, element, path)?;
        path.pop();
    }
    Ok(())
}

/// The names of a list's first elements in messages.
const NUMBERS: [&str; 20] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    "17", "18", "19",
];

fn distinct(node: &Node, path: &[&str]) -> Checked {
    let list = node.as_list().unwrap_or_default();
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (at, item) in list.iter().enumerate() {
        let Some(text) = item.printed() else { continue };
        if let Some(first) = seen.insert(format!("{}{text}", item.kind()), at) {
            let what = format!("items at {first} and {at} are equal");
            return Err(violation(item, path, path.len(), &what));
        }
    }
    Ok(())
}

fn entries<'n>(
    node: &'n Node,
    value: &Shape,
    path: &mut Vec<&'n str>,
    named: impl Fn(&str) -> bool,
) -> Checked {
    let Value::Map(map) = &node.value else {
        return Err(wrong_kind(node, path, ["mapping"].into_iter()));
    };
    let odd: Vec<&String> = map.keys().filter(|name| !named(name)).collect();
    unknown(map, &odd, path)?;
    for (name, child) in map {
        path.push(name);
        check(child, value, path)?;
        path.pop();
    }
    Ok(())
}

fn attributes<'n>(node: &'n Node, object: &Object, path: &mut Vec<&'n str>) -> Checked {
    let map = match &node.value {
        Value::Map(map) => map,
        Value::Null if object.nullable => return Ok(()),
        _ => return Err(wrong_kind(node, path, ["mapping"].into_iter())),
    };
    let known = |name: &str| object.fields.iter().find(|(field, _)| *field == name);
    let odd: Vec<&String> = map
        .keys()
        .filter(|name| known(name).is_none() && !(object.open && name.starts_with("x-")))
        .collect();
    unknown(map, &odd, path)?;
    if let Some(missing) = object.required.iter().find(|name| !map.contains_key(**name)) {
        let what = format!("missing property '{missing}'");
        return Err(violation(node, path, path.len(), &what));
    }
    let mut worst: Option<Violation> = None;
    let depth = path.len();
    for (name, child) in map {
        let Some((_, shape)) = known(name) else { continue };
        path.push(name);
        let result = check(child, shape, path);
        // A failure leaves its path behind.
        path.truncate(depth);
        if let Err(new) = result
            && worst.as_ref().is_none_or(|old| new.depth > old.depth)
        {
            worst = Some(new);
        }
    }
    worst.map_or(Ok(()), Err)
}

fn unknown(map: &Map, odd: &[&String], path: &[&str]) -> Checked {
    // The first in the file, so that the position helps.
    let Some(first) = odd.iter().min_by_key(|n| (map[**n].key.line, map[**n].key.column)) else {
        return Ok(());
    };
    let names: Vec<String> = odd.iter().map(|name| format!("'{name}'")).collect();
    let what = format!("additional properties {} not allowed", names.join(", "));
    let mut found = violation(&map[*first], path, path.len() + 1, &what);
    found.fault.span = Some(map[*first].key);
    Err(found)
}
